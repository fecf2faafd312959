"""Is a training step of Module I faster than the same step in PyTorch?

    python benchmarks/module_1_step.py                    # 8 labels on a CPU, minutes
    python benchmarks/module_1_step.py --small            # tiny encoders, seconds
    python benchmarks/module_1_step.py --device=gpu       # 1,024 labels, bfloat16, torch.compile

ViT-B/32, of which the last block trains, and DistilBERT-base, all of which trains, with A_S: the
paper's Module I, on labels with two datapoints each. The sides take turns in one process, on the
same batches (batches.py), from the same weights.

Counted on each side is a whole step: the batch goes from the host's memory to the device, images as
bytes, are normalised there, all descriptors are encoded once, the loss, its gradient, AdamW (theirs
is torch's fused one), until all is done and the loss is a number on the host. On a GPU four steps
are timed together, and either side copies the next batch while it computes: theirs from page-locked
memory, on a stream for copies. Not counted: reading and padding of batches, which loaders do ahead
of time, and compilation. Ours packs texts several to a row and pads rows and images to buckets, as
our loader does: part of what is compared. Theirs pads texts to the longest and nothing else; under
torch.compile all texts to 32 tokens, and their number and the images to the same buckets, or it
would compile for every batch. With bfloat16 theirs is autocast, in all of the model; ours
multiplies in bfloat16 in the encoders.

A third side is ours with cached trunk tokens: what the frozen blocks of the ViT make of an image is
constant, so it is computed before the clock starts, as `describe`'s pool allows.

`needed_tflop` is what a step cannot do without (flops.py), `mfu` that over the time and the peak
of the device. Limits: 0.9 of eager torch, or 0.25 with cached trunk tokens; an MFU of 0.4 at least.
"""

from step_race import main

if __name__ == "__main__":
    main("module_1", __doc__ or "", ("labels", 8, 1024))
