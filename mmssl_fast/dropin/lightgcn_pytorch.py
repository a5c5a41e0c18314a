"""gusye1234/LightGCN-PyTorch and similar code: `accelerate(Procedure, model, bpr, dataset)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .compare import Case, Instance, in_both_modes, observed, perturbed, uninitialised, with_hits
from .layers import lightgcn_layers
from .losses import bpr_margins, row_squares
from .negatives import UniformTriples
from .ranking import best_unseen, hits_of, pair_keys
from .report import Accelerated, require
from .sparse.adjacency import Adjacency

PARTS = ("computer", "bpr_loss", "optimizer", "UniformSample_original", "shuffle", "Test")
USERS, DRAWN = 96, 512  # users whose metrics are compared; triples in a comparison


def accelerate(
    procedure: ModuleType, model: Any, bpr: Any, dataset: Any, parts: Iterable[str] = PARTS, *, strict: bool = False
) -> Accelerated:
    """Replaces the slow parts of an epoch of LightGCN-PyTorch, after comparing each part on the given model.

        from mmssl_fast.dropin import lightgcn_pytorch
        print(lightgcn_pytorch.accelerate(Procedure, Recmodel, bpr, dataset))  # before the loop over epochs

    Args:
        procedure: the module ``Procedure``, whose ``Test`` and ``utils`` are replaced.
        model: the LightGCN; ``computer`` and ``bpr_loss`` are replaced on this object.
        bpr: the ``utils.BPRLoss``, whose optimizer ``opt`` is switched to fused steps.
        dataset: the loader.
        parts: the parts to replace, from PARTS.
        strict: raise an error if a part differs or is missing, and replace nothing.

    Returns:
        A report: what was replaced, what differs and why, and what is missing. `restore()` undoes all replacements
        except that of the optimizer.

    Raises:
        ValueError: a name is not in PARTS, or (strict) a part was not replaced.
        TypeError: an argument is not what it should be.
    """
    done = Accelerated.of(parts, PARTS)
    require("procedure", procedure, "the module Procedure", "utils", "world")
    require("dataset", dataset, "the dataset of LightGCN-PyTorch", "allPos", "m_items", "testDict", "trainDataSize")
    replacements = _replacements(procedure, model, dataset)
    for part in done.parts:
        if part == "optimizer":
            done.optimizer(part, getattr(bpr, "opt", None))
            continue
        utils = getattr(procedure, "utils", None)
        place = {"computer": model, "bpr_loss": model, "Test": procedure}.get(part, utils)
        if not hasattr(place, part):
            done.missing.append(part)
        else:
            objects = {"model": model, "dataset": dataset, "Procedure": procedure, "utils": utils}
            with perturbed(model.parameters()):
                case = _case(part, model, dataset)
                done.compare(part, place, part, replacements[part], [case], objects=objects)
    done.install(type(model).__name__, strict)
    return done


def _replacements(procedure: Any, model: Any, dataset: Any) -> dict[str, Callable[..., Any] | str]:
    own_computer = getattr(model, "computer", None)
    folds: tuple[list[Tensor], Adjacency] | None = None

    def layers() -> tuple[Tensor, Tensor]:
        nonlocal folds
        graph = model.Graph
        if isinstance(graph, list):
            if folds is None or [*map(id, folds[0])] != [*map(id, graph)]:
                folds = [*graph], Adjacency.from_torch(torch.cat([fold.coalesce() for fold in graph]))
            graph = folds[1]
        return lightgcn_layers(graph, (model.embedding_user.weight, model.embedding_item.weight), model.n_layers)

    def computer() -> tuple[Tensor, Tensor]:
        return own_computer() if model.config["dropout"] and model.training else layers()  # type: ignore[misc]

    def bpr_loss(users: Tensor, pos: Tensor, neg: Tensor) -> tuple[Tensor, Tensor]:
        users, pos, neg = users.long(), pos.long(), neg.long()
        squares = row_squares(model.embedding_user.weight, users)
        squares += row_squares(model.embedding_item.weight, pos, neg)
        loss = F.softplus(-bpr_margins(*computer(), users, pos, neg)).mean()
        return loss, sum(squares) / 2 / float(len(users))  # type: ignore[return-value]

    def shuffle(*arrays: Any, **kwargs: Any) -> Any:
        indices = np.arange(len(arrays[0]))
        if any(len(x) != len(indices) for x in arrays):
            raise ValueError("All inputs to shuffle must have the same length.")
        np.random.shuffle(indices)
        places = torch.from_numpy(indices)
        taken = tuple(x[places.to(x.device)] if isinstance(x, Tensor) else x[indices] for x in arrays)
        result = taken[0] if len(taken) == 1 else taken
        return (result, indices) if kwargs.get("indices", False) else result

    def test(dataset: Any, Recmodel: Any, epoch: int, w: Any = None, multicore: int = 0) -> dict[str, Any]:
        world = procedure.world
        results = _metrics(dataset, Recmodel, world.topks)
        if world.tensorboard:
            for key, title in (("recall", "Recall"), ("precision", "Precision"), ("ndcg", "NDCG")):
                scalars = {str(k): results[key][i] for i, k in enumerate(world.topks)}
                w.add_scalars(f"Test/{title}@{world.topks}", scalars, epoch)
        print(results)
        return results

    sampler: Callable[..., Any] | str
    try:
        lists, triples = dataset.allPos, UniformTriples(dataset.allPos, dataset.m_items)

        def sampler(dataset: Any, neg_ratio: int = 1) -> Any:
            nonlocal lists, triples
            if dataset.allPos is not lists:
                lists, triples = dataset.allPos, UniformTriples(dataset.allPos, dataset.m_items)
            return triples.sample(dataset.trainDataSize)
    except ValueError as error:
        sampler = str(error)
    return {
        "computer": computer,
        "bpr_loss": bpr_loss,
        "UniformSample_original": sampler,
        "shuffle": shuffle,
        "Test": test,
    }


def _metrics(dataset: Any, model: Any, topks: list[int]) -> dict[str, Any]:
    """Means over the test users of precision, recall and NDCG, whose ideal list has min(k, relevant) hits."""
    model.eval()
    truth = dataset.testDict
    users = list(truth)
    with torch.no_grad():
        user_emb, item_emb = model.computer()
        n_items, relevant = len(item_emb), [truth[user] for user in users]
        lists = dataset.allPos
        seen = pair_keys([lists[user] for user in users], n_items)
        picked = user_emb[torch.as_tensor(users, device=user_emb.device)]
        best = best_unseen(picked, item_emb, seen, max(topks))
    hits = hits_of(best, pair_keys(relevant, n_items), n_items)
    counts, gain = np.array([len(items) for items in relevant]), 1 / np.log2(np.arange(2, max(topks) + 2))
    results: dict[str, Any] = {name: np.zeros(len(topks)) for name in ("precision", "recall", "ndcg")}
    for i, k in enumerate(topks):
        found = hits[:, :k].sum(1)
        ideal = gain.cumsum()[np.minimum(counts, k) - 1]
        results["precision"][i] = found.sum() / k / len(users)
        results["recall"][i] = (found / counts).sum() / len(users)
        results["ndcg"][i] = ((hits[:, :k] * gain[:k]).sum(1) / ideal).sum() / len(users)
    return results


def _case(part: str, model: Any, dataset: Any) -> Case:
    leaves = list(model.parameters())

    def triples() -> tuple[Tensor, Tensor]:
        users, pos = (torch.as_tensor(np.asarray(x)[:DRAWN]) for x in (dataset.trainUser, dataset.trainItem))
        return users, pos

    def layers(computer: Callable[..., Any]) -> list[tuple[str, object]]:
        return in_both_modes(model, lambda: observed(computer(), leaves))

    def loss(bpr_loss: Callable[..., Any]) -> list[tuple[str, object]]:
        model.train()
        users, pos = triples()
        return observed(bpr_loss(users, pos, pos.roll(7)), leaves)

    def sampled(sample: Callable[..., Any]) -> list[tuple[str, object]]:
        sizes = {name: getattr(dataset, name) for name in ("n_users", "m_items", "allPos")}
        return observed(sample(uninitialised(Instance, trainDataSize=DRAWN, **sizes)))

    def shuffled(shuffle: Callable[..., Any]) -> list[tuple[str, object]]:
        users, pos = triples()
        return observed(shuffle(users, pos)) + observed(shuffle(pos.numpy())) + observed(shuffle(users, indices=True))

    def tested(test: Callable[..., Any]) -> list[tuple[str, object]]:
        with torch.no_grad():
            user_emb, item_emb = model.computer()
        some = list(dataset.testDict)[:USERS]
        seen = pair_keys(dataset.getUserPosItems(some), len(item_emb))
        best = best_unseen(user_emb[torch.as_tensor(some)].detach(), item_emb.detach(), seen, 40)
        truth = {
            user: [*row[[0, 3, 11, 39]].tolist(), *dataset.testDict[user]] for user, row in zip(some, best, strict=True)
        }
        truth = {user: [item for item in items if item >= 0] for user, items in truth.items()}
        few = uninitialised(Instance, testDict=truth, getUserPosItems=dataset.getUserPosItems, allPos=dataset.allPos)
        return with_hits(test(few, model, 0, SimpleNamespace(add_scalars=lambda *_: None)))

    found: dict[str, Case] = {
        "computer": layers,
        "bpr_loss": loss,
        "UniformSample_original": sampled,
        "shuffle": shuffled,
        "Test": tested,
    }
    return found[part]
