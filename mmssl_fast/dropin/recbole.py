"""RecBole's LightGCN and similar models: `accelerate(trainer, valid_data)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .compare import Case, in_both_modes, observed, perturbed, with_hits
from .layers import lightgcn_layers
from .losses import bpr_margins, row_squares
from .ranking import best_unseen, hits_of, pair_keys
from .report import Accelerated, require

PARTS = ("forward", "calculate_loss", "optimizer", "evaluate")
BATCH = 256  # triples in a comparison
TOPK = ("rec.topk", "rec.items")  # the data that the replaced evaluation can provide


def accelerate(trainer: Any, valid_data: Any, parts: Iterable[str] = PARTS, *, strict: bool = False) -> Accelerated:
    """Replaces the slow parts of an epoch of RecBole's LightGCN, after comparing each part on the given model.

        from mmssl_fast.dropin import recbole
        print(recbole.accelerate(trainer, valid_data))  # before trainer.fit

    Full-sort evaluation ranks all users in one pass. (With its default ``eval_batch_size`` of 4096, RecBole ranks one
    user at a time if there are more than 4096 items.) It is replaced if the metrics depend only on the best items
    (Recall, NDCG, Precision, MRR, Hit, MAP; not AUC or GAUC), but not if a saved model is loaded.

    Args:
        trainer: RecBole's Trainer, whose ``model`` has the attributes of its LightGCN.
        valid_data: its full-sort loader. The comparison runs one evaluation with each code.
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
    require("trainer", trainer, "RecBole's Trainer", "model", "optimizer", "evaluate", "eval_collector")
    model = trainer.model
    replacements = _replacements(trainer)
    objects = {"model": model, "trainer": trainer}
    for part in done.parts:
        place = trainer if part == "evaluate" else model
        if part == "optimizer":
            done.optimizer(part, trainer.optimizer)
        elif not hasattr(place, part):
            done.missing.append(part)
        else:
            with perturbed(model.parameters()):
                case = _case(part, trainer, valid_data)
                done.compare(part, place, part, replacements[part], [case], objects=objects)
    done.install(type(model).__name__, strict)
    return done


def _replacements(trainer: Any) -> dict[str, Callable[..., Any]]:
    model, own_evaluate = trainer.model, trainer.evaluate

    def tables() -> tuple[Tensor, Tensor]:
        return model.user_embedding.weight, model.item_embedding.weight

    def forward() -> tuple[Tensor, Tensor]:
        return lightgcn_layers(model.norm_adj_matrix, tables(), model.n_layers)

    def calculate_loss(interaction: Any) -> Tensor:
        model.restore_user_e = model.restore_item_e = None
        users, pos, neg = (interaction[name] for name in (model.USER_ID, model.ITEM_ID, model.NEG_ITEM_ID))
        margins = bpr_margins(*forward(), users, pos, neg)
        ranking = -torch.log(model.mf_loss.gamma + torch.sigmoid(margins)).mean()
        user_table, item_table = tables()
        squares = torch.stack([*row_squares(user_table, users), *row_squares(item_table, pos, neg)])
        lengths = squares.sum(0, keepdim=True) / 2 if model.require_pow else squares.sqrt().sum(0, keepdim=True)
        return ranking + model.reg_weight * (lengths / len(neg))

    @torch.no_grad()
    def evaluate(
        eval_data: Any, load_best_model: bool = True, model_file: str | None = None, show_progress: bool = False
    ) -> Any:
        collector = trainer.eval_collector
        lists = all(hasattr(eval_data, name) for name in ("uid_list", "uid2history_item", "uid2positive_item"))
        needs = [name for name in vars(collector.register) if name.startswith("rec.") or name == "data.label"]
        ranked = "rec.topk" in needs and {*needs} <= {*TOPK}
        if load_best_model or not lists or not ranked or trainer.config["single_spec"] is False:
            return own_evaluate(eval_data, load_best_model, model_file, show_progress)
        model.eval()
        model.restore_user_e, model.restore_item_e = users_emb, items_emb = forward()
        users, n_items, k = eval_data.uid_list.tolist(), len(items_emb), max(collector.topk)
        seen = pair_keys([[0, *eval_data.uid2history_item[user].tolist()] for user in users], n_items)
        relevant = [eval_data.uid2positive_item[user].tolist() for user in users]
        best = best_unseen(users_emb[eval_data.uid_list.to(users_emb.device)], items_emb, seen, k)
        hits = torch.from_numpy(hits_of(best, pair_keys(relevant, n_items), n_items)).int()
        counts = torch.tensor([len(items) for items in relevant], dtype=torch.int64)[:, None]
        collector.data_struct.update_tensor("rec.topk", torch.cat((hits, counts), dim=1))
        if "rec.items" in needs:
            collector.data_struct.update_tensor("rec.items", torch.from_numpy(best))
        collector.model_collect(model)
        result = trainer.evaluator.evaluate(collector.get_data_struct())
        trainer.wandblogger.log_eval_metrics(result, head="eval")
        return result

    return {"forward": forward, "calculate_loss": calculate_loss, "evaluate": evaluate}


def _case(part: str, trainer: Any, valid_data: Any) -> Case:
    model = trainer.model
    leaves = [p for p in model.parameters() if p.requires_grad]

    def forward(function: Callable[..., Any]) -> list[tuple[str, object]]:
        return in_both_modes(model, lambda: observed(function(), leaves))

    def loss(function: Callable[..., Any]) -> list[tuple[str, object]]:
        model.train()
        random = torch.Generator().manual_seed(3)
        sizes = {model.USER_ID: model.n_users, model.ITEM_ID: model.n_items, model.NEG_ITEM_ID: model.n_items}
        ids = {name: torch.randint(1, n, (BATCH,), generator=random).to(trainer.device) for name, n in sizes.items()}
        return observed(function(ids), leaves)

    def evaluated(function: Callable[..., Any]) -> list[tuple[str, object]]:
        found = function(valid_data, load_best_model=False)
        # What the evaluation of RecBole stores for itself.
        vars(trainer).update(item_tensor=None, tot_item_num=None)
        return with_hits(found)

    found: dict[str, Case] = {"forward": forward, "calculate_loss": loss, "evaluate": evaluated}
    return found[part]
