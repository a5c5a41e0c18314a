"""Starting a run from a model instead of from random values."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError
from ..systems.base import System


@dataclass(frozen=True)
class Start:
    """The values with which a run starts.

    source: the model, for messages. parameters: by the names of System.parameters, with the rows of the data of this
    run. known: {parameter: bool [rows]}, the rows that have a value; the others keep their random initial values. A
    parameter that is not in it has all its rows. same_data: whether the model has the same users and items, so that
    buffers, such as neighbours and clusters, can be kept as well.
    """

    source: str
    parameters: dict[str, Tensor]
    known: dict[str, Tensor] = field(default_factory=dict)
    same_data: bool = True

    def load(self, system: System) -> None:
        """Replace the initial values of a system. Raises InputError for a missing parameter or a wrong shape."""
        initial, trained = system.parameters(), dict(system.trained_parameters())
        fitting = {
            name: tensor
            for name, tensor in self.parameters.items()
            if name in initial and initial[name].shape == tensor.shape and (self.same_data or name in trained)
        }
        for name, parameter in trained.items():
            if name not in fitting:
                problem = "is missing"
                if name in self.parameters:
                    problem = f"has the shape {tuple(self.parameters[name].shape)}"
                raise InputError(
                    f"{self.source}: the model does not fit this configuration: {name} {problem} instead of "
                    f"{tuple(parameter.shape)}; use the settings of the model"
                )
        for name, rows in self.known.items():
            if name in fitting:
                value = fitting[name].to(initial[name])
                fitting[name] = torch.where(rows.to(value.device)[:, None], value, initial[name])
        system.load_parameters(initial | fitting)  # buffers whose shape depends on the interactions keep their values
        if not self.same_data and hasattr(system, "started_from_model"):
            system.started_from_model()
