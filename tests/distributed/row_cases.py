"""Relation rows whose columns are divided among ranks, compared with one rank: values and gradients."""

from __future__ import annotations

from unittest import mock

import torch
from driver import Check
from op_cases import a_graph, columns_of, leaf, normal

import mmssl_fast as mf
from mmssl_fast import distributed as md
from mmssl_fast.nn import MMSSL
from mmssl_fast.nn.features import standardised
from mmssl_fast.relation import RelationRows
from mmssl_fast.relation.algebra.gradient_norm import gradient_norm


def leaves(n_items, dtype=torch.float64):
    """u [5, 4], v [I, 4] and W [3, I]."""
    return [normal(5, 4, dtype=dtype), normal(n_items, 4, dtype=dtype, seed=1), normal(3, n_items, dtype=dtype, seed=2)]


def own_leaves(whole, ranks):
    u, v, weight = whole
    return [leaf(u), leaf(ranks.mine(v)), leaf(columns_of(weight, ranks).mT.contiguous().mT)]


def first_layer(u, v, weight, bias, seen, gumbel, row_l2, ranks, n_items):
    """The first layer of generated rows, and of Gumbel rows plus generated rows; and its penalty."""
    shared = md.copy_to_ranks(u, ranks)
    span = ranks.span(n_items)
    generated = RelationRows.generated(shared, v, seen=seen and md.seen_of_items(seen, *span))
    mixed = RelationRows.gumbel(*gumbel, items=span).to(u.dtype) + 0.3 * generated
    rows = [generated, mixed]
    if row_l2:
        rows = [md.normalize_rows(block, ranks) for block in rows]
    z = md.relation_linear(torch.cat(rows), weight, ranks, bias)
    return torch.cat((z.tanh().sum(1), md.gradient_norm(z.cos(), weight, ranks)))


def case_first_layer(ranks, check: Check):
    users = torch.tensor([3, 0, 7, 0, 22])  # 3 has no items
    for n_items in (17, 3):
        graph = a_graph(n_items=n_items) if n_items > 5 else mf.InteractionGraph.from_pairs([0, 0, 7], [0, 2, 1], 23, 3)
        bias = normal(3, seed=4)
        for tau, noise_scale in ((0.15, 1.0), (0.5, 1.0), (0.2, 0.0)):
            gumbel = graph, users, tau, 5, 1, noise_scale
            for seen in (None, graph.rows(users)):
                for row_l2 in (False, True):
                    label = f"{n_items} items, tau = {tau}, sigma = {noise_scale}, seen = {seen is not None}, {row_l2}"
                    layer_agrees(ranks, check, label, bias, seen, gumbel, row_l2, n_items)


def layer_agrees(ranks, check, label, bias, seen, gumbel, row_l2, n_items):
    tables = leaves(n_items)
    mine, whole = own_leaves(tables, ranks), own_leaves(tables, md.ONE)
    y = first_layer(*mine, bias, seen, gumbel, row_l2, ranks, n_items)
    truth = first_layer(*whole, bias, seen, gumbel, row_l2, md.ONE, n_items)
    check.close(y, truth, f"value, {label}", 1e-11)
    weight = normal(*truth.shape, seed=3)
    (y * weight).sum().backward()
    (truth * weight).sum().backward()
    expected = whole[0].grad, ranks.mine(whole[1].grad), columns_of(whole[2].grad, ranks)
    for x, gradient, name in zip(mine, expected, ("u", "v", "W"), strict=True):
        check.close(x.grad, gradient, f"gradient of {name}, {label}", 1e-10, 1.0)


def broken_lengths_of_own_columns(ranks, check: Check):
    with mock.patch.object(md, "normalize_rows", lambda rows, ranks: rows.normalize()):
        case_first_layer(ranks, check)


def broken_scale_not_copied(ranks, check: Check):
    """The gradient of the length of a row lacks the columns of the other ranks."""
    with mock.patch.dict(md.normalize_rows.__globals__, {"copy_to_ranks": lambda x, ranks: x}):
        case_first_layer(ranks, check)


def case_gradient_norm(ranks, check: Check):
    """For H ≤ 2B and H > 2B; a row of zeros has gradient 0."""
    for b, h, n in ((5, 3, 17), (2, 7, 17), (2, 3, 2)):
        g, weight = normal(b, h), normal(h, n, seed=1)
        g[0] = 0
        mine, whole = (leaf(g), leaf(columns_of(weight, ranks).contiguous())), (leaf(g), leaf(weight))
        norm, truth = md.gradient_norm(*mine, ranks), gradient_norm(*whole)
        check.close(norm, truth, f"norm {b}, {h}, {n}")
        (norm * norm.detach().cos()).sum().backward()
        (truth * truth.detach().cos()).sum().backward()
        check.close(mine[0].grad, whole[0].grad, f"gradient of g {b}, {h}, {n}")
        check.close(mine[1].grad, columns_of(whole[1].grad, ranks), f"gradient of W {b}, {h}, {n}")


def broken_gradient_norm_not_copied(ranks, check: Check):
    with mock.patch.dict(md.gradient_norm.__globals__, {"copy_to_ranks": lambda x, ranks: x}):
        case_gradient_norm(ranks, check)


def case_standardised_features(ranks, check: Check):
    for n, d in ((7, 3), (2, 2), (1, 1)):
        raw = normal(n, d, dtype=torch.float32) + 5
        raw[:, 0] = 3  # a constant column
        check.close(standardised(ranks.mine(raw), ranks), ranks.mine(standardised(raw)), f"of {n} rows", 1e-14)
        raw[n // 2] = float("nan")  # a missing row
        check.close(standardised(ranks.mine(raw), ranks), ranks.mine(standardised(raw)), f"of {n - 1} rows", 1e-14)


def case_model_of_all_ranks_with_missing_rows(ranks, check: Check):
    features = {"image": normal(17, 5, dtype=torch.float32), "text": normal(17, 3, dtype=torch.float32)}
    features["text"][[2, 3, 11]] = float("nan")
    graph = a_graph()
    whole = seeded(lambda: MMSSL(graph, features, dim=8, neighbours=2, dropout=0.0))[0]
    part = seeded(lambda: MMSSL(graph, features, dim=8, neighbours=2, dropout=0.0, ranks=ranks))[0]
    own = whole.semantic_neighbours[:, slice(*ranks.span(graph.n_users))]
    check.equal(part.semantic_neighbours, own.contiguous(), "neighbours")
    for name in ("users", "items"):
        check.close(getattr(part(), name), ranks.mine(getattr(whole(), name)), name, 1e-5)


def case_model_of_all_ranks(ranks, check: Check):
    graph, features = a_graph(), {"image": normal(17, 5, dtype=torch.float32)}
    whole, after = seeded(lambda: MMSSL(graph, features, dim=8, neighbours=2, dropout=0.0))
    part, state = seeded(lambda: MMSSL(graph, features, dim=8, neighbours=2, dropout=0.0, ranks=ranks))
    check.equal(state, after, "the generator's state")
    check.equal(part.user_embedding, ranks.mine(whole.user_embedding), "users")
    check.equal(part.item_embedding, ranks.mine(whole.item_embedding), "items")
    own = whole.semantic_neighbours[:, slice(*ranks.span(graph.n_users))]
    check.equal(part.semantic_neighbours, own.contiguous(), "neighbours")
    for name in ("users", "items"):
        check.close(getattr(part(), name), ranks.mine(getattr(whole(), name)), name, 1e-5)


def seeded(call):
    torch.manual_seed(5)
    return call(), torch.get_rng_state()


def case_rows_and_columns_in_bfloat16(ranks, check: Check):
    """Values of float32 are rounded once in each exchange, also those that stay; half the bytes are received."""
    whole = normal(7, 5, dtype=torch.float32)
    rounded = whole if ranks.size == 1 else whole.bfloat16().float()
    md.all_texts("", ranks)
    counts = []
    for wire in (None, torch.bfloat16):
        before, ranks.wire = ranks.received, wire
        columns = md.rows_to_columns(ranks.mine(whole), 7, ranks)
        expected = whole if wire is None else rounded
        check.equal(columns, columns_of(expected, ranks).contiguous(), f"columns, {wire}")
        check.equal(md.columns_to_rows(columns, 5, ranks), ranks.mine(expected).contiguous(), f"rows, {wire}")
        counts.append(ranks.received - before)
    ranks.wire = None
    check.true(counts[0] == 2 * counts[1], f"bytes {counts}")


def case_dropout_is_that_of_one_process(ranks, check: Check):
    """The same masks and the same state of the generator. A rank keeps no more than the mask of its items."""
    graph, features = a_graph(), {"image": normal(17, 5, dtype=torch.float32)}
    for rate in (0.0, 0.3):
        whole = seeded(lambda rate=rate: MMSSL(graph, features, dim=8, neighbours=0, dropout=rate))[0]
        part = seeded(lambda rate=rate: MMSSL(graph, features, dim=8, neighbours=0, dropout=rate, ranks=ranks))[0]
        x = leaf(normal(17, 8, dtype=torch.float32))
        dropped, after = seeded(lambda x=x, whole=whole: whole._dropped(x))
        own, state = seeded(lambda x=x, part=part: part._dropped(ranks.mine(x)))
        check.close(own, ranks.mine(dropped), f"dropout {rate}", 1e-7)
        check.equal(own == 0, ranks.mine(dropped) == 0, f"mask {rate}")
        check.equal(state, after, f"state {rate}")
        if rate and ranks.size > 1:
            kept = own.grad_fn._saved_other.untyped_storage().nbytes()
            check.true(kept == own.numel() * 4, f"{kept} bytes kept for {own.numel()} values")
