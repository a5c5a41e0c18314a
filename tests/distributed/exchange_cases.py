"""Exchanges that are under way while something else is computed: values, gradients, the order of sends and waits."""

from __future__ import annotations

from unittest import mock

import torch
from driver import Check
from op_cases import SIZES, leaf, normal

from mmssl_fast import distributed as md
from mmssl_fast.distributed import collectives


class Marked(torch.autograd.Function):
    """The identity; writes its name when it is computed, forward and backward."""

    @staticmethod
    def forward(ctx, x, events, name):
        ctx.events, ctx.name = events, name
        events.append(name)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.events.append(ctx.name)
        return grad, None, None


def case_exchanges_under_way(ranks, check: Check):
    """Two tables are exchanged in both directions, each while something else is computed, forward and backward. With
    one rank nothing is sent."""
    for n, d in SIZES:
        tables, weights = (normal(n, d), normal(n, d, seed=1)), (normal(n, d, seed=2), normal(n, d, seed=3))
        events, mine, truth = [], [leaf(ranks.mine(x)) for x in tables], [leaf(x) for x in tables]
        send, wait = collectives.Transfer.__init__, collectives.Transfer.wait

        def sent(self, *rest, events=events, send=send):
            events.append("send")
            send(self, *rest)

        def waited(self, events=events, wait=wait):
            events.append("wait")
            return wait(self)

        before = ranks.received
        with mock.patch.multiple(collectives.Transfer, __init__=sent, wait=waited):
            first, second = (md.start_rows_to_columns(x, n, ranks) for x in mine)
            columns = first.wait()
            back = md.start_columns_to_rows(Marked.apply(columns, events, "first"), d, ranks)
            other = md.start_columns_to_rows(Marked.apply(second.wait(), events, "second"), d, ranks)
            rows = back.wait(), other.wait()
            for x, y, name in zip(rows, tables, "ab", strict=True):
                check.equal(x, ranks.mine(y).contiguous(), f"{name} of {n}x{d}")
            forward = ["send", "send", "wait", "first", "send", "wait", "second", "send", "wait", "wait"]
            check.true(events == transfers(forward, ranks), f"order in forward: {events}")
            events.clear()
            sum((x * ranks.mine(w)).sum() for x, w in zip(rows, weights, strict=True)).backward()
        backward = ["send", "send", "wait", "second", "send", "wait", "first", "send", "wait", "wait"]
        check.true(events == transfers(backward, ranks), f"order in backward: {events}")
        for x, w, name in zip(mine, weights, "ab", strict=True):
            check.equal(x.grad, ranks.mine(w).contiguous(), f"gradient of {name} of {n}x{d}")
        received = ranks.received - before
        for x in truth:
            md.columns_to_rows(md.rows_to_columns(leaf(ranks.mine(x.detach())), n, ranks), d, ranks).sum().backward()
        check.true(2 * received == ranks.received - before, f"bytes of {n}x{d}: {received}")
    try:
        md.start_columns_to_rows(torch.zeros(3, 100), 7, ranks)
        check.true(ranks.size == 1, "columns of another rank are refused")
    except ValueError as error:
        check.true("start_columns_to_rows: y is (3, 100)" in str(error), f"the message: {error}")


def transfers(events, ranks):
    """The events without transfers, if there is one rank."""
    return [one for one in events if ranks.size > 1 or one not in ("send", "wait")]
