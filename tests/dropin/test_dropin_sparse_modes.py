"""mmssl_fast.dropin.sparse in torch's modes: inference, torch.func, export, checkpointing, threads, autocast."""

import threading

import pytest
import torch
import torch.nn as nn
import torch.utils.checkpoint
from dropin_clients.sparse_matrices import assert_torchs, dense, matrix, product_and_gradient
from threads_at_once import in_threads
from tolerances import assert_close

from mmssl_fast.dropin import sparse
from mmssl_fast.dropin.sparse import Adjacency

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:Sparse invariant checks"),
    pytest.mark.usefixtures("fresh", "small_ones_pay"),
]


FIRST = {
    "inference_mode": lambda a, x: torch.inference_mode()(torch.sparse.mm)(a, x),
    "no_grad": lambda a, x: torch.no_grad()(torch.sparse.mm)(a, x),
    "func.grad": lambda a, x: torch.func.grad(lambda t: torch.sparse.mm(a, t).sum())(x),
    "func.jvp": lambda a, x: torch.func.jvp(lambda t: torch.sparse.mm(a, t), (x,), (x,)),
    "vmap": lambda a, x: torch.vmap(lambda t: torch.sparse.mm(a, t))(x[None]),
}


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
@pytest.mark.parametrize("first", FIRST)
def test_a_matrix_trains_after_its_first_use_in_a_mode(first, layout, taken):
    a, x = matrix(layout), dense(11, 3)
    with sparse.accelerated():
        FIRST[first](a, x)
    assert taken
    assert_torchs(a, x)
    kept = sparse.prepared(a)
    assert not any(t.is_inference() for t in (*kept._forward, *kept._backward))


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_a_matrix_made_in_inference_mode(layout):
    with torch.inference_mode():
        a, x = matrix(layout), dense(11, 3)
        own = Adjacency.from_torch(a)
        with sparse.accelerated():
            for factor in (1, 2, -3):
                (a._values() if layout == "coo" else a.values()).mul_(factor)  # has no version
                assert_close(torch.sparse.mm(a, x), a.to_dense() @ x)
    assert_torchs(a.clone(), x.clone())
    product_and_gradient(own.double(), dense(11, 3), torch.mm)


def test_transforms_of_torch_func_go_through():
    a, x = matrix(), dense(11, 3)
    truth = a.to_dense()
    with sparse.accelerated():
        assert_close(torch.func.grad(lambda t: torch.sparse.mm(a, t).sin().sum())(x), truth.T @ (truth @ x).cos())
        assert_close(torch.func.jvp(lambda t: torch.sparse.mm(a, t), (x,), (2 * x,))[1], 2 * (truth @ x))
        assert_close(torch.vmap(lambda t: torch.sparse.mm(a, t))(torch.stack([x, -x])), truth @ torch.stack([x, -x]))
        assert_close(torch.func.jacrev(lambda t: torch.sparse.mm(a, t))(x[:, :1]).squeeze(), truth)


@pytest.mark.filterwarnings("ignore:.*left to torch.*")
def test_an_exported_model_leaves_nothing_behind(taken):
    a, x = matrix(), dense(11, 3)

    class Model(nn.Module):
        def forward(self, x):
            return torch.sparse.mm(a, x)

    with sparse.accelerated():
        torch.export.export(Model(), (x,))
    assert not taken
    assert_torchs(a, x)


@pytest.mark.parametrize("backward", ["method", "autograd.backward", "autograd.grad", "create_graph"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_products_are_recomputed_as_they_were(use_reentrant, backward, taken):
    if use_reentrant and backward in ("autograd.grad", "create_graph"):
        pytest.skip("torch's reentrant checkpoint supports neither autograd.grad nor create_graph")
    a, x = matrix(), dense(11, 3)

    def gradient():
        t = x.clone().requires_grad_()
        loss = torch.utils.checkpoint.checkpoint(
            lambda t: torch.sparse.mm(a, t).pow(2).tanh(), t, use_reentrant=use_reentrant
        ).sum()
        if backward == "method":
            loss.backward()
        elif backward == "autograd.backward":
            torch.autograd.backward([loss])
        elif backward == "autograd.grad":
            return torch.autograd.grad(loss, [t])[0]
        else:
            (first,) = torch.autograd.grad(loss, t, create_graph=True)
            first.square().sum().backward()
        return t.grad

    truth = gradient()
    assert not taken
    with sparse.accelerated():
        assert_close(gradient(), truth)
    assert len(taken) == (3 if backward == "create_graph" else 2), "the recomputation is accelerated too"


def test_backward_inside_the_context_is_torchs():
    x = dense(4, 3).requires_grad_()
    with sparse.accelerated():
        x.sum().backward(retain_graph=True)
        x.backward(torch.ones_like(x), inputs=[x])
        torch.autograd.backward((x.sum(), x), (None, torch.ones_like(x)))
        with pytest.raises(RuntimeError, match="scalar outputs"):
            x.backward()
        with pytest.raises(RuntimeError, match="not have been used"):
            torch.autograd.grad(x.sum(), dense(2, 2).requires_grad_())
    assert torch.equal(x.grad, torch.full_like(x, 4))


def test_enable_is_of_a_thread(taken):
    a, x = matrix(), dense(11, 3)

    def other():
        torch.sparse.mm(a, x)
        count.append(len(taken))
        sparse.disable()  # ends nothing of the first thread's
        sparse.enable()
        torch.sparse.mm(a, x)
        count.append(len(taken))
        sparse.disable()

    count = []
    sparse.enable()
    try:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        torch.sparse.mm(a, x)
    finally:
        sparse.disable()
    assert count == [0, 1] and len(taken) == 2


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_two_threads_meet_a_new_matrix_at_once(layout):
    a, x, wrong = matrix(layout), dense(11, 3), []
    truth, barrier = a.to_dense() @ x, threading.Barrier(4)

    def work():
        barrier.wait()
        for _ in range(20):
            if not torch.allclose(sparse.mm(a, x), truth):
                wrong.append(1)

    in_threads(work)
    assert not wrong
