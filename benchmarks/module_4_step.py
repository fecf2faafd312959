"""Is a training step of Module IV faster than the same step in PyTorch?

    python benchmarks/module_4_step.py                    # 4 datapoints on a CPU, minutes
    python benchmarks/module_4_step.py --small            # tiny encoders, seconds
    python benchmarks/module_4_step.py --device=gpu       # 200 datapoints, bfloat16, torch.compile

Datapoints have 2 positives and 12 negatives each out of 300,000 labels, whose distinct bags are
encoded once. A_S, A_C and the label table train in addition to the encoders. The step counts like
that of module_1_step.py, and with the gather of the labels' rows, their gradient and their update:
our row-sparse Adam on our side, sparse embeddings and SparseAdam on theirs. Our cross-attention is
factored; theirs is the textbook's for every pair, as in the released code.
"""

from step_race import main

if __name__ == "__main__":
    main("module_4", __doc__ or "", ("points", 4, 200))
