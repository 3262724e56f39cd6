"""Measure a study of many small virtual subjects on this machine: time beyond the fits, memory, files, the book.

    python benchmarks/study.py [--subjects 200] [--voxel 9] [--jobs 2] [--out build/benchmarks/study] [--page FILE]

A subject's time is split by the cells of its executed notebook: those that fit (fit and measure_subject), and all the
rest (starting a process and a kernel, imports, reading, figures, writing). The memory of the runner is looked at every
two seconds while it runs. Killed and started again it goes on where it was; what it prints holds for what ran.
--page writes the numbers as the table that book/cluster.md shows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from aslpinn.data import simulate, write_phantom
from aslpinn.markdown import table as markdown_table
from aslpinn_book.study.needs import measured, plan_table, read_record

ROOT = Path(__file__).resolve().parents[1]
FITS = re.compile(r"\b(fit|measure_subject)\(")


def write_subjects(folder: Path, count: int, voxel: float) -> int:
    """A BIDS data set of so many virtual volunteers at cubic voxels of so many mm; voxels in the first one's mask."""
    size = (voxel, voxel, voxel)
    for number in range(1, count + 1):
        label = f"{number:04d}"
        if not (folder / f"sub-{label}" / "perf" / f"sub-{label}_m0scan.json").is_file():
            write_phantom(simulate(volunteer=number, seed=number, voxel_size=size), folder, subject=label)
    return int(simulate(volunteer=1, seed=1, voxel_size=size).mask.sum())


def run(plan: Path, jobs: int) -> dict[str, Any]:
    """Run the study; its seconds, exit code, and MB of the runner and of all its processes at each look."""
    start = time.monotonic()
    study = subprocess.Popen([sys.executable, "-m", "aslpinn", "study", str(plan), "-j", str(jobs)], cwd=ROOT)
    process = psutil.Process(study.pid)
    runner, family, load = [], [], []
    while study.poll() is None:
        load.append(os.getloadavg()[0])
        try:
            runner.append(process.memory_info().rss / 1e6)
            family.append(sum(_own(child) for child in [process, *process.children(recursive=True)]))
        except psutil.Error:
            pass
        time.sleep(2)
    return {
        "seconds": time.monotonic() - start,
        "code": study.returncode,
        "runner": runner,
        "family": family,
        "load": load,
    }


def _own(process: psutil.Process) -> float:
    """MB of a process, what it shares with others counted by halves, thirds and so on where the system tells."""
    try:
        full = process.memory_full_info()
        return float(getattr(full, "pss", full.rss)) / 1e6
    except psutil.Error:
        return 0.0


def split(report: Path) -> dict[str, float]:
    """Seconds of an executed notebook: in cells that fit, and in the others."""
    found = {"fits": 0.0, "cells": 0.0}
    for cell in json.loads(report.read_text(encoding="utf-8"))["cells"]:
        times = cell["metadata"].get("papermill", {})
        if cell["cell_type"] != "code" or not times.get("end_time"):
            continue
        seconds = (
            datetime.fromisoformat(times["end_time"]) - datetime.fromisoformat(times["start_time"])
        ).total_seconds()
        found["fits" if FITS.search("".join(cell["source"])) else "cells"] += seconds
    return found


def rows(out: Path, record: dict[str, Any], voxels: int, looked: dict[str, Any]) -> list[tuple[str, str]]:
    """What was measured, in words."""
    done = {key: state for key, state in record["subjects"].items() if state["state"] == "done"}
    parts = {key: split(out / "subjects" / key / "report.ipynb") for key in done}
    fits = np.array([parts[key]["fits"] for key in done])
    other = np.array([state["seconds"] for state in done.values()]) - fits
    processor = np.array([state.get("cpu_seconds") or np.nan for state in done.values()])
    per = measured(out, record)
    site = [path for path in (out / "site").rglob("*") if path.is_file()]
    found = [
        ("subjects", f"{len(done)} of {len(record['subjects'])} fitted, {voxels} voxels each"),
        ("machine", f"{record['machine']}, {np.mean(looked['load']):.1f} processes at work on it (mean)"),
        ("fits, a subject", f"{np.median(fits):.1f} s (median)"),
        ("beyond the fits, a subject", f"{np.median(other):.1f} s (median), {np.percentile(other, 95):.1f} s (95 %)"),
        ("processor, a subject", f"{np.nanmedian(processor):.1f} s (median)"),
        ("memory of a subject", f"{per['peak_memory_mb']:.0f} MB at most"),
        ("kept, a subject", f"{per['kept_bytes'] / 1e6:.2f} MB in {per['kept_files']:.0f} files"),
        ("book", f"{sum(path.stat().st_size for path in site) / 1e6:.0f} MB in {len(site)} files"),
    ]
    if len(looked["runner"]) > 20:
        runner = np.array(looked["runner"])
        quarter = len(runner) // 4
        found += [
            ("whole study", f"{looked['seconds'] / 60:.1f} min, the book included"),
            ("memory of the runner", f"{runner[5:quarter].mean():.0f} MB in the first quarter, "
             f"{runner[-quarter:].mean():.0f} MB in the last, {runner.max():.0f} MB at most"),
            ("memory of all processes", f"{max(looked['family']):.0f} MB at most"),
        ]  # fmt: skip
    return found


def main() -> int:
    """Write the subjects, run the study, print the table and what a thousand would need."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--voxel", type=float, default=9.0, help="mm")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks" / "study")
    parser.add_argument("--page", type=Path, help="a file for the table of book/cluster.md")
    arguments = parser.parse_args()
    folder = arguments.out.resolve()
    voxels = write_subjects(folder / "data", arguments.subjects, arguments.voxel)
    plan = folder / "STUDY.toml"
    plan.write_text('bids = ["data"]\nout = "study"\nchapters = false\n')
    looked = run(plan, arguments.jobs)
    out = folder / "study"
    (folder / "memory.json").write_text(json.dumps(looked))
    record = read_record(out)
    table = rows(out, record, voxels, looked)
    print("\n".join(f"{name:<28}{value}" for name, value in table))
    needs = plan_table(out, 1000)
    print(f"\n{needs}")
    if arguments.page:
        text = f"{markdown_table(['', 'measured'], table)}\n\n```none\n{needs}\n```\n"
        arguments.page.write_text(text, encoding="utf-8")
    return int(looked["code"])


if __name__ == "__main__":
    sys.exit(main())
