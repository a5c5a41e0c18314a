"""Forward mode and torch.func: every differentiable op gives the right derivative or says what to use, never a zero."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck

import mmssl_fast
from mmssl_fast import reference
from mmssl_fast.dropin import sparse
from mmssl_fast.nn.half_linear import half_linear
from mmssl_fast.ops.sampled_dot import sampled_dot
from mmssl_fast.ops.spmm import spmm
from mmssl_fast.ops.unit_rows import unit_rows
from mmssl_fast.relation.algebra.relation_row_norm import relation_row_norm

DTYPE = torch.float64
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # Gumbel noise is float32
GRAPH = mmssl_fast.InteractionGraph.from_pairs([0, 0, 1, 2, 3, 3, 5], [0, 2, 2, 1, 0, 3, 4], 6, 5)
SEEN, USERS = GRAPH.rows(torch.arange(6)), torch.tensor([0, 3, 3, 5])
MATRIX = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, -3.0]], dtype=DTYPE).to_sparse()


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))


U, V, W = normal(6, 3, seed=1), normal(5, 3, seed=2), normal(4, 5, seed=3)
AUGMENT = {"tau": 0.3, "seed": 1, "zeta": 2.0, "row_l2": True}
ATTENTION = normal(2, 6, 4, seed=4), normal(4, 4, seed=5), normal(4, 4, seed=6), normal(8, 4, seed=7)

# name: (the op, the reference, arguments)
FORWARD = {  # with a forward-mode derivative
    "propagate": (
        lambda x: mmssl_fast.propagate(GRAPH, x, "users", "both"),
        lambda x: reference.propagate(GRAPH, x, "users", "both"),
        (V,),
    ),
    "lightgcn": (
        lambda u, v: torch.cat(mmssl_fast.lightgcn(GRAPH, u, v, 2)),
        lambda u, v: torch.cat(reference.lightgcn(GRAPH, u, v, 2)),
        (U, V),
    ),
    "cosine_block": (
        lambda u, v: mmssl_fast.cosine_block(u, v, SEEN),
        lambda u, v: reference.cosine_block(u, v, SEEN),
        (U, V),
    ),
    "cosine_block row_l2": (
        lambda u, v: mmssl_fast.cosine_block(u, v, SEEN, "dot", True),
        lambda u, v: reference.cosine_block(u, v, SEEN, "dot", True),
        (U, V),
    ),
    "bpr_loss": (
        lambda u, v: mmssl_fast.bpr_loss(u, v, USERS, USERS.clamp(max=4), USERS.flip(0).clamp(max=4)),
        lambda u, v: reference.bpr_loss(u, v, USERS, USERS.clamp(max=4), USERS.flip(0).clamp(max=4)),
        (U, V),
    ),
    "gumbel_softmax": (
        lambda u, v: mmssl_fast.gumbel_softmax(GRAPH, USERS, augment=(u[USERS], v), **AUGMENT),
        lambda u, v: reference.gumbel_softmax(GRAPH, USERS, augment=(u[USERS], v), **AUGMENT),
        (U, V),
    ),
    "gumbel_linear": (
        lambda w: mmssl_fast.gumbel_linear(GRAPH, USERS, w, 0.3, 1),
        lambda w: reference.gumbel_linear(GRAPH, USERS, w, 0.3, 1),
        (W,),
    ),
    "unit_rows": (unit_rows, reference.unit_rows, (U,)),
    "sampled_dot": (
        lambda u, v: sampled_dot(*SEEN, u, v),
        lambda u, v: reference.sampled_dot(*SEEN, u, v),
        (U, V),
    ),
    "half_linear": (
        lambda w, b: half_linear(U.half(), w, b),
        lambda w, b: torch.nn.functional.linear(U.half().to(DTYPE), w, b),
        (normal(4, 3), normal(4)),
    ),
    "sparse.mm": (lambda x: sparse.mm(MATRIX, x, always=True), lambda x: MATRIX.to_dense() @ x, (normal(3, 2),)),
}
REVERSE = {  # without one
    "infonce": (
        lambda h, e: mmssl_fast.infonce(h, e, USERS, 0.2),
        lambda h, e: reference.infonce(h, e, USERS, 0.2),
        (U, normal(6, 3, seed=8)),
    ),
    "modality_attention": (
        lambda *x: mmssl_fast.modality_attention(*x, 2),
        lambda *x: reference.modality_attention(*x, 2),
        ATTENTION,
    ),
    "act_norm_dropout": (
        lambda *x: mmssl_fast.act_norm_dropout(*x, 0.3, torch.tensor([1, 2]))[0],
        lambda *x: reference.act_norm_dropout(*x, 0.3, 1, 2),
        (U, normal(3), normal(3, seed=9)),
    ),
    "gradient_norm": (mmssl_fast.gradient_norm, reference.gradient_norm, (normal(3, 4), W)),
    "relation_linear": (
        lambda *x: mmssl_fast.relation_linear(*x, SEEN, "cosine"),
        lambda *x: reference.relation_linear(*x, SEEN, "cosine"),
        (U, V, W),
    ),
    "relation_row_norm": (
        lambda *x: relation_row_norm(*x, SEEN),
        lambda *x: reference.relation_row_norm(*x, SEEN),
        (U, V),
    ),
}
EVERY = FORWARD | REVERSE


def loss_of(op):
    return lambda *x: op(*x).sin().sum()


def every(arguments):
    return tuple(range(len(arguments)))


@pytest.mark.parametrize("name", FORWARD)
def test_forward_mode_is_right(name):
    op, truth, arguments = FORWARD[name]
    tangents = tuple(normal(*x.shape, seed=11) for x in arguments)
    found, expected = (torch.func.jvp(f, arguments, tangents)[1] for f in (op, truth))
    torch.testing.assert_close(found, expected, **CLOSE)
    assert found.abs().max() > 0.01
    grads = [x.clone().requires_grad_() for x in arguments]
    assert gradcheck(op, grads, check_forward_ad=True, check_backward_ad=False, check_batched_forward_grad=True)


@pytest.mark.parametrize("name", FORWARD)
def test_forward_mode_of_one_argument(name):
    op, _, arguments = FORWARD[name]
    torch.testing.assert_close(torch.func.jacfwd(op)(*arguments), torch.func.jacrev(op)(*arguments), **CLOSE)


@pytest.mark.parametrize("name", REVERSE)
def test_without_a_forward_mode_it_says_what_to_use(name):
    op, _, arguments = REVERSE[name]
    message = f"^{name}: forward-mode differentiation is not supported; use .*mmssl_fast.reference.{name}"
    with pytest.raises(NotImplementedError, match=message):
        torch.func.jvp(op, arguments, arguments)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=message):
        op(forward_ad.make_dual(arguments[0], arguments[0]), *arguments[1:])


@pytest.mark.parametrize("name", EVERY)
def test_reverse_mode_of_torch_func(name):
    op, truth, arguments = EVERY[name]
    names = every(arguments)
    torch.testing.assert_close(
        torch.func.grad(loss_of(op), names)(*arguments),
        torch.func.grad(loss_of(truth), names)(*arguments),
        **CLOSE,
    )
    torch.testing.assert_close(
        torch.func.jacrev(op, names)(*arguments), torch.func.jacrev(truth, names)(*arguments), **CLOSE
    )
    y, pull = torch.func.vjp(op, *arguments)
    torch.testing.assert_close(pull(y), torch.func.vjp(truth, *arguments)[1](y), **CLOSE)


@pytest.mark.parametrize("name", EVERY)
def test_vmap(name):
    op, truth, arguments = EVERY[name]
    batch = torch.stack([arguments[0], 2 * arguments[0], -arguments[0]], 1)
    others = arguments[1:]
    for of_one in (op, truth), (torch.func.grad(loss_of(op)), torch.func.grad(loss_of(truth))):
        found, expected = (torch.vmap(lambda x, f=f: f(x, *others), in_dims=1)(batch) for f in of_one)
        torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("name", EVERY)
def test_second_derivatives_are_right_or_refused(name):
    """Forward over reverse, and reverse over reverse: no term is lost without an error."""
    op, truth, arguments = EVERY[name]
    names = every(arguments)

    def twice(f):
        first = torch.func.grad(loss_of(f), names)
        return torch.func.grad(lambda *x: sum(g.sin().sum() for g in first(*x)), names)(*arguments)

    def mixed(f):
        return torch.func.jacfwd(torch.func.grad(loss_of(f)))(*arguments)

    for second in (twice, mixed):
        try:
            found = second(op)
        except (NotImplementedError, RuntimeError) as error:
            assert str(error).startswith(name.split()[0]) and "mmssl_fast.reference." in str(error)
        else:
            torch.testing.assert_close(found, second(truth), **CLOSE)


@pytest.mark.parametrize("name", ["propagate", "lightgcn", "unit_rows", "sampled_dot", "gumbel_linear", "sparse.mm"])
def test_linear_ops_have_every_derivative(name):
    op, truth, arguments = FORWARD[name]
    torch.testing.assert_close(
        torch.func.hessian(loss_of(op))(*arguments),
        torch.func.hessian(loss_of(truth))(*arguments),
        **CLOSE,
    )


def test_a_third_derivative_of_act_norm_dropout_is_refused():
    op, _, arguments = REVERSE["act_norm_dropout"]
    grad = torch.func.grad
    third = grad(lambda x: grad(lambda y: grad(lambda z: loss_of(op)(z, *arguments[1:]))(y).sin().sum())(x).sin().sum())
    with pytest.raises(NotImplementedError, match="act_norm_dropout has no third derivative"):
        third(arguments[0])


def test_a_zero_row_has_tangent_zero():
    u = U.clone()
    u[2] = 0
    tangent = torch.func.jvp(lambda x: mmssl_fast.cosine_block(x, V, row_l2=True), (u,), (U,))[1]
    assert tangent.isfinite().all() and (tangent[2] == 0).all() and tangent[0].abs().max() > 0


def test_rows_that_are_never_a_matrix_refuse():
    rows = mmssl_fast.RelationRows.generated(U, V)
    for call in (
        lambda u: mmssl_fast.RelationRows.generated(u, V).linear(W),
        lambda u: (rows * 2.0).linear(W) + u.sum(),
    ):
        with pytest.raises(NotImplementedError, match=r"^RelationRows: torch.func .*cosine_block"):
            torch.func.grad(lambda u, call=call: call(u).sum())(U)
        with pytest.raises(NotImplementedError, match=r"^RelationRows: torch.func"):
            torch.func.jvp(call, (U,), (U,))


def test_what_has_no_derivative_says_so():
    crow, col = GRAPH.crow, GRAPH.col
    with pytest.raises(RuntimeError, match=r"^spmm is not differentiable; use propagate"):
        torch.func.jvp(lambda x: spmm(crow, col, None, x), (V,), (V,))
    with pytest.raises(RuntimeError, match=r"^spmm is not differentiable; use propagate"):
        torch.func.grad(lambda x: spmm(crow, col, None, x).sum())(V)


def test_sampling_and_ranking_run_inside_transforms():
    def loss(u, v):
        users, pos, neg = mmssl_fast.sample_bpr(GRAPH, 8, 3)
        _, items = mmssl_fast.cosine_topk(u, v, 2)
        return mmssl_fast.bpr_loss(u, v, users, pos, neg) + (v[items[:, 0]] * u).sum()

    grads = [x.clone().requires_grad_() for x in (U, V)]
    expected = torch.autograd.grad(loss(*grads), grads)
    torch.testing.assert_close(torch.func.grad(loss, (0, 1))(U, V), expected)
    tangent = torch.func.jvp(loss, (U, V), (U, V))[1]
    torch.testing.assert_close(tangent, sum((g * x).sum() for g, x in zip(expected, (U, V), strict=True)))


@pytest.mark.parametrize("width", [0, 1])
def test_vmap_of_propagate_with_odd_widths(width):
    batch = normal(4, 5, width)
    found = torch.vmap(lambda x: mmssl_fast.propagate(GRAPH, x))(batch)
    assert torch.equal(found, torch.stack([mmssl_fast.propagate(GRAPH, x) for x in batch]))
    fixed = normal(6, width)
    users, items = torch.vmap(lambda x: mmssl_fast.lightgcn(GRAPH, fixed, x, 2))(batch)
    assert users.shape == (4, 6, width) and items.shape == (4, 5, width)


def test_compiled_code_calls_the_op_itself():
    """No graph break comes of asking whether a transform is active."""

    def f(u, v):
        return mmssl_fast.cosine_block(u, v).sum() + mmssl_fast.lightgcn(GRAPH, u, v, 2)[0].sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(U, V), f(U, V))


def test_compiled_autograd():
    """torch traces the backward pass as well, which calls the ops of the backward pass with proxies."""
    parameters = [U.clone().requires_grad_(), V.clone().requires_grad_()]
    ids = torch.tensor([0, 2, 3])

    def step():
        for one in parameters:
            one.grad = None
        users, items = mmssl_fast.lightgcn(GRAPH, *parameters, 2)
        loss = mmssl_fast.bpr_loss(users, items, ids, ids, torch.tensor([1, 4, 0])).sum()
        loss = loss + mmssl_fast.cosine_block(users, items).sum() + mmssl_fast.infonce(users, users + 1, ids, 0.5).sum()
        loss.backward()
        return [one.grad.clone() for one in parameters]

    expected = step()
    counts = torch._dynamo.utils.counters["compiled_autograd"]
    before = counts["captures"]
    with torch._dynamo.config.patch(compiled_autograd=True):
        found = torch.compile(step, backend="aot_eager")()
    assert counts["captures"] == before + 1
    torch.testing.assert_close(found, expected)
