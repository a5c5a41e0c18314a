"""How much sooner `train --from` reaches the quality of training anew: `python benchmarks/warm_start.py BEFORE NOW`.

BEFORE, NOW: folders with the data of an earlier day and of today. The system is trained on BEFORE, then on NOW twice,
from random values ("new") and from the model of BEFORE ("warm"), an epoch of each in turn. Printed per epoch: processor
seconds of training so far and validation Recall@20 of both. The metric of one seed changes from epoch to epoch, so with
several seeds their mean decides when the best of the new run is reached.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from mmssl_trainer import configure, fit, load_data, save
from mmssl_trainer.cli.options import parse_set
from mmssl_trainer.ranking import split_metrics
from mmssl_trainer.runs.warm_start import start_from
from mmssl_trainer.training.loop import Run
from mmssl_trainer.training.progress import NullObserver


class Alternating(Run):
    """A run whose epochs are trained one at a time."""

    def epoch(self):
        start = time.process_time()
        self._train_epoch()
        seconds = time.process_time() - start
        self._end_epoch()
        return seconds, self.fit.epochs[-1]["val"]["recall@20"]


def curves(options, seed):
    """{run: [(seconds, validation recall)] by epoch}, {run: test metrics of its best epoch} for one seed."""
    settings = options.settings | {"model.system": options.system, "train.compare": "no", "train.seed": seed}
    model = fit(load_data(options.before), configure(settings | {"train.epochs": options.epochs_before}))
    data, config = load_data(options.now), configure(settings | {"train.epochs": options.epochs})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(model, path)
        starts = {f"warm {scale:g}": start_from(str(path), data, options.system, scale)[0] for scale in options.scales}
        note = start_from(str(path), data, options.system)[1]
    print(f"{options.system}, seed {seed}: before, best epoch {model.metadata['best_epoch']}; {note}")
    runs = {
        "new": Alternating(data, config, NullObserver()),
    } | {name: Alternating(data, config, NullObserver(), start=start) for name, start in starts.items()}
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
    test = {name: split_metrics(run.fit.users, run.fit.items, data, "test", [20]) for name, run in runs.items()}
    return found, test


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("now", type=Path)
    parser.add_argument("--system", default="lightgcn")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--epochs-before", type=int, default=20)
    parser.add_argument("--seeds", default="0", help="seeds, separated by commas")
    parser.add_argument(
        "--scales", default="1", help="values of train.start_scale, separated by commas, each a warm run"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all runs")
    options = parser.parse_args()
    options.settings = dict(parse_set(text) for text in options.set)
    options.scales = [float(scale) for scale in options.scales.split(",")]
    seeds = [int(seed) for seed in options.seeds.split(",")]
    by_seed = [curves(options, seed) for seed in seeds]
    mean = {name: np.mean([found[name] for found, _ in by_seed], 0) for name in by_seed[0][0]}
    best, at = mean["new"][:, 1].max(), int(mean["new"][:, 1].argmax())
    spread = np.std([found["new"][at][1] for found, _ in by_seed])
    print(
        f"mean over the seeds {options.seeds}: best recall@20 of the new run {best:.4f} ± {spread:.4f}, epoch {at + 1}"
    )
    warm = {name: curve for name, curve in mean.items() if name != "new"}
    for wanted, words in ((best, "its best"), (0.98 * best, "98% of it")):
        new = int(np.flatnonzero(mean["new"][:, 1] >= wanted)[0])
        for name, curve in warm.items():
            reached = np.flatnonzero(curve[:, 1] >= wanted)
            if not len(reached):
                print(f"{words}: not reached by {name}, whose best is {curve[:, 1].max():.4f}")
                continue
            share = curve[reached[0], 0] / mean["new"][new, 0]
            print(f"{words}: new in epoch {new + 1}, {name} in epoch {reached[0] + 1}, {share:.0%} of the time")
    for name in mean:
        recall, ndcg = (np.mean([test[name][metric] for _, test in by_seed]) for metric in ("recall@20", "ndcg@20"))
        best, at = mean[name][:, 1].max(), mean[name][:, 1].argmax() + 1
        print(f"{name}: best recall@20 {best:.4f} in epoch {at}; test: recall@20 {recall:.4f}, ndcg@20 {ndcg:.4f}")


def _tiles(run):
    from mmssl_trainer.memory.retry import Tiles

    return Tiles(run.fit.tile)


if __name__ == "__main__":
    main()
