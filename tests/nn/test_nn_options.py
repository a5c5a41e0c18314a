"""The options of the objective: one place for names and defaults."""

import inspect
from dataclasses import fields
from typing import get_type_hints

import pytest

from mmssl_fast.nn import MMSSLObjective, ObjectiveOptions
from mmssl_fast.nn.options import TEMPERATURES, WEIGHTS


def test_configuration_has_the_same_options():
    """[loss] of the trainer's configuration: the same names, defaults and types, and nothing else."""
    sections = pytest.importorskip("mmssl_trainer.config.sections", reason="the trainer's requirements are not here")
    options = {field.name: field.default for field in fields(ObjectiveOptions)}
    assert sections.LossSection().model_dump() == options
    hints = get_type_hints(ObjectiveOptions)
    assert {name: hints[name] for name in options} == {
        name: field.annotation for name, field in sections.LossSection.model_fields.items()
    }


def test_every_number_is_checked():
    numbers = {field.name for field in fields(ObjectiveOptions) if isinstance(field.default, float)}
    assert {*TEMPERATURES, *WEIGHTS} == numbers
    for name in TEMPERATURES:
        with pytest.raises(ValueError, match=f"^MMSSLObjective: {name} must be positive, got 0"):
            ObjectiveOptions(**{name: 0.0})
    for name in WEIGHTS:
        with pytest.raises(ValueError, match=f"^MMSSLObjective: {name} must not be negative, got -1"):
            ObjectiveOptions(**{name: -1.0})
    with pytest.raises(ValueError, match=r'^MMSSLObjective: kind must be "cosine" or "dot", got'):
        ObjectiveOptions(kind="euclidean")


def test_objective_repeats_no_default():
    own = inspect.signature(MMSSLObjective).parameters
    assert not own.keys() & {field.name for field in fields(ObjectiveOptions)}
