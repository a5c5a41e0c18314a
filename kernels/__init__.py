"""Triton kernels, one module an op; imported only when an op runs on a GPU."""
