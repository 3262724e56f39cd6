"""Metadata beside a NIfTI file as BIDS defines it: sidecars with inheritance, aslcontext, checked fields."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, MissingField

#: A duration above this many seconds is taken for milliseconds.
LONGEST_SECONDS = 20.0


def shorten(value: Any, length: int = 60) -> str:
    """A value as it is shown in an error: one line, not longer than `length`."""
    text = json.dumps(value, default=str) if not isinstance(value, str) else repr(value)
    return text if len(text) <= length else text[: length - 4] + " ..."


@dataclass
class Sidecar:
    """Merged metadata of one image, and the file that each field came from.

    Every getter raises InputError naming the file, the field, what was found and what was expected.
    """

    main: Path
    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, Path] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def error(self, name: str, expected: str) -> InputError:
        """The error for a field: where it stands, what it holds, what it should hold."""
        file = self.origin.get(name, self.main)
        if name not in self.values:
            return MissingField(file, name, expected)
        return InputError(f"{file}: {name} is {shorten(self.values[name])}; expected {expected}")

    def text(self, name: str, choices: tuple[str, ...], default: str | None = None) -> str:
        """A word out of `choices`, in any case; `default` where the field is missing."""
        expected = " or ".join(choices)
        if name not in self.values and default is not None:
            return default
        value = self.values.get(name)
        for choice in choices:
            if isinstance(value, str) and value.strip().lower() == choice.lower():
                return choice
        raise self.error(name, expected)

    def flag(self, name: str) -> bool | None:
        """True, false, or None where the field is missing."""
        value = self.values.get(name)
        if value is None or isinstance(value, bool):
            return value
        raise self.error(name, "true or false")

    def number(
        self, name: str, expected: str, low: float = 0.0, high: float = math.inf, default: float | None = None
    ) -> float:
        """A finite number in [low, high]; `default` where the field is missing."""
        if name not in self.values and default is not None:
            return default
        value = _as_number(self.values.get(name))
        if value is None or not low <= value <= high:
            raise self.error(name, expected)
        return value

    def seconds(self, name: str, count: int, per: str) -> list[float]:
        """A duration for each of `count` things: one number for all, or a list of that length. In s."""
        value = self.values.get(name)
        entries = value if isinstance(value, list) else [value]
        numbers = [_as_number(entry) for entry in entries]
        if not numbers or any(number is None or number < 0 for number in numbers):
            raise self.error(name, f"seconds, 0 or more: one number, or one for each of the {count} {per}")
        found = [number for number in numbers if number is not None]
        if max(found) > LONGEST_SECONDS:
            raise InputError(
                f"{self.origin.get(name, self.main)}: {name} holds {max(found):g}, which looks like milliseconds; "
                f"expected seconds (for example {max(found) / 1000:g})"
            )
        if not isinstance(value, list):
            return found * count
        if len(found) != count:
            raise InputError(
                f"{self.origin.get(name, self.main)}: {name} has {len(found)} entries; "
                f"expected one number, or one for each of the {count} {per}"
            )
        return found

    def seconds_or_none(self, name: str, count: int, per: str) -> list[float] | None:
        """As `seconds`; None where the field is missing."""
        return None if self.values.get(name) is None else self.seconds(name, count, per)


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def split_name(path: Path) -> tuple[str, str]:
    """File name without extension, and its extension (.nii or .nii.gz)."""
    for extension in (".nii.gz", ".nii"):
        if path.name.lower().endswith(extension):
            return path.name[: -len(extension)], path.name[-len(extension) :]
    return path.name, ""


def entities(stem: str) -> dict[str, str]:
    """BIDS entities of a name: 'sub-01_run-2_asl' gives {'sub': '01', 'run': '2'}."""
    return {match[1]: match[2] for match in re.finditer(r"(?:^|_)([a-z]+)-([A-Za-z0-9]+)(?=_|$)", stem)}


def dataset_root(path: Path) -> Path | None:
    """The folder of the data set that a file lies in: the nearest with a dataset_description.json, if any.

    The folder of a subject or a session is none, whatever was written there: it would hide the data set's sidecars.
    """
    for folder in list(path.absolute().parents)[:6]:
        inner = re.match(r"(sub|ses)-", folder.name) is not None
        if not inner and (folder / "dataset_description.json").is_file():
            return folder
    return None


def _levels(path: Path) -> list[Path]:
    """Folders whose sidecars apply to a file, the most general first."""
    here = path.absolute().parent
    root = dataset_root(path)
    levels = [here]
    while root is not None and levels[-1] != root:
        levels.append(levels[-1].parent)
    return levels[::-1]


def applicable(path: Path, suffix: str, extension: str) -> list[Path]:
    """Files that describe an image by the inheritance principle: subset of its entities, same suffix, general first."""
    stem, _ = split_name(path)
    own = entities(stem)
    exact = stem[: -len("_asl")] + f"_{suffix}" if stem.endswith("_asl") else f"{stem}_{suffix}"
    found: list[Path] = []
    for level in _levels(path):
        here: list[tuple[int, Path]] = []
        for file in level.glob(f"*{suffix}{extension}"):
            name = file.name[: -len(extension)]
            named = entities(name)
            inherits = own and name == "_".join([*(f"{k}-{v}" for k, v in named.items()), suffix])
            if name in (exact, stem) or (inherits and named.items() <= own.items()):
                here.append((len(named), file))
        found += [file for _, file in sorted(here, key=lambda item: (item[0], item[1].name == f"{exact}{extension}"))]
    return found


def raw_files(path: Path, suffix: str, extension: str) -> list[Path]:
    """Files that describe the raw series of one that ASLPrep preprocessed, where it lies in the raw data's derivatives.

    ASLPrep leaves no table of volumes beside sub-XX_desc-preproc_asl; that of the raw series holds for it.
    """
    stem, end = split_name(path)
    root = dataset_root(path)
    if root is None or root.parent.name != "derivatives" or not stem.endswith("_desc-preproc_asl"):
        return []
    plain = re.sub(r"_(space|desc)-[A-Za-z0-9]+(?=_)", "", stem)
    raw = root.parent.parent / path.absolute().parent.relative_to(root) / f"{plain}{end}"
    return applicable(raw, suffix, extension)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object; InputError where it is not one."""
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not valid JSON ({str(error)[:80]}); expected a BIDS sidecar") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: holds {shorten(values)}; expected a JSON object with the fields of a BIDS sidecar")
    return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are given once each: of two values one would win in silence."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(name for number, (name, _) in enumerate(pairs) if name in [other for other, _ in pairs[:number]])
        raise ValueError(f"{shorten(twice)} is given twice")
    return values


def read_sidecar(path: Path, suffix: str, required: bool = True) -> Sidecar:
    """Metadata of an image from the sidecars that apply to it, the nearest one winning.

    Raises
    ------
    InputError
        Where there is none although one is required, or one is not a JSON object.
    """
    stem, _ = split_name(path)
    files = applicable(path, suffix, ".json")
    plain = path.absolute().with_name(f"{stem}.json")
    if plain.is_file() and plain not in files:
        files.append(plain)
    if not files and required:
        raise InputError(f"{path.with_name(stem + '.json')}: not found; expected the BIDS sidecar of {path.name} there")
    sidecar = Sidecar(main=path.with_name(f"{stem}.json"))
    for file in files:
        values = read_json(file)
        sidecar.values |= values
        sidecar.origin |= dict.fromkeys(values, file)
    return sidecar


VOLUME_TYPES = ("control", "label", "deltam", "m0scan", "noRF", "n/a", "cbf")


def read_context(path: Path, volumes: int) -> tuple[list[str], Path]:
    """Volume types from the aslcontext.tsv that applies to an ASL series, and that file.

    Raises
    ------
    InputError
        Where it is missing, has no volume_type column, names an unknown type or has not one row a volume.
    """
    stem, _ = split_name(path)
    base = stem[: -len("_asl")] if stem.endswith("_asl") else stem
    files = applicable(path, "aslcontext", ".tsv") or raw_files(path, "aslcontext", ".tsv")
    if not files:
        raise InputError(
            f"{path.with_name(base + '_aslcontext.tsv')}: not found; "
            f"expected one row (control, label, deltam or m0scan) for each of the {volumes} volumes"
        )
    file = files[-1]
    try:
        rows = list(csv.reader(file.read_text(encoding="utf-8-sig").splitlines(), delimiter="\t"))
    except (ValueError, OSError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read as a text table ({str(error)[:80]})") from error
    rows = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    if not rows or "volume_type" not in rows[0]:
        found = shorten(rows[0]) if rows else "an empty file"
        raise InputError(f"{file}: its first line is {found}; expected the column name volume_type")
    column = rows[0].index("volume_type")
    known = {word.lower(): word for word in VOLUME_TYPES}
    types = []
    for number, row in enumerate(rows[1:], start=1):
        word = row[column] if column < len(row) else ""
        if word.lower() not in known:
            raise InputError(f"{file}: row {number} of volume_type is {shorten(word)}; expected {', '.join(known)}")
        types.append(known[word.lower()])
    if len(types) != volumes:
        raise InputError(f"{file}: has {len(types)} rows; expected {volumes}, one for each volume of {path.name}")
    return types, file
