"""What an installed mmssl_fast with CUDA kernels must show without a GPU: ``python -P .ci/check_cuda_link.py``."""

import ctypes
import os
import shutil
import subprocess
import sys
import warnings

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

import mmssl_fast
import mmssl_fast._C
from mmssl_fast import static_shapes
from mmssl_fast.ops import philox, sampled_dot, spmm, unit_rows

# Registered from Python with one implementation for all devices, and the one op that is only called with CPU tensors.
ANY_DEVICE = {"gradient_norm", "relation_linear", "relation_row_norm"}
CPU_ALONE = {"infonce_with_grad"}
# On the CPU the sizes of their outputs depend on values, on CUDA on the arguments' shapes alone.
OTHER_SIZES = {"csr_transpose", "gumbel_order_statistics"}


def registered():
    """Every op of torch.ops.mmssl_fast by name."""
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("mmssl_fast::")}
    return {name.removeprefix("mmssl_fast::").partition(".")[0] for name in names}


def check_library():
    info = mmssl_fast.build_info()
    assert info["cuda"], info["cuda_note"]
    library = mmssl_fast._C.__file__
    ctypes.CDLL(library, mode=os.RTLD_NOW)  # resolves every symbol, or raises OSError
    print(f"{os.path.basename(library)}: no undefined symbol; torch {torch.__version__}; {info['cuda_note']}")
    if cuobjdump := shutil.which("cuobjdump") or shutil.which("/usr/local/cuda/bin/cuobjdump"):
        listed = subprocess.run([cuobjdump, "--list-elf", library], capture_output=True, text=True, check=True).stdout
        for arch in info["cuda_archs"]:
            count = listed.count(f".sm_{arch.replace('.', '').removesuffix('+PTX')}.cubin")
            assert count, f"no machine code for {arch}"
            print(f"{arch}: {count} cubins")
    else:
        print("cuobjdump is not here: the architectures in the library were not looked at")


def check_owners():
    missing = [name for name, row in mmssl_fast.backends().items() if row["cuda"] == "no kernel"]
    assert not missing, f"backends() has no CUDA kernel for {missing}"
    for name in sorted(registered() - ANY_DEVICE - CPU_ALONE):
        keys = ("CUDA", "CompositeExplicitAutograd", "CompositeImplicitAutograd")
        if not any(torch._C._dispatch_has_kernel_for_dispatch_key(f"mmssl_fast::{name}", key) for key in keys):
            assert name.removesuffix("_bwd") in ANY_DEVICE, f"{name} is not registered for CUDA"
    print(f"{len(mmssl_fast.backends())} public ops, {len(registered())} registered: each has its kernel for CUDA")


class Recorder(TorchDispatchMode):
    """Keeps (op, arguments, outputs) of every call of an op of mmssl_fast, those inside ops written in Python too."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        in_python = torch._library.custom_ops.OPDEFS.get(func._schema.name)
        if in_python is None:
            result = func(*args, **(kwargs or {}))
        else:
            with self:
                result = in_python._init_fn(*args, **(kwargs or {}))
        if func._schema.name.startswith("mmssl_fast::"):
            self.calls.append((func, args, kwargs or {}, result))
        return result


def call_everything():
    """Every op once or more, with its derivatives."""
    ops = torch.ops.mmssl_fast
    random = torch.Generator().manual_seed(0)
    users, items = torch.randint(40, (300,), generator=random), torch.randint(60, (300,), generator=random)
    graph = mmssl_fast.InteractionGraph.from_pairs(users, items, 40, 60)
    u, v = (torch.randn(n, 16, generator=random, requires_grad=True) for n in (40, 60))
    ids = torch.arange(0, 40, 3)
    seen = graph.rows(ids)

    def differentiate(*outputs):
        sum(x.float().sum() for x in outputs).backward()

    differentiate(mmssl_fast.cosine_block(u[ids], v, seen, row_l2=True))
    mmssl_fast.cosine_topk(u[ids], v, 5, seen)
    differentiate(*mmssl_fast.lightgcn(graph, u, v, 2), mmssl_fast.propagate(graph, v, "users"))
    differentiate(mmssl_fast.infonce(u, u * 2, ids, 0.2))
    differentiate(ops.infonce(u, u * 2, ids, 0.2, False)[0])  # what runs on CUDA
    triples = mmssl_fast.sample_bpr(graph, 32, 0)
    mmssl_fast.sample_bpr(graph, 16, 0, over="users")
    differentiate(mmssl_fast.bpr_loss(u, v, *triples))
    differentiate(unit_rows.unit_rows(u))
    wide = torch.randn(3, 50, 16, generator=random, requires_grad=True)
    wq, wk, wo = (torch.randn(shape, generator=random, requires_grad=True) for shape in [(16, 16)] * 2 + [(32, 16)])
    differentiate(mmssl_fast.modality_attention(wide, wq, wk, wo, 2))
    weight = torch.randn(8, 60, generator=random, requires_grad=True)
    for method in ("dense", "order_statistics"):
        mmssl_fast.gumbel_softmax(graph, ids, 0.2, 0, method=method)
        differentiate(mmssl_fast.gumbel_linear(graph, ids, weight, 0.2, 0, method=method))
    rows = mmssl_fast.RelationRows.generated(u[ids], v, seen=seen, row_l2=True)
    real = mmssl_fast.RelationRows.gumbel(graph, ids, 0.2, 0) + 2.0 * rows
    z = torch.cat([rows, real]).linear(weight)
    differentiate(z, mmssl_fast.gradient_norm(torch.rand(10, 8, generator=random), weight), real.row_norm())
    differentiate(mmssl_fast.relation_linear(u[ids], v, weight, seen=seen))
    crow, col = graph.crow, graph.col
    differentiate(sampled_dot.sampled_dot(crow, col, u, v))
    spmm.spmm(crow, col, None, v.detach())
    spmm.spmm_add_(torch.zeros(45, 16), torch.arange(40), crow, col, None, v.detach())
    ops.coo_to_csr(torch.tensor([1, 0]), torch.tensor([0, 1]), 2, 2)
    ops.coo_to_csr_values(torch.tensor([1, 0]), torch.tensor([0, 1]), torch.ones(2), 2, 2)
    ops.csr_transpose(crow, col, 60)
    philox.philox4x32(0, torch.zeros(3, 4, dtype=torch.int64))
    philox.philox_bits(0, 0, ids, 60, 1)
    noise = crow, col, ids
    seed_offset = torch.zeros(2, dtype=torch.int64)
    ops.gumbel_order_statistics(*noise, 60, 0.2, seed_offset, 1.0, 700)
    lse = ops.gumbel_lse(*noise, 60, 0.5, seed_offset, 1.0)
    ops.gumbel_tile(*noise, lse, 60, 0, 32, 0.5, seed_offset, 1.0)
    scale, shift = (torch.randn(8, generator=random, requires_grad=True) for _ in range(2))
    z = z.detach().requires_grad_()
    bent = mmssl_fast.act_norm_dropout(z, scale, shift, 0.3, seed_offset)[0]
    (slope,) = torch.autograd.grad(bent.square().sum(), z, create_graph=True)
    differentiate(slope.square())


def check_fakes():
    """Each op's fake kernel says of CUDA tensors what its kernel returned of CPU tensors."""
    with static_shapes.forced(), Recorder() as recorder:
        call_everything()
    for func, args, kwargs, expected in recorder.calls:
        with FakeTensorMode(allow_non_fake_inputs=False) as mode:
            fake = tree_map_only(torch.Tensor, lambda x: on_cuda(mode, x), (args, kwargs))
            actual = tree_flatten(func(*fake[0], **fake[1]))[0]
        for real, faked in zip(tree_flatten(expected)[0], actual, strict=True):
            if isinstance(real, torch.Tensor):
                assert faked.device.type == "cuda", f"{func}: its fake kernel forgets the device"
                other_sizes = func._schema.name.removeprefix("mmssl_fast::") in OTHER_SIZES
                described = [(x.dtype, x.ndim if other_sizes else (x.shape, x.stride())) for x in (real, faked)]
                assert described[0] == described[1], f"{func}: returns and its fake kernel says {described}"
    called = {func._schema.name.removeprefix("mmssl_fast::") for func, *_ in recorder.calls}
    assert registered() == called, f"never called here: {sorted(registered() - called)}"
    print(f"{len(recorder.calls)} calls of {len(called)} ops: fake kernels agree for CUDA tensors")


def on_cuda(mode, x):
    with mode:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    check_library()
    check_owners()
    check_fakes()
