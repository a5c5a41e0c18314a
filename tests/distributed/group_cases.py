"""Graphs that are divided among groups of ranks, compared with one rank: the same bits, fewer bytes."""

from __future__ import annotations

import copy
import functools
from unittest import mock

import numpy as np
import torch
from driver import Check
from op_cases import a_graph, leaf, normal

import mmssl_fast as mf
from mmssl_fast import distributed as md
from mmssl_fast.distributed import group_graph
from mmssl_fast.nn.neighbours import neighbour_graph
from mmssl_fast.ops.gumbel_rows import GumbelRows


@functools.cache
def in_groups(count: int) -> md.Ranks:
    """These processes in groups. All ranks must call it."""
    try:
        return md.start(timeout_minutes=1, groups=count)
    finally:
        md.start(timeout_minutes=1)


def divided(size: int) -> list[md.Ranks]:
    """The processes in 2 groups or more, for every number that is possible."""
    return [in_groups(count) for count in range(2, size + 1) if size % count == 0]


def of_groups(graph: mf.InteractionGraph, ranks: md.Ranks) -> md.GroupGraph:
    return md.GroupGraph.from_csr(graph.crow.numpy(), graph.col.numpy(), graph.n_items, ranks)


def same_graph(check, found: md.GroupGraph, expected: md.GroupGraph, label: str) -> None:
    """Two graphs of a group have the same blocks and degrees, to the bit."""
    for side, blocks in expected.blocks.items():
        for at, block in blocks.items():
            for name, x in block._asdict().items():
                check.equal(getattr(found.blocks[side][at], name), x, f"{label}, {side}, {at}, {name}")
    for side in ("user_degree", "item_degree"):
        check.equal(getattr(found, side), getattr(expected, side), f"{label}, {side}")


def graphs() -> list[mf.InteractionGraph]:
    """One with odd sizes, and one with a user who has every item, and so few items that some groups have none."""
    return [a_graph(), mf.InteractionGraph.from_pairs([0, 0, 1, 3, 3, 4, 6], [0, 1, 0, 0, 1, 1, 0], 7, 2)]


def tables(graph, d, dtype=torch.float32):
    return normal(graph.n_users, d, dtype=dtype), normal(graph.n_items, d, dtype=dtype, seed=1)


def both_ways(check, whole, own, inputs, ranks, label):
    """The values and gradients of own(this rank's rows) against those of whole(all rows)."""
    mine, expected = [leaf(ranks.mine(x)) for x in inputs], [leaf(x) for x in inputs]
    y, truth = own(*mine), whole(*expected)
    for at, (found, true) in enumerate(zip(y, truth, strict=True)):
        check.equal(found, ranks.mine(true).contiguous(), f"{label}, output {at}")
    sum((found * ranks.mine(true.detach())).sum() for found, true in zip(y, truth, strict=True)).backward()
    sum((true * true.detach()).sum() for true in truth).backward()
    for at, (found, true) in enumerate(zip(mine, expected, strict=True)):
        check.equal(found.grad, ranks.mine(true.grad).contiguous(), f"{label}, gradient {at}")


def case_groups_propagate(ranks, check: Check):
    for grouped in divided(ranks.size):
        for whole in graphs():
            graph = of_groups(whole, grouped)
            for to, d, norm in (("users", 5, "both"), ("items", 8, "receiver"), ("users", 1, "none")):
                x = tables(whole, d)[to == "users"]
                both_ways(
                    check,
                    lambda x, how=(to, norm), whole=whole: [mf.propagate(whole, x, *how)],
                    lambda x, how=(to, norm), graph=graph, grouped=grouped: [md.propagate(graph, x, grouped, *how)],
                    [x],
                    grouped,
                    f"{grouped}, to {to}, {norm}, d = {d}, {whole}",
                )


def broken_groups_in_another_order(ranks, check: Check):
    def reversed_blocks(*arguments):
        return reversed(list(md.broadcast_blocks(*arguments)))

    with mock.patch.dict(md.propagate_columns.__globals__, broadcast_blocks=reversed_blocks):
        case_groups_propagate(ranks, check)


def case_groups_of_all_ranks(ranks, check: Check):
    """The ranks without their groups, for a graph that every rank has, count the same bytes."""
    whole = a_graph()
    x = tables(whole, 5)[1]
    for grouped in [ranks, *divided(ranks.size)]:
        before = grouped.received
        found = md.propagate(whole, ranks.mine(x), grouped.ungrouped)
        check.equal(found, ranks.mine(mf.propagate(whole, x)).contiguous(), f"{grouped}")
        check.true((grouped.received > before) == (ranks.size > 1), f"{grouped}: bytes")
        check.true(grouped.ungrouped.groups.size == 1, f"{grouped}: groups")


def case_groups_lightgcn(ranks, check: Check):
    for grouped in divided(ranks.size):
        for whole in graphs():
            graph = of_groups(whole, grouped)
            for d, layers, norm in ((6, 3, "both"), (7, 2, "receiver"), (1, 1, "none"), (3, 0, "both")):
                how = layers, norm
                both_ways(
                    check,
                    lambda u, i, how=how, whole=whole: mf.lightgcn(whole, u, i, *how),
                    lambda u, i, how=how, graph=graph, on=grouped: md.lightgcn(graph, u, i, how[0], on, how[1]),
                    tables(whole, d),
                    grouped,
                    f"{grouped}, {layers} layers, {norm}, d = {d}, {whole}",
                )
        narrow = [grouped.mine(x).bfloat16() for x in tables(a_graph(), 6)]
        found = md.lightgcn(of_groups(a_graph(), grouped), *narrow, 2, grouped, "both")
        expected = mf.lightgcn(a_graph(), *(x.bfloat16() for x in tables(a_graph(), 6)), 2, "both")
        for one, truth in zip(found, expected, strict=True):
            check.equal(one.float(), grouped.mine(truth).float(), f"bfloat16, {grouped}")


def case_groups_bytes(ranks, check: Check):
    """What a rank receives for one propagation, and in backward. The sizes are multiples of 2, 3 and 4."""
    n_users, n_items, d = 24, 36, 12
    whole = a_graph(n_users, n_items)
    for grouped in divided(ranks.size):
        graph, p, g = of_groups(whole, grouped), ranks.size, grouped.groups.size
        c = p // g
        x, before = leaf(grouped.mine(normal(n_items, d, dtype=torch.float32))), grouped.received
        y = md.propagate(graph, x, grouped, "users", "both")
        forward = grouped.received - before
        y.sum().backward()
        for n, found in ((n_items, forward), (n_users, grouped.received - before - forward)):
            expected = 4 * d * ((n_items + n_users) * (c - 1) / (p * c) + n / c * (g - 1) / g)
            check.true(found == expected, f"{grouped}: {found} bytes, by the formula {expected}")


def case_groups_memory(ranks, check: Check):
    """The arrays of a rank's part of the graph against those of the whole graph."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.rand(600, 600, generator=generator) < 0.3
    whole = mf.InteractionGraph.from_pairs(*pairs.nonzero().T, 600, 600)
    size = sum(x.nbytes for x in vars(whole).values() if isinstance(x, torch.Tensor))
    for grouped in divided(ranks.size):
        share = of_groups(whole, grouped).nbytes() / size * grouped.groups.size
        check.true(0.95 < share < 1.1, f"{grouped}: {share:.2f} of the whole, divided by the number of groups")


def rounding(grouped: md.Ranks) -> md.Ranks:
    """The same ranks with bfloat16 on the wire."""
    parts = [copy.copy(one) for one in (grouped, grouped.columns, grouped.groups)]
    parts[0]._columns, parts[0]._groups = parts[1:]
    for one in parts:
        one.wire = torch.bfloat16
    return parts[0]


def case_groups_wire(ranks, check: Check):
    """What is sent is rounded, half as many bytes; sums are float32. Not what one rank has: its graph is whole."""
    for grouped in divided(ranks.size):
        narrow = rounding(grouped)
        for whole in graphs():
            graph, x = of_groups(whole, narrow), tables(whole, 8)[1]
            expected = mf.propagate(whole, x.bfloat16().float(), "users", "both")
            if narrow.columns.size > 1:  # the rows of the result are exchanged as well
                expected = expected.bfloat16().float()
            found, counts = {}, {}
            for on in (narrow, grouped):
                graph.ranks, before = on, on.received
                found[on] = md.propagate(graph, on.mine(x), on, "users", "both")
                counts[on] = on.received - before
            check.equal(found[narrow], narrow.mine(expected).contiguous(), f"{narrow}, {whole}")
            check.true(2 * counts[narrow] == counts[grouped] > 0, f"{narrow}: {counts} bytes")
            double = md.propagate(graph, narrow.mine(x.double()), narrow, "users", "both")
            check.equal(double, narrow.mine(mf.propagate(whole, x.double(), "users", "both")), f"{narrow}, float64")


def case_groups_thinned(ranks, check: Check):
    """A graph with some of the edges is the one that is cut from the whole graph with these edges."""
    generator = torch.Generator().manual_seed(4)
    for grouped in divided(ranks.size):
        for whole in graphs():
            graph, (first, last) = of_groups(whole, grouped), grouped.groups.span(whole.n_users)
            begin, end = int(whole.crow[first]), int(whole.crow[last])
            check.true(md.own_edges(graph) == (begin, end), f"{grouped}, {whole}: {md.own_edges(graph)}")
            for share in (0.6, 0.0, 1.0):
                kept = torch.rand(whole.nnz, generator=generator) < share
                expected = of_groups(md.thinned(whole, kept), grouped)
                before = grouped.received
                found = md.thinned(graph, kept[begin:end])
                others = [n - int(np.diff(grouped.groups.span(n))[0]) for n in (whole.n_users, whole.n_items)]
                masks = sum(len(block.col) for at, block in graph.blocks["items"].items() if not first <= at < last)
                label = f"{grouped}, {whole}, {share}"
                check.true(grouped.received - before == masks + 4 * sum(others), f"{label}: bytes")
                check.true(repr(found) == repr(expected), f"{label}: {found}")
                same_graph(check, found, expected, label)


def broken_groups_thinned_with_masks_of_this_group(ranks, check: Check):
    def ones(parts, sizes, _):
        return [torch.ones(size, dtype=torch.uint8) for size in sizes]

    with mock.patch.dict(md.thinned.__globals__, exchange_parts=ones):
        case_groups_thinned(ranks, check)


def case_groups_sampling(ranks, check: Check):
    for grouped in divided(ranks.size):
        for whole in graphs():
            graph = of_groups(whole, grouped)
            for over, batch in (("interactions", 64), ("interactions", 1), ("users", whole.n_eligible), ("users", 2)):
                before = grouped.received
                found = md.sample_bpr(graph, batch, 2**63 + 5, 3, over)
                count = grouped.groups.size
                check.true(grouped.received - before == 32 * batch * (count - 1) // count, f"{grouped}: bytes")
                for ids, truth in zip(found, mf.sample_bpr(whole, batch, 2**63 + 5, 3, over), strict=True):
                    check.equal(ids, truth, f"{grouped}, {batch} over {over}, {whole}")


def broken_groups_sampling_without_sum(ranks, check: Check):
    with mock.patch.dict(md.sample_bpr.__globals__, all_sum=lambda x, _: x):
        case_groups_sampling(ranks, check)


def case_groups_rows(ranks, check: Check):
    for grouped in divided(ranks.size):
        for whole in graphs():
            graph, users = of_groups(whole, grouped), torch.tensor([6, 0, 3, 6, 1])
            for name, found, truth in (
                ("rows", graph.rows(users), whole.rows(users)),
                ("no rows", graph.rows(users[:0]), whole.rows(users[:0])),
                ("own rows", *(md.own_rows(one, torch.arange(*grouped.span(whole.n_users))) for one in (graph, whole))),
            ):
                check.equal(found.crow, truth.crow, f"{grouped}, {name}, offsets")
                check.equal(found.col, truth.col, f"{grouped}, {name}, items")
            for method in ("order_statistics", "dense"):
                found = GumbelRows(md.batch_rows(graph, users), users, 0.2, 7, method=method).dense()
                check.equal(found, GumbelRows(whole, users, 0.2, 7, method=method).dense(), f"{grouped}, {method}")
            for name in ("n_users", "n_items", "nnz", "n_eligible", "max_degree"):
                check.true(getattr(graph, name) == getattr(whole, name), f"{grouped}, {name}")
            for side in ("user_degree", "item_degree"):
                check.equal(getattr(graph, side).long(), getattr(whole, side), f"{grouped}, {side}")


def case_groups_neighbours(ranks, check: Check):
    """The graph of semantic neighbours, from those of the users of each rank. Some have fewer or none."""
    generator = torch.Generator().manual_seed(2)
    for n_users, n_items, k in ((23, 17, 3), (5, 2, 2), (2, 9, 4)):
        listed = torch.rand(n_users, n_items, generator=generator).argsort(1)[:, :k]
        listed[torch.rand(n_users, k, generator=generator) < 0.3] = -1
        whole = neighbour_graph(listed, n_items)
        for grouped in [ranks, *divided(ranks.size)]:
            before = grouped.received
            found = neighbour_graph(grouped.mine(listed), n_items, grouped, n_users)
            first, last = grouped.span(n_users)
            label = f"{grouped}, {n_users} x {n_items}"
            check.true(grouped.received - before == 8 * k * (n_users - last + first), f"{label}: bytes")
            if grouped is ranks:
                for name in ("crow", "col", "t_crow", "t_col"):
                    check.equal(getattr(found, name), getattr(whole, name), f"{label}, {name}")
                continue
            same_graph(check, found, of_groups(whole, grouped), label)


def case_groups_in_small_blocks(ranks, check: Check):
    """Blocks that end within the row of a user have the same result."""
    for grouped in divided(ranks.size):
        expected = of_groups(a_graph(), grouped)
        with mock.patch.object(group_graph, "BLOCK", 3):
            found = of_groups(a_graph(), grouped)
        for side, blocks in expected.blocks.items():
            for first, block in blocks.items():
                for name, x in block._asdict().items():
                    check.equal(getattr(found.blocks[side][first], name), x, f"{grouped}, {side}, {first}, {name}")
