"""infonce by products of bfloat16 numbers: with rounded operands (gemm), and by three pieces per float32 number, which
a processor with AMX uses for calls with at least 32 distinct anchors. A processor with AVX512-BF16 alone keeps the
exponentials of rounded operands in bfloat16."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_as_accurate

from mmssl_fast import reference
from mmssl_fast.ops.infonce import infonce

module = sys.modules[infonce.__module__]

pytestmark = pytest.mark.usefixtures("poison")

BF16 = torch.bfloat16
# users, distinct anchors, d: whole and partial tiles of 128 keys, groups of 128 anchors and blocks of 1024
SHAPES = [(128, 128, 32), (129, 33, 33), (40, 40, 100), (2100, 1500, 20), (700, 31, 8), (257, 150, 64)]


def inputs(users, anchors, d, dtype=torch.float32):
    random = torch.Generator().manual_seed(users)
    h, e = (torch.randn(users, d, generator=random, dtype=torch.float64).to(dtype) for _ in range(2))
    ids = torch.randperm(users, generator=random)[:anchors]
    return h.requires_grad_(), e.requires_grad_(), torch.cat((ids, ids[: anchors // 3]))


def value_and_grads(op, h, e, *options, **named):
    loss = op(h, e, *options, **named)
    return loss.detach(), *torch.autograd.grad(loss, (h, e))


def by_rounded_operands(h, e, ids, tau, exclude_self):
    """The value and gradients in float64 with unit rows that are rounded to bfloat16 before they are multiplied."""
    h, e = (F.normalize(x.detach()) for x in (h, e))
    anchors, positives = e[ids].double(), h[ids].double()
    h_rounded, e_rounded = (x.to(BF16).double() for x in (h, e))
    logits = torch.cat((e_rounded[ids] @ h_rounded.T, e_rounded[ids] @ e_rounded.T), 1) / tau
    if exclude_self:
        logits[torch.arange(len(ids)), len(h) + ids] = -torch.inf
    value = (logits.logsumexp(1) - (anchors * positives).sum(1) / tau).mean()
    weights = logits.softmax(1) / tau / len(ids)
    to_h, to_e = (weights.T @ e_rounded[ids]).chunk(2)
    pull = 1 / tau / len(ids)
    to_e = to_e.index_add(0, ids, weights @ torch.cat((h_rounded, e_rounded)) - pull * positives)
    return value, to_h.index_add(0, ids, -pull * anchors), to_e


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("tau", [0.5, 0.03])
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_is_as_accurate_as_torch(shape, tau, exclude_self):
    h, e, ids = inputs(*shape)
    actual = value_and_grads(infonce, h, e, ids, tau, exclude_self)
    plain = value_and_grads(reference.infonce, h, e, ids, tau, exclude_self)
    wide = [x.detach().double().requires_grad_() for x in (h, e)]
    for parts in zip(actual, plain, value_and_grads(reference.infonce, *wide, ids, tau, exclude_self), strict=True):
        assert_as_accurate(*parts)


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("tau", [0.5, 0.03, 0.02])  # 0.02: with a running maximum
@pytest.mark.parametrize("shape", SHAPES)
def test_gemm_rounds_the_operands_of_products_alone(shape, tau, exclude_self):
    h, e, ids = inputs(*shape)
    h, e = (F.normalize(x.detach()).requires_grad_() for x in (h, e))  # so that gradients need not be projected
    unit_h, unit_e = h.detach(), e.detach()
    value, *grads = value_and_grads(infonce, h, e, ids, tau, exclude_self, gemm=BF16)
    expected, *unit_grads = by_rounded_operands(h, e, ids, tau, exclude_self)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6 / tau)
    for grad, unit_grad, rows in zip(grads, unit_grads, (unit_h, unit_e), strict=True):
        rows = rows.double()
        truth = unit_grad - (unit_grad * rows).sum(1, keepdim=True) * rows
        assert (grad - truth).norm() <= 2**-8 * truth.norm()  # the weights are rounded to 8 bits, too
    if tau == 0.5:  # else an anchor's own key may have all of the weight
        exact = value_and_grads(infonce, h, e, ids, tau, exclude_self)
        for rounded, unrounded in zip(grads, exact[1:], strict=True):
            assert (rounded - unrounded).norm() > 1e-5 * unrounded.norm()


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("shape", [(9308, 400, 64), (20000, 700, 24), (700, 600, 40)])  # 2, 3 and 1 blocks of anchors
def test_one_pass_equals_two(shape, exclude_self, monkeypatch):
    h, e, ids = inputs(*shape)
    one = value_and_grads(infonce, h, e, ids, 0.1, exclude_self, gemm=BF16)
    monkeypatch.setattr(module, "MOST_USERS", 0)
    monkeypatch.setattr(module, "MOST_USERS_IN_BFLOAT16", 0)
    two = value_and_grads(infonce, h, e, ids, 0.1, exclude_self, gemm=BF16)
    torch.testing.assert_close(one[0], two[0], rtol=1e-5, atol=0)
    for a, b in zip(one[1:], two[1:], strict=True):
        assert (a - b).norm() <= 2**-8 * b.norm()  # the weights are rounded with and without their denominator


def test_autocast_rounds_like_gemm():
    h, e, ids = inputs(257, 150, 64)
    expected = value_and_grads(infonce, h, e, ids, 0.2, gemm=BF16)
    with torch.autocast("cpu", BF16):
        actual = value_and_grads(infonce, h, e, ids, 0.2)
        exact = value_and_grads(infonce, h, e, ids, 0.2, gemm=torch.float32)
    assert all(map(torch.equal, actual, expected))
    assert all(map(torch.equal, exact, value_and_grads(infonce, h, e, ids, 0.2)))


def test_gemm_leaves_float64_alone():
    h, e, ids = inputs(257, 150, 64, torch.float64)
    exact = value_and_grads(infonce, h, e, ids, 0.2)
    assert all(map(torch.equal, value_and_grads(infonce, h, e, ids, 0.2, gemm=BF16), exact))


@pytest.mark.parametrize("gemm", [torch.float16, torch.float64])
def test_gemm_of_another_dtype_is_refused(gemm):
    with pytest.raises(ValueError, match=f"infonce: gemm must be None, torch.float32 or torch.bfloat16, got {gemm}"):
        infonce(*inputs(6, 5, 3), 0.4, gemm=gemm)


@pytest.mark.parametrize("gemm", [None, BF16])
@pytest.mark.parametrize("users, anchors", [(5000, 300), (200, 60)])
def test_same_bits_for_any_thread_count(users, anchors, gemm, threads):
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(value_and_grads(infonce, *inputs(users, anchors, 24), 0.2, True, gemm=gemm))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("gemm", [None, BF16])
@pytest.mark.parametrize("row", [3, 300])
def test_nan_is_passed_on(row, gemm):
    h, e, ids = inputs(301, 64, 5)
    with torch.no_grad():
        h[row] = torch.nan
    assert infonce(h, e, ids, 0.2, gemm=gemm).isnan()


@pytest.mark.parametrize("gemm", [None, BF16])
def test_zero_rows_have_gradient_zero(gemm):
    h, e, ids = inputs(200, 64, 5)
    with torch.no_grad():
        h[ids[0]] = e[ids[0]] = h[ids[1]] = e[ids[2]] = 0
    _, h_grad, e_grad = value_and_grads(infonce, h, e, ids, 0.2, True, gemm=gemm)
    assert h_grad.isfinite().all() and e_grad.isfinite().all()
    assert not h_grad[ids[[0, 1]]].any() and not e_grad[ids[[0, 2]]].any()
    assert h_grad[ids[3]].any() and e_grad[ids[3]].any()


@pytest.mark.parametrize("bfloat16", [False, True])
def test_opcheck(bfloat16):
    h, e, ids = inputs(80, 40, 6)
    arguments = (h, e, ids, 0.4, True, bfloat16)
    torch.library.opcheck(torch.ops.mmssl_fast.infonce, arguments)
    torch.library.opcheck(torch.ops.mmssl_fast.infonce_with_grad, arguments)
    term, lse = (x.detach() for x in torch.ops.mmssl_fast.infonce(*arguments))
    detached = (term, lse, h.detach(), e.detach(), ids, lse, 0.4, True, bfloat16)
    torch.library.opcheck(torch.ops.mmssl_fast.infonce_bwd, detached)


def errors(op, **named):
    """The largest error of the log-sum-exp and of the two gradients, relative to the largest entry."""
    h, e, ids = inputs(1000, 256, 64)
    h, e, ids = F.normalize(h.detach()), F.normalize(e.detach()), ids[:256]

    def outputs(h, e, lse):
        h, e = h.clone().requires_grad_(), e.clone().requires_grad_()
        found = lse(h, e)
        return found.detach(), *torch.autograd.grad(found.mean(), (h, e))

    def formula(h, e):
        return (e[ids] @ torch.cat((h, e)).mT / 0.2).logsumexp(1)

    truth = outputs(h.double(), e.double(), formula)
    found = outputs(h, e, formula if op is None else lambda h, e: op(h, e, ids, 0.2, False, **named)[1])
    return [((x.double() - t).abs().max() / t.abs().max()).item() for x, t in zip(found, truth, strict=True)]


def test_errors_are_those_of_the_table():
    infonce_op = torch.ops.mmssl_fast.infonce
    columns = errors(None), errors(infonce_op, bfloat16=False), errors(infonce_op, bfloat16=True)
    names = "log-sum-exp", "gradient of h", "gradient of e"
    lines = [
        f"| {name} | " + " | ".join(f"{x:.1e}" for x in row) + " |" for name, *row in zip(names, *columns, strict=True)
    ]
    page = (Path(__file__).resolve().parents[2] / "docs" / "precision.md").read_text()
    section = page[page.index("## infonce on the CPU") : page.index("## The discriminator")]
    table = [
        [float(x) for x in re.findall(r"\d\.\de-\d\d", line)]
        for name in names
        for line in section.splitlines()
        if line.startswith(f"| {name} |")
    ]
    assert len(table) == 3, "\n".join(lines)
    for row, documented in zip(zip(*columns, strict=True), table, strict=True):
        for found, shown in zip(row, documented, strict=True):
            assert found <= 4 * shown, "\n".join(lines)  # other processors add in another order
        assert row[2] >= documented[2] / 2, "\n".join(lines)


def saved(path):
    torch.save([value_and_grads(infonce, *inputs(2100, 1500, 20), 0.2, True, gemm=gemm) for gemm in (None, BF16)], path)


def test_rounds_the_same_operands_on_other_processors(tmp_path):
    """Without AMX, the rounded operands are multiplied in float32."""
    for name, isa in (("best.pt", ""), ("avx2.pt", "avx2")):
        saving = f"import test_infonce_bfloat16 as test; test.saved({str(tmp_path / name)!r})"
        path = os.pathsep.join(sys.path)
        environment = {**os.environ, "MMSSL_FAST_ISA": isa, "PYTHONPATH": path}
        subprocess.run([sys.executable, "-P", "-c", saving], env=environment, check=True)
    best, avx2 = (torch.load(tmp_path / name) for name in ("best.pt", "avx2.pt"))
    for tolerance, one, other in zip((1e-5, 2**-8), best, avx2, strict=True):
        torch.testing.assert_close(one[0], other[0], rtol=1e-6, atol=0)
        for a, b in zip(one[1:], other[1:], strict=True):
            assert (a - b).norm() <= tolerance * b.norm()
