"""Runs all cases as one of several ranks and writes their results: [torchrun …] driver.py FOLDER [BEFORE].

FOLDER: for the files of this run. BEFORE: the folder of an earlier run, whose interrupted training is resumed.

A case is a function case_<name>(ranks, check) of a module of all_cases. It must not raise an error
between collectives, because the other ranks would wait; `check` collects the failures. A function broken_<name> omits a
part, and must fail on at least one rank.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from unittest import mock

import torch

from mmssl_fast import distributed as md


class Check:
    """The failures of a case on this rank."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    def true(self, condition, label: str) -> None:
        if not condition:
            self.failures.append(label)

    def equal(self, actual: torch.Tensor, expected: torch.Tensor, label: str) -> None:
        """The same dtype, shape and bits, −0 and NaN included."""
        same = actual.dtype == expected.dtype and actual.shape == expected.shape
        if same:
            same = actual.detach().numpy().tobytes() == expected.detach().numpy().tobytes()
        self.true(same, f"{label}: {actual.flatten()[:4]} {tuple(actual.shape)}, not {expected.flatten()[:4]}")

    def close(
        self, actual: torch.Tensor, expected: torch.Tensor, label: str, relative: float = 1e-12, size: float = 1e-30
    ) -> None:
        """The error relative to the largest expected value, or to `size`, that of the terms, if they cancel."""
        if actual.shape != expected.shape:
            self.failures.append(f"{label}: {tuple(actual.shape)}, not {tuple(expected.shape)}")
        elif actual.numel():
            scale = expected.abs().max().clamp(min=size)
            error = float(((actual - expected).abs().max() / scale).detach())
            self.true(error <= relative, f"{label}: relative error {error:.2g}")


def ops(ranks: md.Ranks) -> dict[str, list[str]]:
    from all_cases import BROKEN, CASES

    found = {}
    for name, case in (CASES | BROKEN).items():
        check = Check()
        torch.manual_seed(0)
        try:
            case(ranks, check)
        except Exception:
            check.failures.append(traceback.format_exc())
        found[name] = check.failures
    return found


def runs(folder: Path, before: Path | None) -> dict:
    import rank_training_cases as cases
    from group_cases import in_groups

    found: dict = {name: cases.whole_run(name, folder) for name in cases.RUNS | cases.ROUNDED}
    found["own features"] = cases.own_features(folder)
    found["ranked"] = cases.ranked("mf", folder, folder / "lists")
    names = cases.INTERRUPTED
    found["interrupted"] = {name: cases.interrupted(name, folder / f"run-{name}") for name in names}
    if before:
        found["resumed"] = {name: cases.resumed(name, before / f"run-{name}", folder) for name in names}
    # Some of the runs with the graph divided among groups, and checkpoints that another number of groups resumes.
    for count, names in cases.IN_GROUPS.get(md.current().size, {}).items():
        with mock.patch.object(md.ranks, "_current", in_groups(count)):
            own = folder / f"groups-{count}"
            own.mkdir(exist_ok=True)
            part = found[f"{count} groups"] = {name: cases.whole_run(name, own) for name in names}
            if (md.current().size, count) == (4, 2):
                part["interrupted"] = [cases.interrupted(name, own / f"run-{name}") for name in cases.GROUPED]
            elif before and (before / "groups-2" / f"run-{cases.ODD}").exists():
                interrupted = {name: before / "groups-2" / f"run-{name}" for name in cases.GROUPED}
                part["resumed"] = {name: cases.resumed(name, run, own) for name, run in interrupted.items()}
    return found


def main() -> None:
    folder, before = Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None
    torch.set_num_threads(1)
    ranks = md.start(timeout_minutes=1)
    found = {"ops": ops(ranks) if ranks.size > 1 else {}, "runs": runs(folder, before)}
    (folder / f"{ranks.rank}.json").write_text(json.dumps(found))
    md.stop()


if __name__ == "__main__":
    main()
