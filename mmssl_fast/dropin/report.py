"""The report of an `accelerate`: what was replaced, what was not, and why."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .compare import Case, difference, with_parameters_of
from .optimizer import fusable, fuse_, steps_of


class Accelerated:
    """The report of an `accelerate`, printed with one line per part. `restore()` undoes the replacements.

    patched: names of the parts that were replaced. differs: {part: reason} for those that were not. missing: parts that
    the code does not have.

    Example:
        >>> report = Accelerated.of(["bpr_loss"], ["sample", "bpr_loss"])
        >>> report.parts, report.patched
        (['bpr_loss'], [])
    """

    def __init__(self, parts: Sequence[str]) -> None:
        self.parts = list(parts)
        self.patched: list[str] = []
        self.differs: dict[str, str] = {}
        self.missing: list[str] = []
        self._found: list[tuple[Any, str, Any]] = []
        self._optimizers: list[Any] = []
        self._undo: list[Callable[[], Any]] = []

    @classmethod
    def of(cls, parts: Iterable[str], known: Sequence[str]) -> Accelerated:
        """An empty report for these parts, in the order of `known`. Raises ValueError for a name not in `known`."""
        if isinstance(parts, str):
            raise ValueError(f"accelerate: parts must be a list of names, got {parts!r}; pass [{parts!r}]")
        asked = set(parts)
        if unknown := sorted(asked - set(known)):
            raise ValueError(f"accelerate: parts must be among {', '.join(known)}, got {', '.join(unknown)}")
        return cls([part for part in known if part in asked])

    def compare(
        self,
        part: str,
        place: Any,
        name: str,
        replacement: Callable[..., Any] | str,
        cases: list[Case],
        installed: Callable[..., Any] | str | None = None,
        objects: Mapping[str, Any] | None = None,
    ) -> None:
        """Compares `replacement` with the attribute or key `name` of `place`. `install` replaces it if they are equal.

        replacement: a function, or the reason why there is none. It must accept the calls that the original accepts.
        cases, objects: see `dropin.compare.difference`.
        installed: the function that `install` uses instead of `replacement`, for options that change results.
        """
        original = place[name] if isinstance(place, dict) else getattr(place, name)
        if not isinstance(replacement, str):
            replacement = with_parameters_of(original, replacement)
        reason = replacement if isinstance(replacement, str) else difference(original, replacement, cases, objects)
        if reason:
            self.differs[part] = reason
            return
        installed = replacement if installed is None else installed
        with contextlib.suppress(AttributeError):  # a bound method takes no attributes
            installed.__wrapped__ = original  # type: ignore[union-attr]
        self._found.append((place, name, installed))
        self.patched.append(part)

    def optimizer(self, part: str, optimizer: Any) -> None:
        """Adds an Adam or AdamW whose fused steps equal its unfused steps. `install` enables fused steps."""
        reason = fusable(optimizer)
        if optimizer is None:
            self.missing.append(part)
        elif reason or (reason := difference(False, True, [lambda fused: steps_of(optimizer, fused)])):
            self.differs[part] = reason
        else:
            self._optimizers.append(optimizer)
            self.patched.append(part)

    def install(self, name: str, strict: bool) -> None:
        """Replaces the parts that are equal, and warns about the others. Raises ValueError, and replaces nothing, if
        the code has none of the parts, or (strict) if a part differs or is missing."""
        if len(self.missing) == len(self.parts):
            raise ValueError(f"accelerate: {name} has none of {', '.join(self.missing)}")
        if strict and (self.differs or self.missing):
            raise ValueError(f"accelerate: not every part of {name} can be replaced:\n{self}")
        for place, attribute, value in self._found:
            self._set(place, attribute, value)
        for optimizer in self._optimizers:
            fuse_(optimizer)
        if self.differs:
            reasons = "; ".join(f"{part}: {reason}" for part, reason in self.differs.items())
            warnings.warn(f"accelerate: not replaced in {name}: {reasons}", stacklevel=3)

    def restore(self) -> None:
        """Undoes the replacements, except that of an optimizer."""
        while self._undo:
            self._undo.pop()()

    def __str__(self) -> str:
        said = dict.fromkeys(self.patched, "patched") | dict.fromkeys(self.missing, "missing")
        said |= {part: f"differs: {reason}" for part, reason in self.differs.items()}
        return "\n".join(f"{part}: {said[part]}" for part in self.parts)

    def __repr__(self) -> str:
        return f"Accelerated(patched={self.patched}, differs={list(self.differs)}, missing={self.missing})"

    def _set(self, place: Any, name: str, value: Any) -> None:
        namespace = vars(place) if not isinstance(place, dict) else place
        before = namespace.get(name, self)
        put = place.__setitem__ if isinstance(place, dict) else lambda key, x: setattr(place, key, x)
        put(name, value)
        self._undo.append((lambda: put(name, before)) if before is not self else lambda: delattr(place, name))


def require(argument: str, value: Any, what: str, *attributes: str) -> None:
    """Raises TypeError, unless `value`, passed as `argument`, has the attributes by which `what` is recognised."""
    for attribute in attributes:
        if not hasattr(value, attribute):
            raise TypeError(
                f"accelerate: {argument} must be {what}, got {described(value)}, which has no attribute {attribute!r}"
            )


def described(value: Any) -> str:
    """The name of a class, function or module, or the type of any other value."""
    name = getattr(value, "__name__", None)
    return f"{type(value).__name__} {name}" if name else type(value).__name__
