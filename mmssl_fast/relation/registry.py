"""The table in which `__torch_function__` of relation rows and of their gradients looks a torch function up.

torch_functions.py fills it. It lies in a module of its own, which imports nothing, so that the classes can look in it
without importing the functions that are written in terms of the classes.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

_Handler = TypeVar("_Handler", bound=Callable[..., Any])

_HANDLERS: dict[Callable[..., Any], Callable[..., Any]] = {}


def handles(*functions: Callable[..., Any]) -> Callable[[_Handler], _Handler]:
    """Decorator: the function below is called in place of each of `functions`, with their arguments."""

    def register(handler: _Handler) -> _Handler:
        _HANDLERS.update(dict.fromkeys(functions, handler))
        return handler

    return register


def call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """func(*args, **kwargs) where some argument is a relation object."""
    handler = _HANDLERS.get(func)
    if handler is None:
        kind = next((type(x).__name__ for x in _flat((*args, *kwargs.values())) if hasattr(x, "dense")), "RelationRows")
        name = getattr(func, "__name__", str(func))
        raise TypeError(
            f"{name} does not take {kind}; use .dense() to form the matrix (its size in memory is rows x items)"
        )
    return handler(*args, **kwargs)


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _flat(value)
        else:
            yield value
