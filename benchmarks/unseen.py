"""What runs know about users and items outside their training data: `python benchmarks/unseen.py RUN…`.

For every run, as far as its system and data allow:

overlap@20     users with training interactions: the share of the list of 20 that is also in the list of the same user
               by fold-in from these interactions, mean over the users.
new users      users without training interactions and with at least two held-out items that training knows: recall@20
               of one half of the items, from the other half as the history. The halves are drawn with a fixed seed.
cold items     with the embeddings that the features alone give, and on the scale of the known items, with the
               collaborative parts of the nearest items or with less spread: recall@20 of the
               cold items in the test split, ranked alone, and of all, known and cold items if all are ranked; the share
               of the places in the lists of 20 of all known users that cold items get, beside their share of the
               catalogue and of the test pairs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from mmssl_trainer import InputError, embed_items, load, load_data
from mmssl_trainer.config.load import load as load_config
from mmssl_trainer.inference.histories import embed
from mmssl_trainer.inference.new_items import embed_both
from mmssl_trainer.ranking import Ranking, item_popularity, ranking_metrics
from mmssl_trainer.systems import title

from mmssl_fast import InteractionGraph

K, NEAREST, SPREADS = 20, (0, 10), (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


def lists(users, items, popularity, seen):
    """The best K items of all users, int64 [U, K]."""
    ranking = Ranking(items, popularity, InteractionGraph.from_scipy(seen))
    return torch.cat([ranking.best(users[rows], rows, K)[1] for rows in torch.arange(len(users)).split(2048)])


def overlap(model):
    data = model.interactions
    known = np.flatnonzero(np.diff(data.train.indptr))
    rows, popularity = sp.csr_array(data.train[known]), item_popularity(data)
    own = lists(model.users[torch.from_numpy(known)], model.items, popularity, rows)
    folded = lists(embed(model, rows), model.items, popularity, rows)
    return np.mean([len({*a} & {*b}) / K for a, b in zip(own.tolist(), folded.tolist(), strict=True)])


def new_users(model):
    """(recall by fold-in, recall by popularity, users)."""
    data, generator = model.interactions, np.random.default_rng(0)
    known_items = np.diff(data.train.tocsc().indptr) > 0
    heldout = data.val.maximum(data.test).multiply(known_items).tocsr()
    heldout.eliminate_zeros()
    chosen = np.flatnonzero((np.diff(data.train.indptr) == 0) & (np.diff(heldout.indptr) >= 2))
    if not len(chosen):
        return None
    halves = [[], []]
    for row, user in enumerate(chosen):
        items = generator.permutation(heldout[[user]].indices)
        for half, part in zip(halves, (items[: len(items) // 2], items[len(items) // 2 :]), strict=True):
            half += [(row, item) for item in part]
    shape = len(chosen), data.n_items
    history, target = (sp.csr_array((np.ones(len(half), np.float32), np.array(half).T), shape=shape) for half in halves)
    options = [K], InteractionGraph.from_scipy(history)
    counts = item_popularity(data)
    found = [
        ranking_metrics(users, model.items, target, *options, popularity=counts)[f"recall@{K}"]
        for users in (embed(model, history), torch.zeros(len(chosen), model.items.shape[1]))
    ]
    return *found, len(chosen)


def cold_items(model, folder):
    """Print what users with training interactions get: see above."""
    data, config = model.interactions, load_config(folder / "config.toml")
    features = load_data(**config.data.model_dump()).features
    is_cold = np.diff(data.train.tocsc().indptr) == 0
    known_users = np.flatnonzero(np.diff(data.train.indptr))
    users, train = model.users[torch.from_numpy(known_users)], sp.csr_array(data.train[known_users])
    test = sp.csr_array(data.test[known_users])
    cold = np.flatnonzero(is_cold & ~np.logical_and.reduce([np.isnan(x[:, 0]) for x in features.values()]))
    parts = {"all": np.ones(data.n_items, bool), "known": ~is_cold, "cold": is_cold}
    heldout = {name: sp.csr_array(test.multiply(mask)) for name, mask in parts.items()}
    for matrix in heldout.values():
        matrix.eliminate_zeros()
    share = heldout["cold"].nnz / max(1, heldout["all"].nnz)
    print(
        f"  cold items: {is_cold.mean():.1%} of the catalogue, {share:.1%} of {heldout['all'].nnz} test pairs of known "
        f"users; chance among them {K / len(cold):.4f}"
    )
    seen, counts = InteractionGraph.from_scipy(train), item_popularity(data)
    own = {name: x[cold] for name, x in features.items()}
    ways = [("features alone", embed_both(model, own)[1])]
    ways += [(f"nearest {nearest}", embed_items(model, own, nearest)) for nearest in NEAREST]
    ways += [(f"spread {spread}", embed_items(model, own, spread=spread)) for spread in SPREADS]
    for name, embeddings in ways:
        items = model.items.clone()
        items[torch.from_numpy(cold)] = embeddings
        only = sp.csr_array(heldout["cold"][:, cold])
        alone = ranking_metrics(users, embeddings, only, [K])[f"recall@{K}"]
        recalls = [
            f"of {part} {ranking_metrics(users, items, matrix, [K], seen, popularity=counts)[f'recall@{K}']:.4f}"
            for part, matrix in heldout.items()
            if matrix.nnz
        ]
        places = is_cold[lists(users, items, counts, train).numpy()].mean()
        print(
            f"  {name}: recall@{K} of cold items alone {alone:.4f}; beside all others {', '.join(recalls)}; cold items "
            f"get {places:.1%} of the places",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--cold", action="store_true", help="only the cold items")
    for folder in (arguments := parser.parse_args()).runs:
        model = load(folder)
        name = f"{folder.name}: {title(model.metadata['system'])} on {model.interactions.name}"
        try:
            if not arguments.cold:
                print(f"{name}: overlap@{K} {overlap(model):.3f}", flush=True)
                if found := new_users(model):
                    print(f"  {found[2]} new users: recall@{K} by fold-in {found[0]:.4f}, by popularity {found[1]:.4f}")
            else:
                print(name, flush=True)
                cold_items(model, folder)
        except InputError as error:
            print(f"{name}: {error}")


if __name__ == "__main__":
    main()
