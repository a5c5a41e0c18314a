"""The Triton kernels, one module per op. They are imported when an op first runs on a GPU.

Kernels that sum over users or items divide the sum into parts, so that small batches still fill the GPU. Each part
writes its own result, and the parts are added in a fixed order. No kernel uses atomics.
"""
