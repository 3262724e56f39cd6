"""What the core raises when it cannot go on; the command line turns each into an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """The input or an argument is wrong: says what was found, what was expected, what to change (exit code 2).

    problems: a message for each thing that is wrong, where there are several; text is then short.
    """

    def __init__(self, text: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.problems = problems or (text,)


class MissingField(InputError):
    """A field that a file lacks."""

    def __init__(self, file: object, name: str, expected: str) -> None:
        super().__init__(f"{file}: {name} is missing; expected {expected}")
        self.file, self.name, self.expected = str(file), name, expected


class FitError(RuntimeError):
    """A fit could not be completed, for example because its loss is not finite (exit code 1)."""


class Problems:
    """Gathers what is wrong with an input, so that all of it is told at once and not one thing a run."""

    #: Lines of an error, besides the one that counts the rest.
    SHOWN = 2

    def __init__(self) -> None:
        self.found: list[InputError] = []

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Go on after an InputError, which is kept."""
        try:
            yield
        except InputError as error:
            self.found.append(error)

    def messages(self) -> list[str]:
        """What is wrong, a line each; the fields that one file lacks are one line."""
        missing: dict[str, list[MissingField]] = {}
        others: list[str] = []
        for error in self.found:
            if isinstance(error, MissingField):
                missing.setdefault(error.file, []).append(error)
            else:
                others += error.problems
        lines = []
        for file, fields in missing.items():
            if len(fields) == 1:
                lines.append(str(fields[0]))
                continue
            names = ", ".join(field.name for field in fields[:-1]) + f" and {fields[-1].name}"
            wanted = "; ".join(f"{field.name}: {field.expected}" for field in fields)
            lines.append(f"{file}: {names} are missing; expected {wanted}")
        return list(dict.fromkeys(lines + others))

    def stop(self) -> None:
        """Raise what was gathered, if anything was, as one InputError."""
        told = self.messages()
        if not told:
            return
        if len(self.found) == 1:
            raise self.found[0]
        rest = len(told) - self.SHOWN
        more = [f"and {rest} more: aslpinn check lists all of them"] if rest > 1 else told[self.SHOWN :]
        raise InputError("\n".join([*told[: self.SHOWN], *more]), tuple(told))
