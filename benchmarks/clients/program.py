"""A client that is a program: its file is run as __main__, and a turn is a step of its optimizer."""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import types
from typing import Any, ClassVar

import numpy as np
import torch
from driver import Client, cuda_is_the_cpu, old_numpy, stand_in
from torch.optim.optimizer import register_optimizer_step_post_hook


class Program(Client):
    """`main` is the file within the checkout, which the option of the same name replaces; its first step is not timed.

    absent: modules that the program imports and that the comparison does not need.
    edits: texts of `main` and what stands in their place, for devices other than the CPU.
    """

    turn = "step"
    main = "main.py"
    absent: tuple[str, ...] = ()
    edits: ClassVar[dict[str, str]] = {}

    def arguments(self) -> list[str]:
        return []

    def start(self) -> None:
        old_numpy()
        stand_in(*self.absent)
        workers = types.SimpleNamespace(map=lambda f, x: [f(y) for y in x], close=lambda: None)
        multiprocessing.Pool = lambda *_: workers
        cuda_is_the_cpu()
        file = self.checkout / self.options.get("main", self.main)
        sys.path.insert(0, str(file.parent))
        sys.argv = [file.name, *self.arguments(), *self.options.get("args", "").split()]
        self.text = file.read_text()
        for old, new in self.edits.items():
            assert old in self.text, f"{file} has no {old!r}"
            self.text = self.text.replace(old, new)
        self.module: Any = types.ModuleType("__main__")
        self.module.__file__ = str(file)
        sys.modules["__main__"] = self.module

    def ends_turn(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether a turn ends after a step of this optimizer, where the program has several."""
        return True

    def run(self, turns) -> None:
        losses: list[float] = []
        told: dict[str, float] = {}
        steps = turns.over(itertools.repeat(None), lambda: told)
        backward = torch.Tensor.backward

        def noted(loss, *args, **kwargs):
            losses.append(float(loss.detach()))
            return backward(loss, *args, **kwargs)

        def stepped(optimizer, *_) -> None:
            if self.ends_turn(optimizer):
                told.clear()
                told.update({f"loss {n}": loss for n, loss in enumerate(losses)})
                losses.clear()
                next(steps)

        torch.Tensor.backward = noted
        hook = register_optimizer_step_post_hook(stepped)
        try:
            exec(compile(self.text, self.module.__file__, "exec"), self.module.__dict__)
        finally:
            torch.Tensor.backward = backward
            hook.remove()


def numbers(found: dict[str, Any]) -> dict[str, float]:
    """Metrics that are numbers or arrays as single numbers."""
    return {f"{name} {k}": float(x) for name, value in found.items() for k, x in enumerate(np.ravel(value))}
