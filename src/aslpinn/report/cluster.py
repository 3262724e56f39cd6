"""What a larger study will need, from one that has run: core-hours, memory, space, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError


def measured(out: Path) -> dict[str, Any]:
    """Per-subject numbers of the study in OUT: core-seconds, memory in MB, bytes and files, and those shared by all.

    Raises
    ------
    InputError
        Where OUT holds no study with a subject that was fitted.
    """
    try:
        record = json.loads((out / "study.json").read_text(encoding="utf-8"))
        done = {key: state for key, state in record["subjects"].items() if state["state"] == "done"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{out / 'study.json'}: {error}; expected the record of a study that has run") from None
    if not done:
        raise InputError(f"{out / 'study.json'}: no subject was fitted; expected one to measure")
    count = len(done)
    folders = {"subjects": [out / "subjects"], "derivatives": [out / "derivatives"], "site": [out / "site"]}
    sizes = {name: _size(paths) for name, paths in folders.items()}
    pages = sorted((out / "site" / "subjects").glob("*.html"))
    return {
        "subjects": count,
        "seconds": float(np.median([state["seconds"] for state in done.values()])),
        "core_seconds": float(np.median([state["seconds"] * state.get("threads", 1) for state in done.values()])),
        "peak_memory_mb": float(max(state.get("peak_memory_mb") or 0.0 for state in done.values())),
        "kept_bytes": (sizes["subjects"][0] + sizes["derivatives"][0]) / count,
        "kept_files": (sizes["subjects"][1] + sizes["derivatives"][1]) / count,
        "site_bytes": _site_share(out, pages, 0) / count,
        "site_files": _site_share(out, pages, 1) / count,
    }


def _size(paths: list[Path]) -> tuple[int, int]:
    files = [file for path in paths for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files), len(files)


def _site_share(out: Path, pages: list[Path], which: int) -> int:
    """Bytes or files of the site that come with the subjects: their pages, sources and images."""
    keys = [page.stem for page in pages if page.stem not in ("index", "group")]
    files = [page for page in pages if page.stem in keys]
    files += [file for key in keys for file in (out / "site" / "_sources" / "subjects").glob(f"{key}.*")]
    images = [file for file in (out / "site" / "_images").glob("*") if file.is_file()]
    chapters = len(list((out / "site" / "notebooks").glob("*.html")))
    if not chapters:
        files += images
    return sum(file.stat().st_size for file in files) if which == 0 else len(files)


def plan_table(out: Path, count: int, cores: int = 100) -> str:
    """What count subjects need, in words, from the study in OUT."""
    per = measured(out)
    hours = count * per["core_seconds"] / 3600
    kept, site = count * per["kept_bytes"] / 1e9, count * per["site_bytes"] / 1e9
    rows = [
        ("measured on", f"{per['subjects']} subjects in {out}"),
        ("one subject", f"{per['seconds']:.0f} s, {per['core_seconds']:.0f} core-seconds (median)"),
        ("its memory", f"{per['peak_memory_mb']:.0f} MB at most: ask for {_ask(per['peak_memory_mb'])} MB"),
        ("subjects", f"{count}"),
        ("computing", f"{hours:.1f} core-hours; {3600 * hours / cores / 60:.0f} min on {cores} cores"),
        ("maps and reports", f"{kept:.2f} GB in {count * per['kept_files']:.0f} files"),
        ("their pages", f"{site:.2f} GB in {count * per['site_files']:.0f} files"),
    ]
    return "\n".join(f"{name:<18}{value}" for name, value in rows)


def _ask(peak: float) -> int:
    """Memory to ask for: half more than the peak, in steps of 500 MB."""
    return int(np.ceil(1.5 * peak / 500) * 500)
