"""enoche/MMRec and similar code: `accelerate(trainer, train_data, valid_data)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import sparse
from .compare import Case, in_both_modes, observed, perturbed, with_hits
from .layers import lightgcn_layers
from .losses import bpr_margins, row_squares
from .negatives import chosen_negatives
from .ranking import best_unseen, hits_of, pair_keys
from .report import Accelerated, require

PARTS = ("forward", "calculate_loss", "optimizer", "_sample_neg_ids", "evaluate")
BATCH = 256  # triples in a comparison


def accelerate(
    trainer: Any, train_data: Any, valid_data: Any, parts: Iterable[str] = PARTS, *, strict: bool = False
) -> Accelerated:
    """Replaces the slow parts of an epoch of MMRec, after comparing each part on the given model and its data.

        from mmssl_fast.dropin import mmrec, sparse
        sparse.enable()  # for models whose forward cannot be replaced
        print(mmrec.accelerate(trainer, train_data, valid_data))  # before trainer.fit

    Negative sampling, evaluation and the optimizer are replaced for every model. ``forward`` and ``calculate_loss`` are
    replaced for LightGCN, FREEDOM, and models with the same attributes and results; for others they are "missing".

    Args:
        trainer: MMRec's Trainer; ``forward`` and ``calculate_loss`` are replaced on ``trainer.model``.
        train_data, valid_data: its loaders. The comparison runs one evaluation with each code.
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
    require("trainer", trainer, "MMRec's Trainer", "model", "optimizer", "evaluate")
    require("train_data", train_data, "MMRec's TrainDataLoader", "history_items_per_u", "all_items")
    require("valid_data", valid_data, "MMRec's EvalDataLoader", "get_eval_items")
    model = trainer.model
    known = KNOWN.get(type(model).__name__)
    replacements: dict[str, Callable[..., Any]] = known(model) if known else {}
    score = replacements.pop("embeddings", None)
    replacements |= {"_sample_neg_ids": _sampler(train_data), "evaluate": _evaluation(trainer, score)}
    places = {"_sample_neg_ids": train_data, "evaluate": trainer}
    objects = {"model": model, "trainer": trainer, "train_data": train_data}
    for part in done.parts:
        place = places.get(part, model)
        if part == "optimizer":
            done.optimizer(part, trainer.optimizer)
        elif part not in replacements or not hasattr(place, part):
            done.missing.append(part)
        else:
            with perturbed(model.parameters()):
                case = _case(part, model, train_data, valid_data)
                done.compare(part, place, part, replacements[part], [case], objects=objects)
    done.install(type(model).__name__, strict)
    return done


def _lightgcn(model: Any) -> dict[str, Callable[..., Any]]:
    def tables() -> tuple[Tensor, Tensor]:
        return model.embedding_dict["user_emb"], model.embedding_dict["item_emb"]

    def forward() -> tuple[Tensor, Tensor]:
        return lightgcn_layers(model.norm_adj_matrix, tables(), model.n_layers)

    def calculate_loss(interaction: Tensor) -> Tensor:
        users, pos, neg = interaction[:3]
        margins = bpr_margins(*forward(), users, pos, neg)
        ranking = -torch.log(model.mf_loss.gamma + torch.sigmoid(margins)).mean()
        user_table, item_table = tables()
        squares = row_squares(user_table, users) + row_squares(item_table, pos, neg)
        lengths = torch.stack([square.sqrt() for square in squares]).sum(0, keepdim=True)
        return ranking + model.reg_weight * (lengths / neg.shape[0])

    return {"forward": forward, "calculate_loss": calculate_loss, "embeddings": forward}


def _freedom(model: Any) -> dict[str, Callable[..., Any]]:
    def forward(adj: Tensor) -> tuple[Tensor, Tensor]:
        h = model.item_id_embedding.weight
        for _ in range(model.n_layers):
            h = sparse.mm(model.mm_adj, h)
        tables = model.user_embedding.weight, model.item_id_embedding.weight
        users, items = lightgcn_layers(adj, tables, model.n_ui_layers)
        return users, items + h

    def calculate_loss(interaction: Tensor) -> Tensor:
        users, pos, neg = interaction[:3]
        ua, ia = forward(model.masked_adj)
        model.build_item_graph = False
        modal: Any = 0.0
        for kind, name in (("t", "text"), ("v", "image")):
            if getattr(model, f"{kind}_feat") is not None:
                items = getattr(model, f"{name}_trs")(getattr(model, f"{name}_embedding").weight)
                modal = modal + _bpr(ua, items, users, pos, neg)
        return _bpr(ua, ia, users, pos, neg) + model.reg_weight * modal

    return {"forward": forward, "calculate_loss": calculate_loss, "embeddings": lambda: forward(model.norm_adj)}


KNOWN = {"LightGCN": _lightgcn, "FREEDOM": _freedom}


def _bpr(users_emb: Tensor, items_emb: Tensor, users: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    return F.softplus(-bpr_margins(users_emb, items_emb, users, pos, neg)).mean()


class _Seen(dict[int, frozenset[int]]):
    """The items of each user as a set of Python ints, which is created when it is first used."""

    def __init__(self, lists: Any) -> None:
        self.lists = lists

    def __missing__(self, user: int) -> frozenset[int]:
        self[user] = frozenset(map(int, self.lists[user]))
        return self[user]


def _sampler(train_data: Any) -> Callable[..., Any]:
    seen = _Seen(train_data.history_items_per_u)

    def _sample_neg_ids(u_ids: Any) -> Tensor:
        nonlocal seen
        if seen.lists is not train_data.history_items_per_u:
            seen = _Seen(train_data.history_items_per_u)
        return torch.tensor(chosen_negatives(train_data.all_items, u_ids.tolist(), seen), dtype=torch.int64)

    return _sample_neg_ids


def _evaluation(trainer: Any, embeddings: Callable[..., Any] | None) -> Callable[..., Any]:
    own = trainer.evaluate

    @torch.no_grad()
    def evaluate(eval_data: Any, is_test: bool = False, idx: int = 0) -> Any:
        judge = trainer.evaluator
        if getattr(judge, "save_recom_result", False) and is_test:  # it saves the recommended lists, too
            return own(eval_data, is_test, idx)
        trainer.model.eval()
        k, n_items = max(trainer.config["topk"]), eval_data.dataset.item_num
        tables = embeddings() if embeddings else None
        best = [_best(trainer.model, batch, k, n_items, tables) for batch in eval_data]
        hits = hits_of(torch.cat(best).numpy(), pair_keys(eval_data.get_eval_items(), n_items), n_items)
        values = judge._calculate_metrics(eval_data.get_eval_len_list(), hits)
        return {
            f"{metric}@{k}": round(value[k - 1], 4)
            for metric, value in zip(judge.metrics, values, strict=True)
            for k in judge.topk
        }

    return evaluate


def _best(model: Any, batch: Any, k: int, n_items: int, tables: tuple[Tensor, Tensor] | None) -> Tensor:
    """int64 [B, k]: the best items of the users of a batch, without their training items."""
    rows, masked = batch[1][0], batch[1][1]
    if tables is None:
        scores = model.full_sort_predict(batch)
        scores[rows, masked] = -1e10
        return torch.topk(scores, k, dim=-1).indices.cpu()
    seen = (rows * n_items + masked).sort().values.cpu().numpy()
    return torch.from_numpy(best_unseen(tables[0][batch[0]], tables[1], seen, k))


def _case(part: str, model: Any, train_data: Any, valid_data: Any) -> Case:
    leaves = [p for p in model.parameters() if p.requires_grad]

    def column(field: str) -> Any:
        return train_data.dataset.df[train_data.config[field]][:BATCH]

    def forward(function: Callable[..., Any]) -> list[tuple[str, object]]:
        adjacency = [model.norm_adj] if type(model).__name__ == "FREEDOM" else []
        return in_both_modes(model, lambda: observed(function(*adjacency), leaves))

    def loss(function: Callable[..., Any]) -> list[tuple[str, object]]:
        model.train()
        model.pre_epoch_processing()
        users, items = (torch.as_tensor(column(field).values).long() for field in ("USER_ID_FIELD", "ITEM_ID_FIELD"))
        triples = torch.stack((users, items, items.roll(7))).to(train_data.config["device"])
        return observed(function(triples), leaves)

    def sampled(function: Callable[..., Any]) -> list[tuple[str, object]]:
        return observed(function(column("USER_ID_FIELD")))

    def evaluated(function: Callable[..., Any]) -> list[tuple[str, object]]:
        return with_hits(function(valid_data))

    found: dict[str, Case] = {
        "forward": forward,
        "calculate_loss": loss,
        "_sample_neg_ids": sampled,
        "evaluate": evaluated,
    }
    return found[part]
