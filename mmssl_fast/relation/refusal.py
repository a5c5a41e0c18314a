"""What relation rows and their gradients answer where only the matrix could: a TypeError that names `.dense()`.

Python looks operators up on the class, past `__getattr__`, and has answers of its own for some of them: `==` compares
identities, `bool` asks for the length. Each of them is therefore refused by name.
"""

from __future__ import annotations

OPERATORS = (
    "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod divmod rdivmod pow rpow matmul rmatmul "
    "and rand or ror xor rxor lshift rlshift rshift rrshift iadd isub imul itruediv ifloordiv imod ipow iand ior ixor "
    "ilshift irshift imatmul eq ne lt le gt ge neg pos abs invert round bool int float complex index iter contains "
    "getitem setitem delitem len reversed array array_function"
).split()


class NoSuchAttribute(AttributeError, TypeError):
    """A TypeError like every other refusal, and an AttributeError so that hasattr and getattr with a default work."""


def _refuse(operator: str):
    def refuse(self, *_, **__):
        raise TypeError(f"{type(self).__name__} has no {operator}; use .dense() for the matrix itself")

    refuse.__name__ = operator
    return refuse


class Refusal:
    """Base class: every operator and every attribute that a subclass does not define raises."""

    __slots__ = ()
    __hash__ = object.__hash__  # by identity; __eq__ is refused below

    def __getattr__(self, name: str):
        raise NoSuchAttribute(f"{type(self).__name__} has no {name!r}; use .dense() for the matrix itself")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        """NumPy's numbers scale rows as Python's do; every other ufunc needs the matrix."""
        numbers = [x.item() if hasattr(x, "item") and getattr(x, "ndim", None) == 0 else x for x in inputs]
        operator = {"add": "add", "subtract": "sub", "multiply": "mul", "divide": "truediv"}.get(ufunc.__name__)
        if method != "__call__" or kwargs or operator is None or len(numbers) != 2:
            raise TypeError(f"numpy.{ufunc.__name__} does not take {type(self).__name__}; use .dense()")
        a, b = numbers
        return getattr(a, f"__{operator}__")(b) if a is self else getattr(b, f"__r{operator}__")(a)


for _name in OPERATORS:
    setattr(Refusal, f"__{_name}__", _refuse(f"__{_name}__"))
