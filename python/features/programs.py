"""Models as single files: ONNX (.onnx) and torch.export (.pt2). They take one array of inputs and return one of
vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError, first_line, shown
from .encoders import library

ENDS = (".onnx", ".pt2")


class Program:
    """A model in a file. Calling it with inputs [n, …] returns vectors [n, width]: the output of the model, or its mean
    over all axes between if it has more.

    output: its name, for an ONNX model with several. shape: of an input without the batch axis; None for a side that
    may vary. batch: at most this many inputs at a time; a model with a fixed batch size gets its own, the last one
    being filled up with zeros.
    """

    def __init__(self, path: Path, batch: int, device: str, extra: str, output: str = "") -> None:
        self.path, self.batch, self.fixed, self.output = path, batch, False, output
        if output and path.suffix != ".onnx":
            raise InputError(f"output = {shown(output)}: is for .onnx files; a .pt2 file must return one tensor")
        self.shape: tuple[int | None, ...] = ()
        self._run = self._onnx(device, extra) if path.suffix == ".onnx" else self._exported(device)

    def _onnx(self, device: str, extra: str) -> Callable[[np.ndarray], np.ndarray]:
        onnxruntime = library("onnxruntime", extra)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        providers = ["CUDAExecutionProvider"] if device.startswith("cuda") else ["CPUExecutionProvider"]
        if providers[0] not in onnxruntime.get_available_providers():
            raise InputError(f"device {device!r}: the installed onnxruntime has no {providers[0]}; choose cpu")
        try:
            session = onnxruntime.InferenceSession(str(self.path), options, providers)
        except Exception as error:  # each of onnxruntime's errors has a class of its own, without a common one
            raise _refused(self.path, "is not a readable ONNX model", error) from None
        inputs = session.get_inputs()
        self._take_inputs([(each.name, each.type, each.shape) for each in inputs], "tensor(float)")
        outputs = {each.name: each.shape for each in session.get_outputs()}
        if self.output not in outputs and (self.output or len(outputs) > 1):
            has = ", ".join(f"{name} {shape}" for name, shape in outputs.items())
            raise InputError(f"{self.path}: has the outputs {has}; choose one of them with --output")
        name = self.output or next(iter(outputs))
        return lambda array: session.run([name], {inputs[0].name: array})[0]

    def _exported(self, device: str) -> Callable[[np.ndarray], np.ndarray]:
        try:
            program = torch.export.load(self.path)
            module = program.module()
            module.to(device)
        except Exception as error:
            raise _refused(self.path, "is not a readable torch.export program", error) from None
        names = set(program.graph_signature.user_inputs)
        values = [(node.name, node.meta.get("val")) for node in program.graph.nodes if node.name in names]
        self._take_inputs(
            [(name, str(getattr(value, "dtype", type(value))), getattr(value, "shape", ())) for name, value in values],
            "torch.float32",
        )

        @torch.inference_mode()
        def run(array: np.ndarray) -> np.ndarray:
            result = module(torch.from_numpy(array).to(device))
            if not isinstance(result, torch.Tensor):
                raise InputError(f"{self.path}: returns a {type(result).__name__}; it must return one tensor")
            return result.float().cpu().numpy()

        return run

    def _take_inputs(self, inputs: Sequence[tuple[str, str, Sequence[Any]]], wanted: str) -> None:
        """Set `shape`, and `batch` where the file fixes it. inputs: name, type and shape; a side that may vary is no
        int. Raises InputError unless there is one, of the wanted type."""
        if len(inputs) != 1 or inputs[0][1] != wanted:
            kinds = ", ".join(f"{name} {kind}" for name, kind, _ in inputs) or "none"
            raise InputError(f"{self.path}: has the inputs {kinds}; it must have one, of float32")
        first, *sides = [side if isinstance(side, int) else None for side in inputs[0][2]] or [None]
        self.shape = tuple(sides)
        if first is not None:
            self.batch, self.fixed = first, True

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        blocks = []
        for first in range(0, len(inputs), self.batch):
            block = np.ascontiguousarray(inputs[first : first + self.batch], np.float32)
            count = len(block)
            if self.fixed and count < self.batch:
                block = np.concatenate([block, np.zeros((self.batch - count, *block.shape[1:]), np.float32)])
            try:
                result = np.asarray(self._run(block), np.float32)
            except InputError:
                raise
            except Exception as error:
                raise _refused(self.path, f"does not take inputs of the shape {block.shape}", error) from None
            if result.ndim < 2 or len(result) != len(block):
                raise InputError(
                    f"{self.path}: returns the shape {result.shape} for {len(block)} inputs; it must return a "
                    "vector for each"
                )
            blocks.append(result.reshape(len(result), -1, result.shape[-1]).mean(1)[:count])
        return np.concatenate(blocks)


def _refused(path: Path, what: str, error: Any) -> InputError:
    return InputError(f"{path}: {what} ({shown(first_line(error), 160)}); export the model again")
