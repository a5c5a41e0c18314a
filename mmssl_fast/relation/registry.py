"""The table in which `__torch_function__` of relation rows and of their gradients looks a torch function up.

torch_functions.py fills it. It lies in a module of its own, which imports nothing, so that the classes can look in it
without importing the functions that are written in terms of the classes.
"""

import inspect

_HANDLERS = {}


def handles(*functions):
    """Decorator: the function below is called in place of each of `functions`, with their arguments."""

    def register(handler):
        _HANDLERS.update(dict.fromkeys(functions, (handler, inspect.signature(handler))))
        return handler

    return register


def call(func, args: tuple, kwargs: dict):
    """func(*args, **kwargs) where some argument is a relation object."""
    handler, signature = _HANDLERS.get(func, (None, None))
    if handler is None:
        raise TypeError(
            f"{_name(func)} does not take {_kind(args, kwargs)}; use .dense() to form the matrix (its size in memory is"
            " rows x items)"
        )
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{_name(func)} of {_kind(args, kwargs)}: {error}; use .dense()") from None
    return handler(*args, **kwargs)


def _name(func) -> str:
    return getattr(func, "__name__", str(func))


def _kind(args: tuple, kwargs: dict) -> str:
    return next((type(x).__name__ for x in _flat((*args, *kwargs.values())) if hasattr(x, "dense")), "RelationRows")


def _flat(values):
    for value in values:
        if isinstance(value, tuple | list):
            yield from _flat(value)
        else:
            yield value
