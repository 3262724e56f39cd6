"""T1 of blood of each person: the constant given, a hematocrit given, or what participants.tsv says of the person."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..physics.blood import FORMULAS, t1_blood
from ..physics.constants import Constants
from .sidecar import Sidecar, dataset_root, entities, shorten, split_name

#: s within which T1 of blood can lie at any field of a scanner.
PLAUSIBLE = (0.5, 4.0)
COLUMNS = ("t1_blood", "hematocrit")


@dataclass(frozen=True)
class Blood:
    """T1 of blood in s (None: the default), where it is from, ready for JSON, and the file that it stands in."""

    value: float | None = None
    provenance: dict[str, Any] = field(default_factory=lambda: {"Source": "default"})
    file: Path | None = None

    def said(self) -> str | None:
        """In words, where it is not the default."""
        if self.value is None:
            return None
        formula = self.provenance.get("Formula")
        return f"T1 of blood {self.value:.3f} s, from {self.provenance['Source']}" + (f": {formula}" if formula else "")


def find_blood(
    path: Path,
    sidecar: Sidecar,
    constants: Mapping[str, float] | None = None,
    hematocrit: float | None = None,
    formula: str | None = None,
) -> Blood:
    """T1 of blood of the person whose ASL series this is.

    constants["t1_blood"] goes before hematocrit, that before column t1_blood of participants.tsv at the root of the
    data set, and that before its column hematocrit; "n/a" is none. formula: of `physics.blood`, by default the first.

    Raises
    ------
    InputError
        Both constants["t1_blood"] and hematocrit, a value that no one has, or a field strength that the formula is not
        known for.
    """
    given = (constants or {}).get("t1_blood")
    if given is not None:
        if hematocrit is not None:
            raise InputError("--constant t1_blood and --hematocrit are both given; expected one of them")
        return Blood(float(given), {"Source": "constant t1_blood given"})
    if hematocrit is not None:
        return _from_hematocrit(hematocrit, "hematocrit given", sidecar, formula, None)
    row, file = _participant(path)
    if file is None:
        return Blood()
    who = row.get("participant_id")
    value = _number(row, "t1_blood", file)
    if value is not None:
        low, high = PLAUSIBLE
        if not low <= value <= high:
            raise InputError(f"{file}: t1_blood of {who} is {value:g}; expected {low:g} to {high:g} s")
        return Blood(value, {"Source": f"t1_blood of {who} in {file.name}"}, file)
    value = _number(row, "hematocrit", file)
    if value is None:
        return Blood()
    return _from_hematocrit(value, f"hematocrit of {who} in {file.name}", sidecar, formula, file)


def _from_hematocrit(value: float, source: str, sidecar: Sidecar, formula: str | None, file: Path | None) -> Blood:
    name = formula or next(iter(FORMULAS))
    recorded = "MagneticFieldStrength" in sidecar
    tesla = sidecar.number("MagneticFieldStrength", "a field in tesla", low=0.01, high=30) if recorded else 3.0
    try:
        found = t1_blood(value, tesla, name)
    except InputError as error:
        raise InputError(f"{file}: {error}" if file else str(error)) from error
    about = {
        "Source": source,
        "Hematocrit": value,
        "MagneticFieldStrength": tesla if recorded else "3, assumed: MagneticFieldStrength is missing",
        "FormulaName": name,
        "Formula": FORMULAS[name].source,
        "OtherFormulas": {
            other: round(t1_blood(value, tesla, other), 4)
            for other, of in FORMULAS.items()
            if other != name and of.tesla[0] <= tesla <= of.tesla[1]
        },
        "DefaultValue": Constants.t1_blood,
    }
    return Blood(found, about, file)


def _participant(path: Path) -> tuple[dict[str, str], Path | None]:
    """The row of participants.tsv of the person whose file this is, and that table; None where there is neither."""
    root = dataset_root(path)
    label = entities(split_name(path)[0]).get("sub")
    if root is None or label is None or not (root / "participants.tsv").is_file():
        return {}, None
    file = root / "participants.tsv"
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8-sig").splitlines(), delimiter="\t"))
    except (ValueError, OSError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read as a text table ({str(error)[:80]})") from error
    mine = [row for row in rows if (row.get("participant_id") or "").strip() == f"sub-{label}"]
    if len(mine) > 1 and len({tuple(row.get(name) for name in COLUMNS) for row in mine}) > 1:
        raise InputError(f"{file}: has {len(mine)} rows of sub-{label} that differ; expected one")
    return (mine[0], file) if mine else ({}, None)


def _number(row: Mapping[str, str], name: str, file: Path) -> float | None:
    text = (row.get(name) or "").strip()
    if text.lower() in ("", "n/a", "nan"):
        return None
    try:
        return float(text)
    except ValueError:
        who = row.get("participant_id")
        raise InputError(f"{file}: {name} of {who} is {shorten(text)}; expected a number, or n/a") from None
