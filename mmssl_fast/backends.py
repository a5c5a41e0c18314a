"""backends(): which op runs where in this build. Nothing falls back silently, so what is not here does not run."""

import torch

from .library import build_info

# Public op → (equations, the registered ops it runs on). On CUDA, `TRITON` names those that kernels/ owns, `TORCH`
# those composed of torch's operations.
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
    """What runs each op on each device.

    Returns:
        For every public op a dict with ``equation`` (of the paper), ``cpu`` and ``cuda``: the kernel's language, with
        the instruction set in use on the CPU; "torch" where the op is made of torch's own operations alone; "no
        kernel" where calling the op raises NotImplementedError.
    """
    return {
        name: {"equation": equation, "cpu": _owner(kernels, "CPU"), "cuda": _owner(kernels, "CUDA")}
        for name, (equation, kernels) in OPS.items()
    }


def _owner(kernels: tuple[str, ...], key: str) -> str:
    if not kernels:
        return "torch"
    if not all(torch._C._dispatch_has_kernel_for_dispatch_key(f"mmssl_fast::{kernel}", key) for kernel in kernels):
        return "no kernel"
    if key == "CPU":
        return f"C++ ({build_info()['isa']})"
    languages = {"Triton" if kernel in TRITON else "torch" if kernel in TORCH else "CUDA C++" for kernel in kernels}
    return " and ".join(sorted(languages))
