"""What a larger study will need, from one that has run: core-hours, memory, space, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from aslpinn.errors import InputError


def read_record(out: Path) -> dict[str, Any]:
    """study.json of the study in OUT; InputError where there is none."""
    try:
        record = json.loads((out / "study.json").read_text(encoding="utf-8"))
        record["subjects"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = error.strerror if isinstance(error, OSError) else repr(error)
        raise InputError(f"{out / 'study.json'}: {said}; expected the record of a study that has run") from None
    return record


def measured(out: Path, record: dict[str, Any]) -> dict[str, float]:
    """Per-subject numbers of the study in OUT: seconds, core-seconds, memory in MB, bytes and files that are kept.

    Raises
    ------
    InputError
        Where no subject was fitted.
    """
    done = [state for state in record["subjects"].values() if state["state"] == "done"]
    if not done:
        raise InputError(f"{out}: no subject was fitted; expected one to measure")
    count = len(done)
    kept = [_size(out / name) for name in ("subjects", "derivatives")]
    found = {
        "subjects": count,
        "seconds": float(np.median([state["seconds"] for state in done])),
        "core_seconds": float(np.median([state["seconds"] * state.get("threads", 1) for state in done])),
        "cpu_seconds": float(np.median([state.get("cpu_seconds") or np.nan for state in done])),
        "peak_memory_mb": float(max(state.get("peak_memory_mb") or 0.0 for state in done)),
        "kept_bytes": sum(size for size, _ in kept) / count,
        "kept_files": sum(files for _, files in kept) / count,
    }
    site = [_size(out / "site" / name) for name in ("subjects", "_images", "_sources/subjects", "maps")]
    if not (out / "site" / "notebooks").exists():  # with chapters the images are theirs too
        found |= {"site_bytes": sum(size for size, _ in site) / count, "site_files": sum(n for _, n in site) / count}
    return found


def _size(folder: Path) -> tuple[int, int]:
    """Bytes and number of the files in a folder."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files), len(files)


def plan_table(out: Path, count: int, cores: int = 100, record: dict[str, Any] | None = None) -> str:
    """What count subjects need, as plain text, from the study in OUT (and its site, unless a record is given)."""
    per = measured(out, record or read_record(out))
    hours = count * per["core_seconds"] / 3600
    threads = per["core_seconds"] / per["seconds"] if per["seconds"] else 1.0
    rows = [
        ("measured on", f"{per['subjects']:.0f} subjects"),
        (
            "one subject",
            f"{per['seconds']:.0f} s on {threads:.0f} core{'s' * (round(threads) != 1)}: "
            f"{per['core_seconds']:.0f} core-seconds (median)",
        ),
        *(
            [("", f"of which the processor worked {per['cpu_seconds']:.0f} s")]
            if np.isfinite(per["cpu_seconds"])
            else []
        ),
        ("its memory", f"{per['peak_memory_mb']:.0f} MB at most: ask for {_ask(per['peak_memory_mb'])} MB"),
        ("subjects", f"{count}"),
        ("computing", f"{hours:.1f} core-hours; {3600 * hours / cores / 60:.0f} min on {cores} cores"),
        ("maps and reports", f"{count * per['kept_bytes'] / 1e9:.2f} GB in {count * per['kept_files']:.0f} files"),
    ]
    if "site_bytes" in per and record is None:
        site = f"{count * per['site_bytes'] / 1e9:.2f} GB in {count * per['site_files']:.0f} files"
        rows.append(("their pages", site))
    return "\n".join(f"{name:<18}{value}" for name, value in rows)


def _ask(peak: float) -> int:
    """Memory to ask for: half more than the peak, in steps of 500 MB."""
    return int(np.ceil(1.5 * peak / 500) * 500)
