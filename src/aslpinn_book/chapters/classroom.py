"""Answers of the teaching notebooks, checked without stopping a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating]


Arguments = Sequence[Any] | Callable[[], Sequence[Any]]


def solved(task: str, mine: Any, reference: Any, arguments: Arguments = (), rtol: float = 1e-3) -> Any:
    """What a page goes on with: a student's answer where it is right, else the reference; prints which, never raises.

    mine is a value, or a function that is tried on `arguments` (reference then too; a function makes them anew for
    each); None or ... means not written yet. Values are compared with a tolerance of rtol, relative to the largest of
    the reference.
    """
    try:
        found = mine(*_made(arguments)) if callable(mine) else mine
        if found is None or found is ...:
            print(f"{task}: not written yet. The page goes on with the book's own answer.")
            return reference
        expected = reference(*_made(arguments)) if callable(reference) else reference
        words = _difference(found, expected, rtol)
    except Exception as error:  # whatever a student wrote: said, and the page goes on
        print(f"{task}: stops with {type(error).__name__}: {error}. The page goes on with the book's own answer.")
        return reference
    if words:
        print(f"{task}: not yet right, {words}. The page goes on with the book's own answer.")
        return reference
    print(f"{task}: right.")
    return mine


def _made(arguments: Arguments) -> Sequence[Any]:
    return arguments() if callable(arguments) else arguments


def _difference(found: Any, expected: Any, rtol: float) -> str:
    """Where two answers differ, in words; an empty string where they agree."""
    a, b = (np.array([_numbers(part) for part in _parts(value)], dtype=object) for value in (found, expected))
    if len(a) != len(b):
        return f"{len(a)} values, expected {len(b)}"
    for one, other in zip(a, b, strict=True):
        one, other = np.asarray(one, float), np.asarray(other, float)
        if one.shape != other.shape:
            return f"shape {one.shape}, expected {other.shape}"
        error = np.abs(one - other)
        if not np.all(error <= rtol * max(float(np.max(np.abs(other))), 1e-30)):
            worst = np.unravel_index(int(np.argmax(np.where(np.isnan(error), np.inf, error))), error.shape)
            return f"found {one[worst]:.4g}, expected {other[worst]:.4g}"
    return ""


def _parts(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple) else (value,)


def _numbers(value: Any) -> Float:
    return np.asarray(value.detach() if hasattr(value, "detach") else value, float)
