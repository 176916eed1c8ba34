"""The standard library's own words, for the classes that stand in for its classes."""

from collections.abc import Callable
from types import FunctionType
from typing import TypeVar

__all__ = ("copy_docstrings_from",)

C = TypeVar("C", bound=type)


def copy_docstrings_from(standard: type | None) -> Callable[[C], C]:
    """Give a class, and those of its methods that `standard` has too, the docstrings of `standard`.

    Their signatures lose the types that the standard library's do not have, so that both are equal
    for whoever inspects them. Type checkers read the source.
    """

    def copy(mirror: C) -> C:
        if standard is None:  # this Python's socketserver has no such class
            return mirror
        mirror.__doc__ = standard.__doc__
        for name, function in vars(mirror).items():
            original = getattr(standard, name, None)
            if isinstance(function, FunctionType) and original is not None:
                function.__doc__ = original.__doc__
                function.__annotations__.clear()
        return mirror

    return copy
