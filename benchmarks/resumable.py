"""A CSV file of a benchmark that grows by rows and goes on where it was stopped."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def begin(out: Path, columns: Sequence[str], key: Sequence[str]) -> set[tuple[str, ...]]:
    """Values of the columns `key` of the rows that the file has; a new file has its head only."""
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(",".join(columns) + "\n")
    with out.open(newline="") as file:
        return {tuple(row[name] for name in key) for row in csv.DictReader(file)}


def append(out: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]], digits: int) -> None:
    """Add rows; numbers have so many significant digits."""
    with out.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writerows({k: f"{v:.{digits}g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
