"""LightGCN of mmssl_fast, RecBole and MMRec: seconds of training to 95% of the best validation recall.

    python -P benchmarks/clients/convergence.py DATA --recbole CHECKOUT --mmrec CHECKOUT [--epochs N] [--patience N]

All have the same width, layers, batch and learning rate, Adam, and no decay of the weights. Each is a process of its
own with one thread, with its data in memory, and they train an epoch in turns. After each epoch, the
final embeddings are evaluated by mmssl_trainer, Recall@20 of the validation split. Seconds are processor time of the
training epochs, without evaluation. A system stops after --patience epochs without a better recall.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from driver import Client, Side, client, cpu_seconds

SHARE = 0.95


class Ours(Client):
    name = "mmssl_fast"

    def write(self, data) -> None:
        pass

    def start(self) -> None:
        from mmssl_trainer import configure, load_data
        from mmssl_trainer.training.loop import Run
        from mmssl_trainer.training.progress import NullObserver

        keys = {"dim": "model.dim", "layers": "model.layers", "batch": "train.batch", "lr": "optimiser.lr"}
        settings = {keys[key]: value for key, value in self.options["same"].items()}
        settings |= {"optimiser.weight_decay": 0.0, "loss.lambda_l2": 0.0, "train.sample_over": "interactions"}
        data = load_data(self.options["data"])
        self.run_ = Run(data, configure(settings | {"model.system": "lightgcn", "train.threads": 1}), NullObserver())
        self.run_.observer.accepted()
        from mmssl_trainer.memory.retry import Tiles

        self.run_.tiles = Tiles(self.run_.fit.tile)

    def epoch(self) -> dict[str, float]:
        self.run_._train_epoch()
        means = self.run_.position.table.means()
        self.run_._start_epoch(self.run_.position.epoch + 1)
        return means

    def tables(self, data):
        return self.run_.system.embeddings()


def recbole(same: dict) -> type[Client]:
    class RecBole(client("recbole")):
        settings = {  # noqa: RUF012
            "embedding_size": same["dim"],
            "n_layers": same["layers"],
            "train_batch_size": same["batch"],
            "learning_rate": same["lr"],
            "reg_weight": 0.0,
        }

        def tables(self, data):
            users, items = self.model.forward()
            dataset = self.train._dataset
            of_users = dataset.token2id("user_id", [str(user) for user in range(data.n_users)])
            of_items = [dataset.field2token_id["item_id"].get(str(item), 0) for item in range(data.n_items)]
            return users[of_users], items[of_items]

    return RecBole


def mmrec(same: dict) -> type[Client]:
    class MMRec(client("mmrec")):
        def start(self) -> None:
            names = {"dim": "embedding_size", "layers": "n_layers", "batch": "train_batch_size", "lr": "learning_rate"}
            self.options = {names[key]: value for key, value in same.items()} | {"reg_weight": 0.0}
            super().start()

        def tables(self, data):
            users, items = self.model.forward()
            assert (len(users), len(items)) == (data.n_users, data.n_items)
            return users, items

    return MMRec


def kind_of(name: str, same: dict) -> type[Client]:
    return {"mmssl_fast": lambda _: Ours, "recbole": recbole, "mmrec": mmrec}[name](same)


def run_side(name: str, checkout: str, folder: str, options: dict) -> None:
    """A process: trains an epoch for every line of its input, and answers with its time and recall."""
    channel, sys.stdout = os.fdopen(os.dup(1), "w"), open(os.devnull, "w")
    import torch
    from mmssl_trainer.data import load
    from mmssl_trainer.ranking import split_metrics

    torch.set_num_threads(1)
    torch.manual_seed(options["seed"])
    data = load(options["data"])
    one = kind_of(name, options["same"])(Path(checkout), Path(folder), "own", options if name == "mmssl_fast" else {})
    sys.path.remove(str(Path(__file__).parent))
    os.chdir(folder)
    begun = cpu_seconds()
    one.start()
    print(json.dumps({"start": cpu_seconds() - begun}), file=channel, flush=True)
    for _ in iter(sys.stdin.readline, ""):
        begun = cpu_seconds()
        losses = one.epoch()
        seconds = cpu_seconds() - begun
        with torch.no_grad():
            users, items = one.tables(data)
        recall = split_metrics(users.detach(), items.detach(), data, "val", [20])["recall@20"]
        print(json.dumps({"cpu": seconds, "recall": recall, "losses": losses}), file=channel, flush=True)


def main() -> None:
    if sys.argv[1:2] == ["side"]:
        run_side(*json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--recbole", help="folder that contains the package recbole")
    parser.add_argument("--mmrec", help="checkout of MMRec")
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--patience", type=int, default=30)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the epochs here, after each")
    given = parser.parse_args()
    from mmssl_trainer.data import load

    same = {name: getattr(given, name) for name in ("dim", "layers", "batch", "lr")}
    data, source = load(given.data), str(Path(given.data).resolve())
    checkouts = {"mmssl_fast": ".", "recbole": given.recbole, "mmrec": given.mmrec}
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    found: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        sides = []
        for name, checkout in checkouts.items():
            if checkout is None:
                continue
            folder = Path(temporary) / name
            folder.mkdir()
            kind_of(name, same)(Path(checkout), folder, "own", {}).write(data)
            options = {"data": source, "same": same, "seed": given.seed}
            told = json.dumps([name, str(Path(checkout).resolve()), str(folder), options])
            sides.append(Side(name, [sys.executable, "-P", __file__, "side", told], one_thread))
        starts = {side.name: json.loads(side.process.stdout.readline())["start"] for side in sides}
        print("seconds before the first epoch:", starts, file=sys.stderr)
        found = {side.name: [] for side in sides}
        for epoch in range(given.epochs):
            active = [
                side for side in sides if not is_over([row["recall"] for row in found[side.name]], given.patience)
            ]
            for side in active:
                found[side.name].append(side.ask("epoch"))
            if not active:
                break
            print(epoch + 1, {s.name: round(found[s.name][-1]["recall"], 5) for s in active}, file=sys.stderr)
            if given.json:
                given.json.write_text(json.dumps({"starts": starts, "same": same, "epochs": found}))
        for side in sides:
            side.process.stdin.close()
            side.process.wait()
    report(found)


def is_over(recalls: list[float], patience: int) -> bool:
    return len(recalls) - 1 - recalls.index(max(recalls)) >= patience if recalls else False


def reached(rows: list[dict], level: float) -> tuple[int, float]:
    """(epoch, seconds until its end) of the first recall of at least `level`."""
    epoch = next(number for number, row in enumerate(rows, 1) if row["recall"] >= level)
    return epoch, sum(row["cpu"] for row in rows[:epoch])


def report(found: dict[str, list[dict]]) -> None:
    best = {name: max(row["recall"] for row in rows) for name, rows in found.items()}
    common = SHARE * min(best.values())
    print(
        "| | epochs | best recall@20 | CPU s of an epoch (median) | epochs and s to 95% of its best | "
        f"to {common:.4f}, 95% of the lowest best |\n|---|---|---|---|---|---|"
    )
    for name, rows in found.items():
        seconds = sorted(row["cpu"] for row in rows)[len(rows) // 2]
        own, shared = reached(rows, SHARE * best[name]), reached(rows, common)
        print(
            f"| {name} | {len(rows)} | {best[name]:.4f} | {seconds:.2f} | {own[0]}, {own[1]:.1f} "
            f"| {shared[0]}, {shared[1]:.1f} |"
        )


if __name__ == "__main__":
    main()
