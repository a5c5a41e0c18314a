"""How much sooner `train --from` reaches the quality of training anew: `python benchmarks/warm_start.py BEFORE NOW`.

BEFORE, NOW: folders with the data of an earlier day and of today. The system is trained on BEFORE, then on NOW twice,
from random values and from the model of BEFORE, an epoch of each in turn. Printed per epoch: seconds of training so far
and validation Recall@20 of both.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from mmssl_trainer import configure, fit, load_data, save
from mmssl_trainer.ranking import split_metrics
from mmssl_trainer.runs.warm_start import start_from
from mmssl_trainer.training.loop import Run
from mmssl_trainer.training.progress import NullObserver


class Alternating(Run):
    """A run whose epochs are trained one at a time."""

    def epoch(self):
        self._train_epoch()
        seconds = self.position.seconds
        self._end_epoch()
        return seconds, self.fit.epochs[-1]["val"]["recall@20"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("now", type=Path)
    parser.add_argument("--system", default="lightgcn")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--epochs-before", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = {"model.system": options.system, "train.compare": "no", "train.seed": options.seed}
    model = fit(load_data(options.before), configure(settings | {"train.epochs": options.epochs_before}))
    data, config = load_data(options.now), configure(settings | {"train.epochs": options.epochs})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(model, path)
        start, note = start_from(str(path), data, options.system)
    print(f"{options.system}: before, best epoch {model.metadata['best_epoch']}; {note}")
    runs = {
        "anew": Alternating(data, config, NullObserver()),
        "from": Alternating(data, config, NullObserver(), start=start),
    }
    for run in runs.values():
        run.observer.accepted()
        run.tiles = _tiles(run)
    seconds, found = dict.fromkeys(runs, 0.0), {name: [] for name in runs}
    for epoch in range(1, options.epochs + 1):
        for name, run in runs.items():
            took, recall = run.epoch()
            seconds[name] += took
            found[name].append((seconds[name], recall))
        line = ", ".join(f"{name} {found[name][-1][0]:.1f} s recall@20 {found[name][-1][1]:.4f}" for name in runs)
        print(f"epoch {epoch}: {line}", flush=True)
    best = max(recall for _, recall in found["anew"])
    reached = {name: next((at for at in found[name] if at[1] >= best), None) for name in runs}
    print(f"best recall@20 anew {best:.4f}, reached after {reached['anew'][0]:.1f} s")
    if reached["from"]:
        share = reached["from"][0] / reached["anew"][0]
        print(f"from the model: reached after {reached['from'][0]:.1f} s, {share:.0%} of the time")
    else:
        print("from the model: not reached")
    for name, run in runs.items():
        test = split_metrics(run.fit.users, run.fit.items, data, "test", [20])
        print(f"test of the best epoch, {name}: recall@20 {test['recall@20']:.4f}, ndcg@20 {test['ndcg@20']:.4f}")


def _tiles(run):
    from mmssl_trainer.memory.retry import Tiles

    return Tiles(run.fit.tile)


if __name__ == "__main__":
    main()
