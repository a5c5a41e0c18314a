"""Collectives and ops on several ranks compared with one rank: values, gradients and received bytes."""

from __future__ import annotations

from unittest import mock

import torch
from driver import Check

import mmssl_fast as mf
from mmssl_fast import distributed as md
from mmssl_fast.distributed import collectives
from mmssl_fast.tiles import tiles_of

SIZES = ((7, 5), (12, 4), (2, 3), (1, 1), (9, 2), (3, 0))  # rows, columns: odd, fewer than ranks, none


def normal(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=dtype, generator=generator)


def leaf(x):
    return x.clone().requires_grad_()


def columns_of(x, ranks):
    first, last = ranks.span(x.shape[1])
    return x[:, first:last]


def a_graph(n_users=23, n_items=17, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.rand(n_users, n_items, generator=generator) < 0.25
    pairs[3] = False  # a user and an item without interactions
    pairs[:, 5] = False
    return mf.InteractionGraph.from_pairs(*pairs.nonzero().T, n_users, n_items)


def case_layouts(ranks, check: Check):
    for n, d in SIZES:
        whole, weight = normal(n, d), normal(n, d, seed=1)
        mine = leaf(ranks.mine(whole))
        columns = md.rows_to_columns(mine, n, ranks)
        check.equal(columns, columns_of(whole, ranks).contiguous(), f"rows_to_columns {n}x{d}")
        (columns * columns_of(weight, ranks)).sum().backward()
        check.equal(mine.grad, ranks.mine(weight).contiguous(), f"its gradient {n}x{d}")
        mine = leaf(columns_of(whole, ranks).contiguous())
        rows = md.columns_to_rows(mine, d, ranks)
        check.equal(rows, ranks.mine(whole).contiguous(), f"columns_to_rows {n}x{d}")
        (rows * ranks.mine(weight)).sum().backward()
        check.equal(mine.grad, columns_of(weight, ranks).contiguous(), f"its gradient {n}x{d}")


def case_layouts_second_derivative(ranks, check: Check):
    whole = normal(5, 3)
    mine = leaf(ranks.mine(whole))
    columns = md.rows_to_columns(mine, 5, ranks)
    (first,) = torch.autograd.grad((columns**3).sum(), mine, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), mine)
    check.close(second, ranks.mine(6 * whole), "6 x")


def case_layouts_transposed(ranks, check: Check):
    """With strides as from autograd and transposition."""
    whole = normal(5, 7).mT
    columns = md.rows_to_columns(ranks.mine(whole), 7, ranks)
    check.equal(columns, columns_of(whole, ranks).contiguous(), "from a transposed table")
    mine = leaf(ranks.mine(whole))
    md.rows_to_columns(mine, 7, ranks).sum().backward()  # an expanded gradient
    check.equal(mine.grad, torch.ones_like(mine.grad), "expanded gradient")


def shards(u, v, ranks):
    """A number that depends on replicated u and on a sharded table v: Σ_p tanh(u v_pᵀ)², squared."""
    part = (md.copy_to_ranks(u, ranks) @ v.mT).tanh().square().sum(1)
    return md.reduce_from_ranks(part, ranks).square().sum()


def case_reduce_and_copy(ranks, check: Check):
    for n in (7, 1):
        u, v = normal(4, 3), normal(n, 3, seed=1)
        mine_u, mine_v = leaf(u), leaf(ranks.mine(v))
        loss = shards(mine_u, mine_v, ranks)
        loss.backward()
        whole_u, whole_v = leaf(u), leaf(v)
        expected = shards(whole_u, whole_v, md.ONE)
        expected.backward()
        check.close(loss, expected, f"loss, {n} rows")
        check.close(mine_u.grad, whole_u.grad, f"gradient of the replicated, {n} rows")
        check.close(mine_v.grad, ranks.mine(whole_v.grad), f"gradient of the sharded, {n} rows")
        both = md.all_texts(str(mine_u.grad.tolist()), ranks)
        check.true(len(set(both)) == 1, "all ranks have the same bits")


def broken_copy_left_out(ranks, check: Check):
    with mock.patch.object(md, "copy_to_ranks", lambda x, ranks: x):
        case_reduce_and_copy(ranks, check)


def broken_reduce_left_out(ranks, check: Check):
    with mock.patch.object(md, "reduce_from_ranks", lambda x, ranks: x):
        case_reduce_and_copy(ranks, check)


def case_gather_rows(ranks, check: Check):
    for n in (7, 2, 1):
        whole = normal(n, 3, dtype=torch.float32)
        whole[0] = torch.tensor([-0.0, torch.nan, torch.inf])
        ids = torch.tensor([0, n - 1, 0, n // 2])
        mine = leaf(ranks.mine(whole))
        rows = md.gather_rows(mine, ids, n, ranks)
        check.equal(rows, whole[ids], f"of {n} rows")
        weight = normal(4, 3, dtype=torch.float32, seed=1)
        (rows.nan_to_num(0) * weight).sum().backward()
        expected = leaf(whole)
        (expected[ids].nan_to_num(0) * weight).sum().backward()
        check.equal(mine.grad, ranks.mine(expected.grad).contiguous(), f"gradient of {n} rows")
    none = md.gather_rows(leaf(ranks.mine(whole)), torch.empty(0, dtype=torch.int64), n, ranks)
    check.true(none.shape == (0, 3), "no ids")


def case_column_softmax(ranks, check: Check):
    for n, d in SIZES[:-1]:
        whole, weight = 30 * normal(n, d), normal(n, d, seed=1)
        mine, expected = leaf(columns_of(whole, ranks).contiguous()), leaf(whole)
        y = md.column_softmax(mine, ranks)
        check.close(y, columns_of(expected.softmax(1), ranks), f"{n}x{d}")
        (y * columns_of(weight, ranks)).sum().backward()
        (expected.softmax(1) * weight).sum().backward()
        check.close(mine.grad, columns_of(expected.grad, ranks), f"gradient {n}x{d}", 1e-9)


def case_merge_logsumexp(ranks, check: Check):
    whole = 50 * normal(ranks.size, 6)
    whole[1:, 0] = -torch.inf  # one rank alone has the row
    weight = normal(6, seed=1)
    mine, expected = leaf(whole[ranks.rank]), leaf(whole)
    merged = md.merge_logsumexp(mine, ranks)
    check.close(merged, expected.logsumexp(0), "value")
    (merged * weight).sum().backward()
    (expected.logsumexp(0) * weight).sum().backward()
    check.close(mine.grad, expected.grad[ranks.rank], "gradient")
    nowhere = md.merge_logsumexp(torch.full((2,), -torch.inf), ranks)
    check.true(bool((nowhere == -torch.inf).all()), "a row that no rank has")


def case_blocks_and_wholes(ranks, check: Check):
    for n in (7, 2, 0):
        whole = normal(n, 3)
        blocks = list(md.broadcast_blocks(ranks.mine(whole), n, ranks))
        check.true([first for first, _ in blocks] == [a for a, b in ranks.spans(n) if a < b], f"order of {n}")
        check.equal(torch.cat([whole[:0], *(block for _, block in blocks)]), whole, f"blocks of {n}")
        check.equal(md.gather_whole(ranks.mine(whole), n, ranks), whole, f"whole of {n}")
    parts = [torch.full(((ranks.rank + to) % 3,), 10 * ranks.rank + to) for to in range(ranks.size)]
    found = md.exchange_parts(parts, [(of + ranks.rank) % 3 for of in range(ranks.size)], ranks)
    for of, part in enumerate(found):
        check.equal(part, torch.full(((of + ranks.rank) % 3,), 10 * of + ranks.rank), f"part of {of}")
    texts = [f"rank {rank} sagt „{'ü' * rank}“" if rank else "" for rank in range(ranks.size)]
    check.true(md.all_texts(texts[ranks.rank], ranks) == texts, "texts")


def case_reduce_gradients(ranks, check: Check):
    parameters = [
        torch.nn.Parameter(normal(2, 3)),
        torch.nn.Parameter(normal(4).float()),
        torch.nn.Parameter(normal(1)),
    ]
    parts = [[normal(*p.shape, dtype=p.dtype, seed=rank) for p in parameters[:2]] for rank in range(ranks.size)]
    for parameter, part in zip(parameters, parts[ranks.rank], strict=False):
        parameter.grad = part.clone()
    md.reduce_gradients(parameters, ranks)
    for at, parameter in enumerate(parameters[:2]):
        check.close(parameter.grad, sum(part[at] for part in parts), f"parameter {at}", 1e-6)
    check.true(parameters[2].grad is None, "no gradient stays none")


def case_propagate(ranks, check: Check):
    graph = a_graph()
    for to, n, d in (("users", 17, 5), ("items", 23, 8), ("users", 17, 1)):
        for norm in ("receiver", "both", "none"):
            whole = normal(n, d, dtype=torch.float32)
            mine, expected = leaf(ranks.mine(whole)), leaf(whole)
            y, truth = md.propagate(graph, mine, ranks, to, norm), mf.propagate(graph, expected, to, norm)
            check.equal(y, ranks.mine(truth).contiguous(), f"to {to}, {norm}, d = {d}")
            weight = normal(*truth.shape, dtype=torch.float32, seed=1)
            (y * ranks.mine(weight)).sum().backward()
            (truth * weight).sum().backward()
            check.equal(mine.grad, ranks.mine(expected.grad).contiguous(), f"gradient to {to}, {norm}, d = {d}")


def case_lightgcn(ranks, check: Check):
    graph = a_graph()
    for d, layers in ((6, 3), (2, 1), (3, 0)):
        tables = normal(23, d, dtype=torch.float32), normal(17, d, dtype=torch.float32, seed=1)
        mine, whole = [leaf(ranks.mine(x)) for x in tables], [leaf(x) for x in tables]
        y, truth = md.lightgcn(graph, *mine, layers, ranks, "both"), mf.lightgcn(graph, *whole, layers, "both")
        for at, side in enumerate(("users", "items")):
            check.equal(y[at], ranks.mine(truth[at]).contiguous(), f"{side}, d = {d}, {layers} layers")
        sum((y[at] * ranks.mine(tables[at])).sum() for at in (0, 1)).backward()
        sum((truth[at] * tables[at]).sum() for at in (0, 1)).backward()
        for at, side in enumerate(("users", "items")):
            expected = ranks.mine(whole[at].grad).contiguous()
            check.equal(mine[at].grad, expected, f"gradient of {side}, d = {d}, {layers} layers")


def case_bpr_loss(ranks, check: Check):
    tables = normal(23, 6, dtype=torch.float32), normal(17, 6, dtype=torch.float32, seed=1)
    graph = a_graph()
    for batch in (64, 1):
        triples = mf.sample_bpr(graph, batch, 3)
        mine, whole = [leaf(ranks.mine(x)) for x in tables], [leaf(x) for x in tables]
        loss, truth = md.bpr_loss(*mine, *triples, 23, 17, ranks), mf.bpr_loss(*whole, *triples)
        check.equal(loss, truth, f"loss of {batch}")
        loss.backward()
        truth.backward()
        for at, side in enumerate(("users", "items")):
            check.equal(mine[at].grad, ranks.mine(whole[at].grad).contiguous(), f"gradient of {side}, {batch}")
    try:
        md.bpr_loss(*mine, triples[0], triples[1], triples[2] + 17, 23, 17, ranks)
        check.true(False, "an id outside is refused")
    except IndexError as error:
        check.true("neg[0] is" in str(error), f"the message: {error}")


def broken_gather_forgotten(ranks, check: Check):
    """Each rank takes its own part of the rows for the whole."""
    with mock.patch.object(collectives, "all_sum", lambda x, ranks: x):
        case_bpr_loss(ranks, check)


def infonce_agrees(ranks, check: Check, n, d, ids, tau, exclude_self, dtype=torch.float64, relative=1e-12):
    tables = normal(n, d, dtype=dtype), normal(n, d, dtype=dtype, seed=1)
    label = f"of {n}x{d}, {len(ids)} anchors, tau = {tau}, exclude_self = {exclude_self}, {dtype}"
    mine, whole = [leaf(ranks.mine(x)) for x in tables], [leaf(x) for x in tables]
    loss, truth = md.infonce(*mine, ids, tau, n, ranks, exclude_self), mf.infonce(*whole, ids, tau, exclude_self)
    check.close(loss, truth, f"loss {label}", relative, 1 / tau)
    check.true(loss.dtype == truth.dtype and len(set(md.all_texts(loss.item().hex(), ranks))) == 1, f"bits {label}")
    (3 * loss).backward()
    (3 * truth).backward()
    for x, y, name in zip(mine, whole, "he", strict=True):
        check.close(x.grad, ranks.mine(y.grad), f"gradient of {name} {label}", relative, 1 / tau)


def case_infonce(ranks, check: Check):
    for n, d, batch in ((23, 6, 40), (5, 3, 2), (1, 2, 3)):
        ids = torch.randint(n, (batch,), generator=torch.Generator().manual_seed(3))
        for tau in (0.5, 0.01):
            for exclude_self in (False, True):
                infonce_agrees(ranks, check, n, d, ids, tau, exclude_self)
    infonce_agrees(ranks, check, 23, 6, torch.tensor([22, 22, 21]), 0.2, True)  # anchors of one rank
    infonce_agrees(ranks, check, 23, 6, torch.arange(23, dtype=torch.int32), 0.2, True, torch.float32, 1e-6)
    infonce_agrees(ranks, check, 23, 6, torch.arange(9), 0.2, False, torch.bfloat16, 0.01)
    with tiles_of(1), mock.patch.dict(md.infonce.__globals__, {"SAVED_EXPS": 0}):  # tiles of 64 keys
        for exclude_self in (False, True):
            infonce_agrees(ranks, check, 300, 4, torch.arange(0, 300, 7), 0.2, exclude_self)
    none = md.infonce(*[ranks.mine(normal(5, 2))] * 2, torch.empty(0, dtype=torch.int64), 0.2, 5, ranks)
    check.true(bool(none.isnan()), "no anchors")
    for ids, tau, message in (([4, 5], 0.2, "ids[1] = 5 is outside [0, 5)"), ([0], -1.0, "tau must be positive")):
        try:
            md.infonce(*[ranks.mine(normal(5, 2))] * 2, torch.tensor(ids), tau, 5, ranks)
            check.true(False, message)
        except ValueError as error:
            check.true(message in str(error), f"the message: {error}")


def broken_infonce_anchors_not_copied(ranks, check: Check):
    """The gradient of an anchor lacks the keys of the other ranks."""
    with mock.patch.dict(md.infonce.__globals__, {"copy_to_ranks": lambda x, ranks: x}):
        case_infonce(ranks, check)


def broken_infonce_own_keys_only(ranks, check: Check):
    with mock.patch.dict(md.infonce.__globals__, {"merge_logsumexp": lambda lse, ranks: lse}):
        case_infonce(ranks, check)


def case_infonce_bytes(ranks, check: Check):
    p, n, d, s = ranks.size, 4 * ranks.size, 6, 8
    h, e = leaf(ranks.mine(normal(n, d))), leaf(ranks.mine(normal(n, d, seed=1)))
    ids = torch.arange(0, n, 2).repeat(2)
    before = ranks.received
    loss = md.infonce(h, e, ids, 0.2, n, ranks)
    forward = ranks.received - before
    check.true(forward == (2 * d + 6) * (n // 2) * s * (p - 1) // p, f"forward: {forward}")
    loss.backward()
    backward = ranks.received - before - forward
    check.true(backward == 2 * (n // 2) * d * s * (p - 1) // p, f"backward: {backward}")


def case_cosine_topk(ranks, check: Check):
    graph = a_graph()
    users, items = normal(23, 4, dtype=torch.float32), normal(17, 4, dtype=torch.float32, seed=1).round()
    users = users.round()  # many ties
    own = torch.arange(*ranks.span(23))
    order = torch.randperm(17, generator=torch.Generator().manual_seed(2))
    place = torch.empty(17, dtype=torch.int64)
    place[order] = torch.arange(17)
    moved = mf.InteractionGraph.from_pairs(*_pairs(graph, place), 23, 17)
    for kind in ("cosine", "dot"):
        for k in (0, 3, 17, 40):
            truth = mf.cosine_topk(users, items, k, graph.rows(torch.arange(23)), kind)
            found = md.cosine_topk(users[own], ranks.mine(items), k, 17, ranks, graph.rows(own), kind)
            for x, y, what in zip(found, truth, ("values", "items"), strict=True):
                check.equal(x, y[own].contiguous(), f"{what}, {kind}, k = {k}")
            truth = mf.cosine_topk(users, items[order], k, moved.rows(torch.arange(23)), kind)
            found = md.cosine_topk(users[own], ranks.mine(items), k, 17, ranks, moved.rows(own), kind, place)
            for x, y, what in zip(found, truth, ("values", "places"), strict=True):
                check.equal(x, y[own].contiguous(), f"{what} in another order, {kind}, k = {k}")
    some = torch.where(place < 9, place, -1)
    truth = mf.cosine_topk(users, items[order][:9], 5)
    found = md.cosine_topk(users[own], ranks.mine(items), 5, 17, ranks, places=some)
    check.equal(found[1], truth[1][own].contiguous(), "some items left out")
    one = mf.cosine_topk(users, items[:1], 2, kind="dot")
    found = md.cosine_topk(users[own], ranks.mine(items[:1]), 2, 1, ranks, kind="dot")
    check.equal(found[1], one[1][own].contiguous(), "one item")


def broken_ties_reversed(ranks, check: Check):
    def reversed_ties(values, items, k):
        found = md.merge_topk(values, torch.where(items < 0, -1, 1000 - items), k)
        return found[0], torch.where(found[1] < 0, -1, 1000 - found[1])

    with mock.patch.dict(md.cosine_topk.__globals__, {"merge_topk": reversed_ties}):
        case_cosine_topk(ranks, check)


def case_bytes(ranks, check: Check):
    """What a LightGCN step receives is what the docstrings say, with equal parts: n and d are multiples of P."""
    p, n, d, s = ranks.size, 12 * ranks.size, 6 * ranks.size, 4
    graph = a_graph(n, 2 * n)
    tables = [leaf(ranks.mine(normal(rows, d, dtype=torch.float32))) for rows in (n, 2 * n)]
    triples = mf.sample_bpr(graph, 32, 1)
    before = ranks.received
    embedded = md.lightgcn(graph, *tables, 2, ranks, "both")
    layouts = ranks.received - before
    check.true(layouts == 2 * 3 * n * d * s * (p - 1) // p**2, f"layouts: {layouts}")
    loss = md.bpr_loss(*embedded, *triples, n, 2 * n, ranks)
    distinct = len(triples[0].unique()) + len(torch.cat(triples[1:]).unique())
    rows = ranks.received - before - layouts
    check.true(abs(rows - 2 * distinct * d * s * (p - 1) / p) <= 2, f"rows: {rows}")
    loss.backward()
    check.true(ranks.received - before - layouts - rows == layouts, "backward as forward")


def _pairs(graph, place):
    users = torch.repeat_interleave(torch.arange(graph.n_users), graph.user_degree)
    return users, place[graph.col.long()]
