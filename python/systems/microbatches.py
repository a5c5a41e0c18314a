"""The parts of a batch (train.microbatches), whose losses are computed one after the other on one propagation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from mmssl_fast.nn import Encoded
from mmssl_fast.nn.objective import anchor_positions

CONTRASTS = ("contrastive", "structural")  # the terms that are means over the anchors


class Part(NamedTuple):
    """A part of a batch.

    rows: its triples. share: their share of the batch. anchors: positions of its anchors among them; None: all of them.
    anchor_share: their share of all anchors.
    """

    rows: slice
    share: float
    anchors: Tensor | None
    anchor_share: float

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The contribution of this part to the loss of the batch: terms that are means over triples or anchors,
        weighted by its share of these."""
        if self.share == self.anchor_share == 1:
            return terms["total"]
        weighted = [term * self.weight(name) for name, term in terms.items() if name != "total"]
        return torch.stack(weighted).sum()

    def weight(self, name: str) -> float:
        return self.anchor_share if name in CONTRASTS else self.share


def parts_of(batch: int, microbatches: int, anchors: int, device: torch.device) -> list[Part]:
    """`microbatches` parts of a batch, whose sizes differ by at most 1, with the anchors of the whole batch."""
    if microbatches == 1:
        return [Part(slice(0, batch), 1.0, None, 1.0)]
    bounds = [batch * i // microbatches for i in range(microbatches + 1)]
    positions = anchor_positions(batch, anchors)
    parts = []
    for first, last in pairwise(bounds):
        own = positions[(positions >= first) & (positions < last)] - first
        every = len(own) == last - first
        share, anchor_share = (last - first) / batch, len(own) / len(positions)
        parts.append(Part(slice(first, last), share, None if every else own.to(device), anchor_share))
    return parts


class Terms:
    """The loss terms of a batch, from those of its parts: detached, because an autograd graph refers to the relation
    rows."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}

    def add(self, part: Part, terms: dict[str, Tensor]) -> Tensor:
        """Adds the terms of a part. Returns its contribution to the loss."""
        total = part.total(terms)
        for name, term in terms.items():
            value = total.detach() if name == "total" else term.detach()
            if name != "total" and part.weight(name) != 1:
                value = value * part.weight(name)
            self.values[name] = self.values[name] + value if name in self.values else value
        return total


def backward(losses: Iterable[Tensor]) -> None:
    """Equals ``sum(losses).backward()``, with the autograd graph of one loss at a time."""
    for loss in losses:
        loss.backward()
        del loss  # before the next one is computed


def backward_through(encoded: Encoded, losses: Iterable[Tensor], leaves: Encoded) -> None:
    """Equals ``sum(losses).backward()``, where the losses are functions of `leaves` = ``leaves_of(encoded)``: the
    gradients of all losses by the encoded tensors are added up, and passed through the encoder once.

    That is the chain rule: the encoder is linear in the gradients that it gets.
    """
    backward(losses)
    pairs = [(x, leaf.grad) for x, leaf in zip(_tensors(encoded), _tensors(leaves), strict=True)]
    given = [(x, grad) for x, grad in pairs if grad is not None and x.requires_grad]
    torch.autograd.backward([x for x, _ in given], [grad for _, grad in given])


def leaves_of(encoded: Encoded) -> Encoded:
    """The same values as leaves of the autograd graph, whose .grad collects gradients."""
    leaves = encoded.detach()
    for x in _tensors(leaves):
        x.requires_grad_()
    return leaves


def _tensors(encoded: Encoded) -> Iterator[Tensor]:
    for field in fields(encoded):
        value = getattr(encoded, field.name)
        yield from value if isinstance(value, list) else [value]
