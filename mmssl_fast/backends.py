"""backends(): which implementation every op has in this build.

There is no silent fallback: an op without a kernel for a device raises NotImplementedError there.
"""

import torch

from .library import build_info

# Public function → (equations, the registered ops that it calls). On CUDA, the ops in TRITON are implemented in
# kernels/, and the ops in TORCH are composed of PyTorch operations. All other ops are CUDA C++.
OPS = {
    "act_norm_dropout": ("4", ("act_norm_dropout",)),
    "cosine_block": ("3", ("cosine_block",)),
    "cosine_topk": ("3, 8, evaluation", ("cosine_topk",)),
    "relation_linear": ("3, 4", ("sampled_dot", "spmm", "spmm_add_", "csr_transpose")),
    "gumbel_softmax": ("5", ("gumbel_softmax",)),
    "gumbel_linear": ("4, 5", ("gumbel_linear", "gumbel_order_statistics", "gumbel_lse", "gumbel_tile")),
    "gradient_norm": ("7", ()),
    "propagate": ("2, 8, 10", ("propagate",)),
    "lightgcn": ("10", ("lightgcn",)),
    "modality_attention": ("9", ("modality_mix",)),
    "infonce": ("11", ("infonce",)),
    "bpr_loss": ("14", ("bpr_loss",)),
    "sample_bpr": ("training", ("sample_bpr", "sample_bpr_users")),
}
TRITON = frozenset({"cosine_block", "cosine_topk", "infonce", "modality_mix", "gumbel_linear"})
TORCH = frozenset({"act_norm_dropout"})


def backends() -> dict[str, dict[str, str]]:
    """Lists the implementation of every op on every device in this build.

    Returns:
        For every public op a dict with ``equation`` (its equations in the MMSSL paper, WWW 2023), ``cpu`` and ``cuda``.
        The latter two name the language of the kernel, for the CPU with the instruction set in use. "torch" means that
        the op is composed of PyTorch operations. "no kernel" means that the op raises NotImplementedError.

    Example:
        >>> info = backends()["cosine_block"]
        >>> info["equation"], info["cpu"].startswith("C++")
        ('3', True)
        >>> backends()["gradient_norm"]
        {'equation': '7', 'cpu': 'torch', 'cuda': 'torch'}
    """
    return {
        name: {"equation": equation, "cpu": _language(kernels, "CPU"), "cuda": _language(kernels, "CUDA")}
        for name, (equation, kernels) in OPS.items()
    }


def _language(kernels: tuple[str, ...], key: str) -> str:
    if not kernels:
        return "torch"
    if not all(torch._C._dispatch_has_kernel_for_dispatch_key(f"mmssl_fast::{kernel}", key) for kernel in kernels):
        return "no kernel"
    if key == "CPU":
        return f"C++ ({build_info()['isa']})"
    languages = {"Triton" if kernel in TRITON else "torch" if kernel in TORCH else "CUDA C++" for kernel in kernels}
    return " and ".join(sorted(languages))
