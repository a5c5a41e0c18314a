"""The base class of relation rows and their gradients: operations that need the matrix raise a TypeError.

The error names `.dense()`. Python looks operators up on the class and ignores `__getattr__`, and some operators have
defaults: `==` compares identities, and `bool` uses the length. Every operator is therefore overridden by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from .registry import call

if TYPE_CHECKING:
    import numpy as np

OPERATORS = (
    "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod divmod rdivmod pow rpow matmul rmatmul "
    "and rand or ror xor rxor lshift rlshift rshift rrshift iadd isub imul itruediv ifloordiv imod ipow iand ior ixor "
    "ilshift irshift imatmul eq ne lt le gt ge neg pos abs invert round bool int float complex index iter contains "
    "getitem setitem delitem len reversed array array_function"
).split()


class NoSuchAttribute(AttributeError, TypeError):
    """A TypeError like the others, and an AttributeError, so that hasattr and getattr with a default work."""


def _refuse(operator: str) -> Callable[..., NoReturn]:
    def refuse(self: object, *_: object, **__: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} has no {operator}; use .dense() to form the matrix")

    refuse.__name__ = operator
    return refuse


class NotAMatrix:
    """Base class of objects that represent a matrix. Every operator and attribute that a subclass does not define
    raises a TypeError, and torch functions are looked up in registry.py."""

    __slots__ = ()
    __hash__ = object.__hash__  # needed because __eq__ is overridden below

    def __getattr__(self, name: str) -> NoReturn:
        raise NoSuchAttribute(f"{type(self).__name__} has no {name!r}; use .dense() to form the matrix")

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return call(func, args, kwargs or {})

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """NumPy numbers scale rows as Python numbers do. Every other ufunc needs the matrix."""
        numbers = [x.item() if hasattr(x, "item") and getattr(x, "ndim", None) == 0 else x for x in inputs]
        operator = {"add": "add", "subtract": "sub", "multiply": "mul", "divide": "truediv"}.get(ufunc.__name__)
        if method != "__call__" or kwargs or operator is None or len(numbers) != 2:
            raise TypeError(f"numpy.{ufunc.__name__} does not support {type(self).__name__}; use .dense()")
        a, b = numbers
        return getattr(a, f"__{operator}__")(b) if a is self else getattr(b, f"__r{operator}__")(a)


for _name in OPERATORS:
    setattr(NotAMatrix, f"__{_name}__", _refuse(f"__{_name}__"))
