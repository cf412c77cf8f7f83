"""Names that have changed: the old one works for a minor release, and warns."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed(old: str, new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator: the function also takes the keyword `old` for `new`, and then gives a DeprecationWarning.

    The warning names the line of the caller.

    Raises
    ------
    TypeError
        When the function is called with both.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        """Return the function in a form that takes both names."""

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            """Call the function with the new name of the keyword."""
            if old in kwargs:
                if new in kwargs:
                    raise TypeError(f"{function.__name__} takes {new}={kwargs[new]!r} or the old {old}=, not both")
                text = f"{function.__name__}: {old}= is now {new}=, which takes the same values"
                warnings.warn(text, DeprecationWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate
