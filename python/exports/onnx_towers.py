"""ONNX: users.onnx and items.onnx, without operations of mmssl_fast."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import ExportedProgram

from mmssl_fast import reference

from ..errors import InputError, first_line, needed
from ..runs.saved_model import Model
from .check import Settings
from .tables import Exported
from .towers import Run, Tower, write_towers

TOLERANCE = 1e-4
OURS = "mmssl_fast::"


def write(model: Model, path: Path, settings: Settings) -> Exported:
    """Write the towers as ONNX models, and verify them with onnxruntime. A tower with an operation of mmssl_fast that
    has no equivalent in ONNX is left out, and a note names the operation."""
    runtime = needed("onnxruntime", "export")
    for name in ("onnx", "onnxscript"):
        needed(name, "export")

    def save(tower: Tower, file: Path) -> None:
        program = plain(tower.program(from_end=True))
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not installed
        try:
            converted = torch.onnx.export(program, dynamo=True, input_names=tower.names, verbose=False)
        except torch.onnx.errors.OnnxExporterError as error:
            raise InputError(f"cannot be converted to ONNX: {first_line(error)}") from None
        if converted is None:
            raise InputError("cannot be converted to ONNX")
        converted.save(file)

    def load(file: Path, tower: Tower) -> Run:
        session = runtime.InferenceSession(str(file))

        def run(batch: Any) -> Tensor:
            inputs = {one.name: value.numpy() for one, value in zip(session.get_inputs(), batch, strict=True)}
            return torch.from_numpy(np.asarray(session.run(None, inputs)[0]))

        return run

    return write_towers(model, path, ".onnx", save, load, TOLERANCE)


def plain(program: ExportedProgram) -> ExportedProgram:
    """The program with the operations of mmssl_fast written in PyTorch. Raises InputError that names one that is not
    known here."""
    ops = torch.ops.mmssl_fast
    table: dict[Any, Callable[..., Any]] = {
        ops.unit_rows.default: lambda x: (reference.unit_rows(x), x[..., :1]),
        ops.modality_mix.default: _modality_mix,
        ops.cosine_topk.default: _cosine_topk,
    }
    program = program.run_decompositions({**torch.export.default_decompositions(), **table})
    left = {str(node.target) for node in program.graph.nodes if str(node.target).startswith(("mmssl_fast", OURS))}
    if left:
        raise InputError(f"the operation {min(left)} has no equivalent in ONNX; use --to torch-export")
    return program


def _modality_mix(q: Tensor, k: Tensor, e: Tensor, heads: int) -> Tensor:
    """The part of `reference.modality_attention` before the output projection."""
    m, n, d = e.shape
    queries, keys = (part.reshape(m, n, heads, d // heads).permute(1, 2, 0, 3) for part in (q, k))
    weights = (queries @ keys.mT / math.sqrt(d / heads)).softmax(-1)  # [N, H, M, M]
    mixed = weights.mean(2) @ e.permute(1, 0, 2)  # the mean over modalities of each head, [N, H, d]
    return mixed.reshape(n, heads * d)


def _cosine_topk(u: Tensor, v: Tensor, k: int, crow: Tensor | None, col: Tensor | None) -> tuple[Tensor, Tensor]:
    """`mmssl_fast.ops.cosine_topk` of rows that have their length already, with a B x I matrix."""
    scores = u @ v.mT
    if crow is not None and col is not None:
        # With the dtype: onnxscript before 0.7.2 takes the numbers up to a symbolic length for floats.
        row = (torch.arange(col.shape[0], dtype=crow.dtype)[:, None] >= crow[None, 1:]).sum(1)
        seen = torch.zeros(scores.shape, dtype=torch.bool).index_put((row, col), col >= 0)
        scores = scores.masked_fill(seen, -math.inf)
    values, items = scores.topk(min(k, v.shape[0]), 1)
    if k > v.shape[0]:
        values, items = F.pad(values, (0, k - v.shape[0]), value=-math.inf), F.pad(items, (0, k - v.shape[0]))
    return values, torch.where(values == -math.inf, -1, items)
