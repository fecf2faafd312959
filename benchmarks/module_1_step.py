"""Is a training step of Module I faster than the same step in PyTorch?

    python benchmarks/module_1_step.py                    # 8 labels on a CPU, minutes
    python benchmarks/module_1_step.py --small            # tiny encoders, seconds
    python benchmarks/module_1_step.py --device=gpu       # 1,024 labels, bfloat16, torch.compile

The paper's Module I: ViT-B/32 with its last block trained, DistilBERT-base trained as a
whole, and A_S, on labels with two datapoints each. The sides alternate in one process, on the same
batches (batches.py), from the same weights.

A whole step counts on each side. The batch goes from the host's memory to the device, images as
bytes, which are normalised there. All descriptors are encoded once. Loss, gradient and AdamW follow
(theirs is torch's fused one), until all is done and the loss is a number on the host. On a GPU four
steps are timed together, and either side copies the next batch while it computes: theirs from
page-locked memory, on a stream for copies. Reading and padding of batches, which loaders do ahead
of time, and compilation do not count. Ours packs several texts into a row and pads rows and images
to buckets, like our loader: this is part of the comparison. Theirs pads only texts, to the longest;
under torch.compile it pads all texts to 32 tokens, and their number and the images to the same
buckets, or it would compile for every batch. With bfloat16 theirs is autocast, in the whole model;
ours multiplies in bfloat16 in the encoders.

A third side is ours with cached trunk tokens: the outputs of the frozen blocks of the ViT are
constant, so they are computed before the clock starts.

`needed_tflop` is the least work of a step (flops.py), `mfu` this over the time and the peak of the
device. Limits: 0.9 of eager torch, or 0.25 with cached trunk tokens; an MFU of 0.4 at least.
"""

from step_race import main

if __name__ == "__main__":
    main("module_1", __doc__ or "", ("labels", 8, 1024))
