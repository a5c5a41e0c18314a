"""What docs/determinism.md promises: the same bits for any number of threads, or the same to rounding; every op is in
one of the two lists."""

import pytest
import torch
import torch.nn.functional as F
from mmssl_trainer.config.load import load
from mmssl_trainer.data import synthetic
from mmssl_trainer.ranking import split_metrics
from mmssl_trainer.training.loop import fit
from torch.utils._python_dispatch import TorchDispatchMode

from mmssl_fast import (
    InteractionGraph,
    RelationRows,
    act_norm_dropout,
    bpr_loss,
    cosine_block,
    cosine_topk,
    gradient_norm,
    gumbel_linear,
    gumbel_softmax,
    infonce,
    lightgcn,
    modality_attention,
    propagate,
    relation_linear,
    sample_bpr,
)
from mmssl_fast.ops.coo_to_csr import coo_to_csr, coo_to_csr_values
from mmssl_fast.ops.csr_transpose import csr_transpose
from mmssl_fast.ops.gumbel_rows import GumbelRows
from mmssl_fast.ops.philox import philox4x32, philox_bits
from mmssl_fast.ops.sampled_dot import sampled_dot
from mmssl_fast.ops.spmm import spmm
from mmssl_fast.ops.unit_rows import unit_rows
from mmssl_fast.relation.algebra.relation_row_norm import relation_row_norm

USERS, ITEMS, DIM, HIDDEN = 301, 1271, 48, 96
THREADS = (2, 3, 7)


def values(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def graph():
    dense = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(1)) < 0.03
    dense[5], dense[9] = False, True
    return InteractionGraph.from_pairs(*dense.nonzero().T, USERS, ITEMS)


GRAPH = graph()
ALL = torch.arange(USERS)
SEEN = GRAPH.rows(ALL)


def differentiated(function, *shapes):
    """The function's results on random leaves of these shapes, and the gradients of a weighted sum of them."""
    leaves = [values(*shape, seed=at).requires_grad_() for at, shape in enumerate(shapes)]
    out = function(*leaves)
    out = [one for one in (out if isinstance(out, (tuple, list)) else [out]) if one.is_floating_point()]
    torch.stack([(one * values(*one.shape, seed=7)).sum() for one in out]).sum().backward()
    return [*out, *(leaf.grad for leaf in leaves)]


def gumbel_rows(method):
    rows = GumbelRows(GRAPH, ALL, 0.2, 5, 3, method=method)
    (product,), square = rows.forward([values(ITEMS, DIM)])
    out = torch.zeros(ITEMS, DIM)
    rows.backward([values(USERS, DIM)], [out])
    return product, square, out


def hidden_layer(z, weight, bias):
    """With the gradient of its gradient, as the penalty takes it."""
    y, *_ = act_norm_dropout(z, weight, bias, 0.3, torch.tensor([5, 3]))
    (g,) = torch.autograd.grad(y.sum(), z, create_graph=True)
    return y, g


def real_rows(u, v):
    return RelationRows.gumbel(GRAPH, ALL, 0.2, 5) + 3 * RelationRows.generated(u, v)


U, I = (USERS, DIM), (ITEMS, DIM)  # noqa: E741
PICKED = torch.arange(200) * 7 % USERS
PAIRS = torch.arange(200) * 3 % ITEMS, torch.arange(200) * 5 % ITEMS

# Name: what is computed. The same bits on one machine for any number of threads.
EXACT = {
    "act_norm_dropout": lambda: differentiated(hidden_layer, (USERS, 201), (201,), (201,)),
    "philox4x32": lambda: philox4x32(9, torch.arange(400).view(-1, 4)),
    "philox_bits": lambda: philox_bits(9, 2, ALL, ITEMS, 0),
    "sample_bpr over interactions": lambda: sample_bpr(GRAPH, 20_000, 4, 1),
    "sample_bpr over users": lambda: sample_bpr(GRAPH, 200, 4, 1, "users"),
    "gumbel_softmax, dense": lambda: gumbel_softmax(GRAPH, ALL, 0.2, 5, method="dense"),
    "gumbel_softmax, order statistics": lambda: gumbel_softmax(GRAPH, ALL, 0.2, 5, method="order_statistics"),
    "Gumbel rows as a matrix, order statistics": lambda: gumbel_rows("order_statistics"),
    "gumbel_linear, order statistics": lambda: differentiated(
        lambda w: gumbel_linear(GRAPH, ALL, w, 0.2, 5, method="order_statistics"), (HIDDEN, ITEMS)
    ),
    "propagate": lambda: differentiated(lambda x: propagate(GRAPH, x, "users"), I),
    "propagate to items": lambda: differentiated(lambda x: propagate(GRAPH, x, "items", "both"), U),
    "lightgcn": lambda: differentiated(lambda u, i: lightgcn(GRAPH, u, i, 3), U, I),
    "spmm": lambda: spmm(GRAPH.crow, GRAPH.col, values(GRAPH.nnz), values(*I)),
    "coo_to_csr": lambda: coo_to_csr(PICKED, GRAPH.col[: len(PICKED)].long(), USERS, ITEMS),
    "coo_to_csr_values": lambda: coo_to_csr_values(
        PICKED, GRAPH.col[: len(PICKED)].long(), values(len(PICKED)), USERS, ITEMS
    ),
    "csr_transpose": lambda: csr_transpose(GRAPH.crow, GRAPH.col, ITEMS),
    "sampled_dot": lambda: differentiated(lambda u, v: sampled_dot(GRAPH.crow, GRAPH.col, u, v), U, I),
    "unit_rows": lambda: differentiated(unit_rows, I),
    "cosine_topk": lambda: cosine_topk(values(*U), values(*I), 20, SEEN),
    "cosine_block": lambda: differentiated(lambda u, v: cosine_block(u, v, SEEN, row_l2=True), U, I),
    "infonce": lambda: differentiated(lambda h, e: infonce(h, e, PICKED, 0.2), U, U),
    "infonce, backward apart": lambda: differentiated(lambda h, e: infonce(h, e, PICKED, 0.02), U, U),
    "bpr_loss": lambda: differentiated(lambda u, i: bpr_loss(u, i, PICKED, *PAIRS), U, I),
}
# The same to rounding: what goes through torch's own matrix product, which may split its sums between threads.
ROUNDED = {
    "gumbel_softmax, augmented": lambda: differentiated(
        lambda u, v: gumbel_softmax(GRAPH, ALL, 0.4, 5, augment=(u, v), zeta=2.0), U, I
    ),
    "Gumbel rows as a matrix, dense": lambda: gumbel_rows("dense"),
    "gumbel_linear, dense": lambda: differentiated(
        lambda w: gumbel_linear(GRAPH, ALL, w, 0.4, 5, method="dense"), (HIDDEN, ITEMS)
    ),
    "modality_attention": lambda: differentiated(
        lambda e, q, k, o: modality_attention(e, q, k, o, 4), (2, USERS, DIM), (DIM, DIM), (DIM, DIM), (4 * DIM, DIM)
    ),
    "gradient_norm": lambda: differentiated(gradient_norm, (USERS, HIDDEN), (HIDDEN, ITEMS)),
    "relation_linear": lambda: differentiated(
        lambda u, v, w: relation_linear(u, v, w, seen=SEEN), U, I, (HIDDEN, ITEMS)
    ),
    "relation_row_norm": lambda: differentiated(lambda u, v: relation_row_norm(u, v, SEEN), U, I),
    "rows of a step": lambda: differentiated(
        lambda u, v, w: F.linear(F.normalize(real_rows(u, v)), w), U, I, (HIDDEN, ITEMS)
    ),
}


def results(compute):
    found = compute()
    return [one.detach() for one in (found if isinstance(found, (tuple, list)) else [found])]


@pytest.mark.filterwarnings("ignore:sample_bpr")
@pytest.mark.parametrize("name", EXACT)
def test_same_bits_for_any_number_of_threads(name, threads):
    threads(1)
    first = results(EXACT[name])
    for count in THREADS:
        threads(count)
        for one, other in zip(first, results(EXACT[name]), strict=True):
            assert torch.equal(one, other), f"{count} threads"


@pytest.mark.parametrize("name", ROUNDED)
def test_same_to_rounding_for_any_number_of_threads(name, threads):
    """And the same bits again with the same number."""
    threads(1)
    first = results(ROUNDED[name])
    for count in (1, *THREADS):
        threads(count)
        second, third = results(ROUNDED[name]), results(ROUNDED[name])
        for one, other, again in zip(first, second, third, strict=True):
            assert torch.equal(other, again), f"{count} threads, twice"
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * one.abs().max().item())


class Called(TorchDispatchMode):
    """The names of mmssl_fast's ops that are called inside."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "mmssl_fast":
            self.names.add(func._opname)
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:sample_bpr")
def test_every_op_is_in_a_list():
    with Called() as called:
        for compute in (*EXACT.values(), *ROUNDED.values()):
            compute()
    registered = {one.name for one in torch._C._jit_get_all_schemas() if one.name.startswith("mmssl_fast::")}
    inner = {
        "gumbel_lse",
        "gumbel_tile",
        "gumbel_order_statistics",
        "spmm_add_",
        "sampled_dot_bwd_u",
        "sampled_dot_bwd_v",
    }
    missing = {name.removeprefix("mmssl_fast::") for name in registered} - called.names - inner
    assert not missing, missing


def trained(system):
    chosen = {
        "model.system": system,
        "model.dim": 16,
        "train.epochs": 2,
        "train.batch": 256,
        "train.threads": 0,
        "train.sample_over": "interactions",
    }
    data = synthetic(seed=1, n_users=80, n_items=60, modalities={"image": 8})
    fitted = fit(data, load(None, {name: (value, "test") for name, value in chosen.items()}))
    return fitted, split_metrics(fitted.users, fitted.items, data, "test", [20])


def test_lightgcn_runs_agree_to_the_bit_for_any_number_of_threads(threads):
    threads(1)
    first, metrics = trained("lightgcn")
    threads(3)
    second, again = trained("lightgcn")
    assert torch.equal(first.users, second.users) and torch.equal(first.items, second.items) and metrics == again


def test_mmssl_runs_agree_to_the_bit_for_one_number_of_threads(threads):
    """For another number the losses of the first epoch agree to rounding; training then magnifies what differs."""
    threads(2)
    (first, metrics), (second, again) = trained("mmssl"), trained("mmssl")
    assert torch.equal(first.users, second.users) and torch.equal(first.items, second.items) and metrics == again
    threads(1)
    third, _ = trained("mmssl")
    for name, value in first.epochs[0]["losses"].items():
        assert third.epochs[0]["losses"][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
