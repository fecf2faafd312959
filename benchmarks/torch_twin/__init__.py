"""MUFIN in PyTorch, as the released code has it: the other side of the benchmarks."""
