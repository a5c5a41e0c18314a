"""Ops that are Python functions: not traced by torch's compiler, and their use does not import it."""

from child_processes import python

CALLS = """
import sys
import torch
from mmssl_fast.relation.algebra.gradient_norm import gradient_norm
from mmssl_fast.relation.algebra.relation_linear import relation_linear
from mmssl_fast.relation.algebra.relation_row_norm import relation_row_norm

u, v, weight, g = (torch.randn(shape, requires_grad=True) for shape in ((3, 4), (5, 4), (6, 5), (3, 6)))

def losses():
    return relation_row_norm(u, v).sum() + relation_linear(u, v, weight).sum() + gradient_norm(g, weight).sum()

def gradients():
    return torch.autograd.grad(losses(), (u, v, weight, g))

first = gradients()
print("torch._dynamo" in sys.modules)

from torch._dynamo.testing import CompileCounterWithBackend

whole = torch.compile(losses, fullgraph=True, backend=CompileCounterWithBackend("aot_eager"))
again = torch.autograd.grad(whole(), (u, v, weight, g))
print(all(torch.allclose(a, b) for a, b in zip(first, again)))

# The frame of this function is not traced, and those that it calls are: the ops are called directly.
counted = CompileCounterWithBackend("aot_eager")
ops = torch.ops.mmssl_fast
direct = torch.compiler.disable(
    lambda: (ops.relation_row_norm(u, v, None, None), ops.relation_linear(u, v, weight, None, None, None)),
    recursive=False,
)
torch.compile(lambda: direct(), backend=counted)()
print(counted.frame_count)
"""


def test_the_compiler_is_told_when_it_is_loaded():
    assert python(CALLS).stdout.split() == ["False", "True", "0"]
