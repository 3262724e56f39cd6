"""What the core raises when it cannot go on; the command line turns each into an exit code."""

from __future__ import annotations


class InputError(ValueError):
    """The input or an argument is wrong: says what was found, what was expected, what to change (exit code 2)."""


class FitError(RuntimeError):
    """A fit could not be completed, for example because its loss is not finite (exit code 1)."""
