"""Pieces of the systems in plain PyTorch, dense and float64."""

import pytest
import torch
import torch.nn.functional as F
from configurations import short
from mmssl_trainer import systems
from mmssl_trainer.systems.base import Batch

from mmssl_fast.graph import InteractionGraph

TRAINED = sorted(name for name in systems.SYSTEMS if systems.create(name).trains)


def configured(system, **values):
    return short(system, {"model.dim": 16, "train.epochs": 8, "train.batch": 256, "optimiser.lr": 0.05}, **values)


def built(data, name, **values):
    torch.manual_seed(5)
    system = systems.create(name)
    system.build(data, InteractionGraph.from_scipy(data.train), configured(name, **values))
    system.start_epoch(1)
    return system


def double(module):
    """Its parameters and features by name, float64, as leaves."""
    named = {name: value.detach().double().requires_grad_() for name, value in module.named_parameters()}
    return named | {name: value.double() for name, value in module.named_buffers() if value.is_floating_point()}


def dense(matrix):
    return torch.from_numpy(matrix.toarray()).double()


def both(adjacency):
    """Scaled by 1/sqrt of both degrees."""
    rows, columns = (adjacency.sum(axis).clamp(min=1).rsqrt() for axis in (1, 0))
    return rows[:, None] * adjacency * columns


def layer_mean(adjacency, users, items, layers):
    kept = [(users, items)]
    for _ in range(layers):
        kept.append((adjacency @ kept[-1][1], adjacency.T @ kept[-1][0]))
    return tuple(sum(layer[side] for layer in kept) / (layers + 1) for side in (0, 1))


TRIPLES = torch.tensor([0, 5, 9, 0]), torch.tensor([1, 2, 3, 4]), torch.tensor([7, 8, 2, 4])


def bpr(users, items):
    anchors, positives, negatives = TRIPLES
    return -F.logsigmoid((users[anchors] * (items[positives] - items[negatives])).sum(1)).mean()


def agrees(system, users, items, parameters):
    """The system's embeddings and the gradients of its BPR term are those of the plain expression."""
    found = system.model()
    for ours, plain in zip(found, (users, items), strict=True):
        torch.testing.assert_close(ours.double(), plain, rtol=2e-4, atol=2e-6)
    system.model.terms(Batch(*TRIPLES, 0))["bpr"].backward()
    bpr(users, items).backward()
    for name, parameter in system.model.named_parameters():
        if parameters[name].grad is not None:
            torch.testing.assert_close(parameter.grad.double(), parameters[name].grad, rtol=2e-3, atol=2e-7)


def contrast(h, e, anchors, tau=0.2):
    """infonce(h, e, anchors, tau, exclude_self=True)."""
    h, e = F.normalize(h, dim=1), F.normalize(e, dim=1)
    logits = torch.cat([e[anchors] @ h.T, e[anchors] @ e.T], 1) / tau
    own = F.one_hot(len(h) + anchors, 2 * len(h)).bool()
    return F.cross_entropy(logits.masked_fill(own, -torch.inf), anchors)


def terms_agree(system, own, seed, **expected):
    """The terms of a step drawn with this seed, and their sum's gradients, are those of the plain expressions."""
    torch.manual_seed(seed)
    found = system.model.terms(Batch(*TRIPLES, 0))
    assert list(found) == list(expected)
    for name, plain in expected.items():
        assert found[name].item() == pytest.approx(plain.item(), rel=1e-5), name
    sum(found.values()).backward()
    sum(expected.values()).backward()
    for name, parameter in system.model.named_parameters():
        torch.testing.assert_close(parameter.grad.double(), own[name].grad, rtol=2e-3, atol=1e-7)
