"""mmssl_fast.dropin.sparse while torch traces, scripts and compiles, and in autograd's own threads."""

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from child_processes import python
from dropin_clients.sparse_matrices import dense
from tolerances import assert_close

from mmssl_fast.dropin import sparse

pytestmark = pytest.mark.usefixtures("fresh", "small_ones_pay")


def products(a, b):
    c = torch.mm(a, b) + torch.matmul(a, b) + a @ b + a.mm(b) + F.linear(a, b.t())
    return torch.addmm(c, a, b) + torch.linalg.matmul(a, b)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("first", ["inside", "outside"])
def test_dense_products_compile_without_a_graph_break(first, backend):
    """Also where torch.compile meets the names for the first time while they are replaced."""
    from torch._dynamo import trace_rules

    torch._dynamo.reset()
    a, b = dense(4, 4), dense(4, 4, seed=2)
    truth = products(a, b)
    if first == "inside":
        trace_rules.get_torch_obj_rule_map.cache_clear()
        trace_rules.get_tensor_method.cache_clear()
        with sparse.accelerated():
            assert_close(torch.compile(products, fullgraph=True, backend=backend)(a, b), truth)
    compiled = torch.compile(products, fullgraph=True, backend=backend)
    assert_close(compiled(a, b), truth)
    with sparse.accelerated():
        assert_close(compiled(a, b), truth)
        linear = torch.nn.Linear(4, 3).double()
        assert_close(torch.compile(linear, fullgraph=True, backend=backend)(a), linear(a))
    torch._dynamo.reset()
    assert_close(torch.compile(products, fullgraph=True, backend=backend)(a, b), truth)
    assert torch.Tensor.mm in trace_rules.get_tensor_method()


def test_a_symbolic_trace_has_the_same_nodes():
    def nodes():
        traced = torch.fx.symbolic_trace(products)
        return [(n.op, n.target) for n in traced.graph.nodes], traced.code, traced

    expected, code, _ = nodes()
    with sparse.accelerated():
        found, code_inside, traced = nodes()
        assert_close(traced(dense(4, 4), dense(4, 4)), products(dense(4, 4), dense(4, 4)))
    assert found == expected and code_inside == code
    assert all(a is b for (_, a), (_, b) in zip(found, expected, strict=True) if callable(a))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_scripts_are_made_and_run():
    def function(a, b):
        c = torch.mm(a, b) + torch.matmul(a, b) + a @ b + torch.nn.functional.linear(a, b)
        return torch.addmm(c, a, b)

    a, b = dense(3, 3), dense(3, 3, seed=2)
    with sparse.accelerated():
        inside = torch.jit.script(function)
        linear = torch.jit.script(torch.nn.Linear(3, 2).double())
        assert_close(inside(a, b), function(a, b))
        linear(a)
    assert_close(inside(a, b), function(a, b))
    assert str(inside.graph) == str(torch.jit.script(function).graph)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_trace_of_dense_products_is_torchs():
    a, b = dense(4, 4), dense(4, 4, seed=2)
    with sparse.accelerated():
        traced = torch.jit.trace(products, (a, b))
    expected = torch.jit.trace(products, (a, b))
    assert [n.kind() for n in traced.graph.nodes()] == [n.kind() for n in expected.graph.nodes()]
    assert_close(traced(b, a), products(b, a))


@pytest.mark.parametrize("strict", [False, True])
def test_a_dense_model_exports(strict):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)).double()
    with sparse.accelerated():
        program = torch.export.export(model, (dense(5, 4),), strict=strict)
    assert_close(program.module()(dense(5, 4)), model(dense(5, 4)))


def test_tables_that_torch_makes_inside_are_made_again(monkeypatch):
    overrides = torch.overrides
    for cached in (overrides._get_overridable_functions, overrides._get_tensor_methods):
        cached.cache_clear()
    with sparse.accelerated():
        overrides.resolve_name(torch.add)
        overrides.is_tensor_method_or_property(torch.Tensor.add)
    assert overrides.resolve_name(torch.Tensor.mm) == "torch.Tensor.mm"
    assert torch.mm in overrides.get_overridable_functions()[torch]
    assert overrides.is_tensor_method_or_property(torch.Tensor.mm)


NESTED = """
import os
import torch
from mmssl_fast.dropin import sparse

class Nested(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, matrix, depth):
        ctx.matrix, ctx.depth = matrix, depth
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        torch.mm(ctx.matrix, grad)
        if ctx.depth:
            with torch.enable_grad():
                Nested.apply(grad.detach().requires_grad_(), ctx.matrix, ctx.depth - 1).sum().backward()
        return grad, None, None

matrix, x = torch.eye(5).to_sparse(), torch.ones(5, 2, requires_grad=True)
with sparse.accelerated(always=True):
    Nested.apply(x, matrix, 130).sum().backward()
print(sparse.report().taken)
Nested.apply(x, matrix, 130).sum().backward()
print(sparse.report().taken, flush=True)
os._exit(0)  # these threads of torch can abort a process that ends in the ordinary way
"""


def test_threads_of_autograd_do_as_the_thread_that_called_backward():
    """Backward passes within each other, as the reentrant checkpoint starts them: every 60 go to another thread.

    In another process, since one with threads of autograd's cannot be forked.
    """
    assert python(NESTED).stdout.split() == ["131", "131"]
