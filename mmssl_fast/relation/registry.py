"""The table of torch functions that relation rows and their gradients support. `__torch_function__` looks them up here.

torch_functions.py fills the table. The table is a separate module without imports, so that the classes do not import
torch_functions.py, which imports the classes.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

_Handler = TypeVar("_Handler", bound=Callable[..., Any])

_HANDLERS: dict[Callable[..., Any], tuple[Callable[..., Any], inspect.Signature]] = {}


def handles(*functions: Callable[..., Any]) -> Callable[[_Handler], _Handler]:
    """A decorator that registers a function as the implementation of each of `functions` for relation objects."""

    def register(handler: _Handler) -> _Handler:
        _HANDLERS.update(dict.fromkeys(functions, (handler, inspect.signature(handler))))
        return handler

    return register


def call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls the implementation of func(*args, **kwargs), where an argument is a relation object."""
    registered = _HANDLERS.get(func)
    if registered is None:
        raise TypeError(
            f"{_name(func)} does not support {_kind(args, kwargs)}; use .dense() to form the matrix of rows x items"
        )
    handler, signature = registered
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{_name(func)} of {_kind(args, kwargs)}: {error}; use .dense()") from None
    return handler(*args, **kwargs)


def _name(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", str(func))


def _kind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return next((type(x).__name__ for x in _flat((*args, *kwargs.values())) if hasattr(x, "dense")), "RelationRows")


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _flat(value)
        else:
            yield value
