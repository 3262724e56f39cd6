"""Time and memory of every estimator as whole processes, and of one training step, on this machine, in one run.

    python benchmarks/speed.py [--quick] [--only steps phantom voxels delays levels threads] [--out FILE]

Writes FILE (default build/benchmarks/speed.csv) with the columns case, estimator, voxels, delays, levels, threads,
seconds, peak_mb, log-log plots with fitted exponents beside it, and says which of the promised ratios are kept (exit
code 1 where one is not). Cases whose name starts with "step" are seconds of one training step inside a running
process, the smallest of many; all others are whole processes, import, reading and writing included, the smallest of
three on the phantom, all fits by turns. Empty cells do not apply.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aslpinn import load_subject
from aslpinn_book.chapters import benchmark, speed
from aslpinn_book.chapters.paper_step import Steps
from aslpinn_book.chapters.speed import MILLION, PHANTOM_VOXELS, Row

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("field", "pinn-single", "nlls", "vb", "svb", "smoothed")  # names of benchmark.METHODS

PAPER = ("--estimator", "pinn", "--preset", "paper")

#: Run in a process of its own: a command of aslpinn, the plain grid fit of a file, the import of a library, or a fit to
#: a synthetic series; prints the peak memory in kB (that of /proc where there is one: the other is at least as large as
#: the process was that started this one).
CHILD = """
import json, resource, sys
from pathlib import Path
task = json.loads(sys.argv[1])
code = 0
if "command" in task:
    from aslpinn.cli import main
    code = main(task["command"])
elif "grid" in task:
    from aslpinn import fit, load_subject
    from aslpinn.data import write_estimate
    subject = load_subject(task["grid"])
    estimate = fit(subject.series, subject.mask, subject.acquisition, estimator="smoothed", kernel=0.0)
    write_estimate(subject, estimate, task["out"])
elif "import" in task:
    __import__(task["import"])
else:
    from aslpinn import fit
    from aslpinn_book.chapters.speed import synthetic, synthetic_m0
    series, mask, timing = synthetic(task["voxels"], task["delays"])
    if task["options"]["estimator"] == "field":
        task["options"]["guide"] = synthetic_m0(mask)
    fit(series, mask, timing, voxel_size=(3.0, 3.0, 3.0), **task["options"])
peak, own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, Path("/proc/self/status")
for line in own.read_text().splitlines() if own.is_file() else ():
    if line.startswith("VmHWM:"):
        peak = line.split()[1]
print("peak", peak, file=sys.stderr)
sys.exit(code)
"""


def options_of(name: str) -> dict[str, Any]:
    """Options of `aslpinn.fit` for a row of the benchmark."""
    method = benchmark.METHODS[name]
    return {"estimator": method.estimator, **method.options}


def arguments_of(name: str) -> list[str]:
    """The same on the command line."""
    return [word for option, value in options_of(name).items() for word in (f"--{option}", str(value))]


def process(task: dict[str, Any], threads: int | None = None, limit: float = 3600.0) -> tuple[float, float]:
    """Seconds and peak MB of a child process; RuntimeError with the end of its messages where it fails."""
    environment = dict(os.environ)
    if threads:
        environment |= {"NUMBA_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    began = time.perf_counter()
    command = [sys.executable, "-c", CHILD, json.dumps(task)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, check=False)
    seconds = time.perf_counter() - began
    lines = done.stderr.strip().splitlines()
    if done.returncode or not lines or not lines[-1].startswith("peak"):
        raise RuntimeError(" / ".join(lines[-2:]))
    unit = 1024.0**2 if sys.platform == "darwin" else 1024.0  # ru_maxrss is in bytes there, in kB elsewhere
    return seconds, float(lines[-1].split()[1]) / unit


def step_rows(
    case: str, steps: Steps, threads: int, rounds: int, names: tuple[str, ...] | None = None
) -> Iterator[Row]:
    """Rows of `Steps.seconds` with so many threads."""
    from aslpinn.threads import set_threads

    set_threads(threads)
    shape = {"voxels": steps.config.batch, "delays": steps.samples.signal.shape[1], "levels": steps.config.levels}
    for name, seconds in steps.seconds(rounds, names).items():
        yield {"case": case, "estimator": name, **shape, "threads": threads, "seconds": seconds}


def measure_steps(quick: bool, cores: int) -> Iterator[Row]:
    """The paper's step in every way; increments and closed form by the two engines."""
    steps = Steps()
    for threads in sorted({1, cores}):
        yield from step_rows("step pointwise", steps, threads, 10 if quick else 40)
    for objective in ("increments", "closed-form"):
        yield from step_rows(f"step {objective}", Steps(objective=objective), cores, 10 if quick else 40)


def measure_levels(quick: bool, cores: int) -> Iterator[Row]:
    """The step against the number of levels, and against delays."""
    for levels in (4, 16) if quick else (2, 4, 8, 12, 16):
        yield from step_rows("step by levels", Steps(levels), cores, 3 if quick else 20, ("torch", "fused"))
    for delays in (4, 24) if quick else (3, 6, 11, 24, 48):
        yield from step_rows("step by delays", Steps(delays=delays), cores, 3 if quick else 20, ("torch", "fused"))


def measure_threads(quick: bool, cores: int) -> Iterator[Row]:
    """The step against threads."""
    steps = Steps()
    for threads in sorted({1, 2, 4, 8, 16, cores}):
        if threads <= cores:
            yield from step_rows("step by threads", steps, threads, 20, ("torch", "fused"))


def whole(case: str, task: dict[str, Any], row: Row, threads: int | None = None) -> Row | None:
    """The row of a process; None where it fails, with a line why."""
    try:
        seconds, peak = process(task, threads)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"{case} {row}: left out, {error}", file=sys.stderr)
        return None
    return {"case": case, **row, "seconds": seconds, "peak_mb": peak}


def smallest(rows: list[Row]) -> Row:
    """The first of repeated rows, with the smallest time and memory of all."""
    return rows[0] | {name: min(row[name] for row in rows) for name in ("seconds", "peak_mb")}


def measure_phantom(quick: bool, cores: int) -> Iterator[Row]:
    """`aslpinn fit` on a virtual subject of the book (11 volumes), and the plain grid fit of it, by turns."""
    with tempfile.TemporaryDirectory() as folder:
        process({"command": ["simulate", f"{folder}/raw", "--subjects", "1"]})
        series = str(next(Path(folder, "raw").rglob("*_asl.nii*")))
        size = {"voxels": int(load_subject(series).mask.sum()), "delays": 11}
        tasks: dict[str, dict[str, Any]] = {"grid": {"grid": series, "out": f"{folder}/out-grid"}}
        for name in ("field", "smoothed") if quick else METHODS:
            tasks[name] = {"command": ["fit", series, "--out", f"{folder}/out-{name}", *arguments_of(name)]}
        for threads in sorted({cores} if quick else {1, cores}):
            found: dict[str, list[Row]] = {name: [] for name in tasks}
            for _ in range(1 if quick else 3):
                for name, task in tasks.items():
                    row = whole("phantom", task, {"estimator": name, **size, "threads": threads}, threads)
                    found[name] += [row] if row else []
            yield from (smallest(rows) for rows in found.values() if rows)
        about = {"estimator": "torch", "threads": cores}
        loading = [row for _ in range(3) if (row := whole("import", {"import": "torch"}, about, cores))]
        if loading:
            yield smallest(loading)
        if not quick:
            command = ["fit", series, "--out", f"{folder}/out-paper", *PAPER, "--epochs", "2"]
            shape = {"estimator": "paper", **size, "threads": cores}
            row = whole("phantom, paper preset, 2 epochs", {"command": command}, shape, cores)
            if row:
                yield row


def measure_sweep(what: str, quick: bool, cores: int, limit: float) -> Iterator[Row]:
    """Whole fits to synthetic series against voxels or delays; all but the default stop above `limit` s."""
    voxels = [1000, 4000] if quick else [1000, 3000, 10_000, PHANTOM_VOXELS, 100_000, 300_000, MILLION]
    sizes = [(n, 11) for n in voxels]
    if what == "delays":
        sizes = [(4000 if quick else 10_000, d) for d in ((6, 11) if quick else (3, 6, 11, 24, 48))]
    tasks: dict[str, dict[str, Any]] = {name: options_of(name) for name in METHODS}
    tasks["grid"] = {"estimator": "smoothed", "kernel": 0.0}
    for name, options in tasks.items():
        for n, delays in sizes:
            task = {"voxels": n, "delays": delays, "options": options}
            shape = {"estimator": name, "voxels": n, "delays": delays, "threads": cores}
            row = whole(what, task, shape, cores)
            if row:
                yield row
            if row is None or (row["seconds"] > limit and name != "field"):
                break


def draw(rows: list[Row], folder: Path) -> None:
    """Log-log plots with fitted exponents of whatever the rows hold, as PNG files beside the CSV."""
    for case, against, label in (
        ("voxels", "voxels", "voxels"),
        ("delays", "delays", "delays"),
        ("step by levels", "levels", "levels of the encoding"),
        ("step by delays", "delays", "delays"),
        ("step by threads", "threads", "threads"),
    ):
        panels = {(label, "seconds"): speed.curves(rows, case, against)}
        if memory := speed.curves(rows, case, against, "peak_mb"):
            panels[(label, "peak memory (MB)")] = memory
        if any(len(sizes) > 1 for found in panels.values() for sizes, _ in found.values()):
            speed.scaling(panels).savefig(folder / f"speed-{case.replace(' ', '-')}.png")


def measured(arguments: argparse.Namespace, cores: int) -> Iterator[Row]:
    """Rows of all the measurements asked for."""
    quick, limit = arguments.quick, arguments.limit
    measurements: dict[str, Callable[[], Iterator[Row]]] = {
        "steps": lambda: measure_steps(quick, cores),
        "phantom": lambda: measure_phantom(quick, cores),
        "voxels": lambda: measure_sweep("voxels", quick, cores, limit),
        "delays": lambda: measure_sweep("delays", quick, cores, limit),
        "levels": lambda: measure_levels(quick, cores),
        "threads": lambda: measure_threads(quick, cores),
    }
    for name, rows in measurements.items():
        if not arguments.only or name in arguments.only:
            yield from rows()


def main() -> int:
    """Measure, write the CSV row by row, draw it, and hold it to the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, one run each")
    parser.add_argument("--only", nargs="+", choices=("steps", "phantom", "voxels", "delays", "levels", "threads"))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks" / "speed.csv")
    parser.add_argument("--limit", type=float, default=60.0, metavar="S", help="no larger size after so many seconds")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def tell(row: Row) -> None:
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items()), flush=True)

    rows = speed.write_rows(arguments.out, measured(arguments, cores), tell)
    draw(rows, arguments.out.parent)
    found = speed.limits(rows)
    for limit in found:
        sign = "at least" if limit.at_least else "at most"
        print(f"{'kept  ' if limit.kept else 'BROKEN'} {limit.what}: {limit.found:.2f} ({sign} {limit.bound:g})")
    return 0 if arguments.quick or all(limit.kept for limit in found) else 1


if __name__ == "__main__":
    sys.exit(main())
