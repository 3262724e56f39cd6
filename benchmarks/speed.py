"""Measure time and peak memory of every estimator and of one training step, on this machine, in one run.

    python benchmarks/speed.py [--quick] [--only steps|phantom|voxels|delays|levels|threads] [--out FILE]

Columns (default build/benchmarks/speed.csv): case, estimator, voxels, delays, levels, threads, seconds, peak_mb.
Cases whose name starts with "step" are seconds of one training step inside a running process, the smallest of many; all
others are whole processes, import and reading included, the smaller of two. Empty cells do not apply.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("case", "estimator", "voxels", "delays", "levels", "threads", "seconds", "peak_mb")
ESTIMATORS = ("pinn", "closed-form", "nlls", "vb", "svb", "smoothed")
Row = dict[str, Any]

#: Run in a process of its own: a command of aslpinn, or a fit to a smooth series; prints the peak memory in kB.
CHILD = """
import json, resource, sys
task = json.loads(sys.argv[1])
if "command" in task:
    from aslpinn.cli import main
    code = main(task["command"])
else:
    import numpy as np
    from aslpinn import Acquisition, fit
    from aslpinn.physics import delta_m
    side = round(task["voxels"] ** (1 / 3))
    shape = (side, side, -(-task["voxels"] // side**2))
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij")
    pld = np.linspace(0.05, 3.4, task["delays"])
    timing = Acquisition(np.full(pld.size, 3.35 / max(1, pld.size - 1)), pld)
    cbf, att = 45 + 20 * np.sin(2 * x) * np.cos(2 * y), 1.2 + 0.3 * y + 0.1 * z
    series = np.empty((*shape, pld.size), np.float32)
    noise = np.random.default_rng(0)
    for k, (delay, tau) in enumerate(zip(pld, timing.labeling_duration)):
        series[..., k] = delta_m(cbf, att, delay, tau) + 1e-3 * noise.standard_normal(shape, np.float32)
    mask = np.zeros(shape, bool)
    mask.reshape(-1)[: task["voxels"]] = True
    fit(series, mask, timing, voxel_size=(3.0, 3.0, 3.0), **task["options"])
    code = 0
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


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


class Steps:
    """One training step of the paper preset on random voxels, by four ways of computing the same gradients."""

    def __init__(self, levels: int = 16, delays: int = 11, batch: int = 1000, objective: str = "pointwise") -> None:
        import torch

        from aslpinn import Acquisition
        from aslpinn.estimation.config import PRESETS
        from aslpinn.estimation.fitting import AutogradTrainer, Fields, training_data
        from aslpinn.estimation.fused import FusedTrainer
        from aslpinn.estimation.problem import Request, prepare
        from aslpinn.physics import delta_m

        self.torch = torch
        tau = 3.6 / delays
        timing = Acquisition(np.full(delays, tau), 0.049 + tau * np.arange(delays - 1, -1, -1))
        x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (60, 72, 20)), indexing="ij")
        mask = x**2 + y**2 + z**2 < 0.75
        cbf, att = 45 + 20 * np.sin(2 * x) * np.cos(2 * y), 1.2 + 0.3 * y + 0.1 * z
        series = delta_m(cbf[..., None], att[..., None], timing.post_labeling_delay, tau).astype(np.float32)
        config = PRESETS["paper"].with_overrides(levels=levels, batch=batch, objective=objective)
        data = training_data(prepare(series, mask, timing), Request(), config)
        self.config, self.data, self.voxels = config, data, int(mask.sum())
        self.generator = torch.Generator().manual_seed(0)
        ways: dict[str, Callable[[Any], object]] = {}
        for name, engine, trainer in (
            ("torch", "torch", AutogradTrainer),
            ("torch, compiled encoding", "fused", AutogradTrainer),
            ("fused", "fused", FusedTrainer),
        ):
            fields = Fields(config, 0, engine)
            trained = trainer(fields, fields.precompute(data.positions), data, config)
            ways[name] = lambda subset, trained=trained: trained.step(subset, 1e-3, self.generator)
        if objective == "pointwise":
            ways = {"naive": self._naive(Fields(config, 0, "torch")), **ways}
        self.ways = ways

    def _naive(self, fields: Any) -> Callable[[Any], object]:
        """Everything through autograd: a voxel encoded at each of its times, d/dt by a second pass, plain AdamW."""
        torch, data, config = self.torch, self.data, self.config
        from aslpinn.estimation import objectives

        encoding = fields.parameter_field.encoding
        index = encoding.precompute(data.positions)
        optimizer = torch.optim.AdamW(fields.parameters(), lr=config.lr)

        def codes(points: Any) -> Any:
            rows, weights = index.rows[points].long(), index.weights[points]
            bags = torch.nn.functional.embedding_bag(
                rows.flatten(0, 1), encoding.table, per_sample_weights=weights.flatten(0, 1), mode="sum"
            )
            return bags.view(len(points), -1)

        def step(subset: Any) -> float:
            optimizer.zero_grad()
            times = data.durations.collocated(data.pld, len(subset), config.collocation, self.generator)
            t = times.t.clone().requires_grad_()
            samples = codes(subset.repeat_interleave(t.shape[1]))
            fitted = fields.signal_field.network(torch.cat([samples, t.reshape(-1, 1)], dim=1)).view_as(t)
            (rate,) = torch.autograd.grad(fitted.sum(), t, create_graph=True)
            cbf, att = fields.parameter_field(codes(subset))
            losses = objectives.pointwise(
                data.signal[subset], data.weight, fitted, rate, cbf, att, times, data.constants, data.scale
            )
            losses["total"].backward()
            optimizer.step()
            return float(losses["total"].detach())

        return step

    def seconds(self, rounds: int, names: tuple[str, ...] | None = None) -> dict[str, float]:
        """Smallest time of each way over `rounds` steps, taken in turns so that all see the same machine."""
        best: dict[str, float] = {}
        for turn in range(rounds + 1):
            subset = self.torch.randperm(self.voxels, generator=self.generator)[: self.config.batch]
            for name, way in self.ways.items():
                if names is not None and name not in names:
                    continue
                began = time.perf_counter()
                way(subset)
                if turn:  # the first compiles
                    best[name] = min(best.get(name, np.inf), time.perf_counter() - began)
        return best


def step_rows(
    case: str, steps: Steps, threads: int, rounds: int, names: tuple[str, ...] | None = None
) -> Iterator[Row]:
    """Rows of `Steps.seconds` with so many threads."""
    from aslpinn.fields import set_threads

    set_threads(threads)
    shape = {"voxels": steps.config.batch, "delays": steps.data.signal.shape[1], "levels": steps.config.levels}
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
        yield from step_rows("step by levels", Steps(levels), cores, 20, ("torch", "fused"))
    for delays in (4, 24) if quick else (3, 6, 11, 24, 48):
        yield from step_rows("step by delays", Steps(delays=delays), cores, 20, ("torch", "fused"))


def measure_threads(quick: bool, cores: int) -> Iterator[Row]:
    """The step against threads."""
    steps = Steps()
    for threads in sorted({1, 2, 4, 8, 16, cores}):
        if threads <= cores:
            yield from step_rows("step by threads", steps, threads, 20, ("torch", "fused"))


def whole(case: str, task: dict[str, Any], row: Row, repeats: int, threads: int | None = None) -> Row | None:
    """The row of a process, run twice where asked (the first may compile); None where it fails, with a line why."""
    try:
        runs = [process(task, threads) for _ in range(repeats)]
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"{case} {row}: left out, {error}", file=sys.stderr)
        return None
    return {"case": case, **row, "seconds": min(r[0] for r in runs), "peak_mb": min(r[1] for r in runs)}


def measure_phantom(quick: bool, cores: int) -> Iterator[Row]:
    """`aslpinn fit` on a virtual subject of the book (29,804 voxels, 11 volumes), every estimator."""
    with tempfile.TemporaryDirectory() as folder:
        process({"command": ["simulate", folder, "--subjects", "1"]})
        series = next(Path(folder).rglob("*_asl.nii*"))
        for name in ESTIMATORS:
            command = ["fit", str(series), "--out", f"{folder}/out-{name}", "--estimator", name]
            shape = {"estimator": name, "voxels": 29804, "delays": 11, "threads": cores}
            row = whole("phantom", {"command": command}, shape, 1 if quick else 2)
            if row:
                yield row
        yield from _paper_preset(str(series), folder, cores)


def _paper_preset(series: str, folder: str, cores: int) -> Iterator[Row]:
    command = ["fit", series, "--out", f"{folder}/out-paper", "--preset", "paper", "--epochs", "2"]
    row = whole("phantom, paper preset, 2 epochs", {"command": command}, {"estimator": "pinn", "threads": cores}, 1)
    if row:
        yield row


def measure_sweep(what: str, quick: bool, cores: int, limit: float) -> Iterator[Row]:
    """Whole fits to smooth series against the number of voxels or of delays; an estimator stops above `limit` s."""
    voxels = [1000, 4000] if quick else [1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
    sizes = [(n, 11) for n in voxels]
    if what == "delays":
        sizes = [(4000 if quick else 10_000, d) for d in ((6, 11) if quick else (3, 6, 11, 24, 48))]
    for name in ESTIMATORS:
        for n, delays in sizes:
            task = {"voxels": n, "delays": delays, "options": {"estimator": name}}
            row = whole(what, task, {"estimator": name, "voxels": n, "delays": delays, "threads": cores}, 1)
            if row:
                yield row
            if row is None or row["seconds"] > limit:
                break


def main() -> int:
    """Run the measurements and write the CSV row by row, so that an interrupted run leaves what it has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, one run each")
    parser.add_argument("--only", choices=("steps", "phantom", "voxels", "delays", "levels", "threads"))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks" / "speed.csv")
    parser.add_argument("--limit", type=float, default=300.0, metavar="S", help="no larger size after so many seconds")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    measurements: dict[str, Callable[[], Iterator[Row]]] = {
        "steps": lambda: measure_steps(arguments.quick, cores),
        "levels": lambda: measure_levels(arguments.quick, cores),
        "threads": lambda: measure_threads(arguments.quick, cores),
        "phantom": lambda: measure_phantom(arguments.quick, cores),
        "voxels": lambda: measure_sweep("voxels", arguments.quick, cores, arguments.limit),
        "delays": lambda: measure_sweep("delays", arguments.quick, cores, arguments.limit),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for name, rows in measurements.items():
            if arguments.only in (None, name):
                for row in rows():
                    writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
                    file.flush()
                    print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
