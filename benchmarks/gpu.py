"""What a GPU does with the paper's training: parity with the CPU, the same maps twice, time of a step, memory.

    PYTHONPATH=src python benchmarks/gpu.py [--device cuda] [--out benchmarks/gpu.csv]

Under 4 minutes on a GPU. Needs torch with CUDA, NumPy, SciPy, Numba and the sources; no image, no network. Writes one
CSV row for each finding (what, networks, value, unit, note). The data are a smooth ellipsoid of the size of a brain at
3 x 3 x 7 mm, with the paper's delays. On --device cpu everything runs, too, and compares the engine with itself.
`--page book/measured-gpu.txt` measures nothing and turns the CSV file into the table of book/reproducibility.md.
"""

from __future__ import annotations

import argparse
import csv
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aslpinn import Acquisition
from aslpinn.estimation.networks.autograd import AutogradEngine
from aslpinn.estimation.networks.config import PRESETS, PinnOptions
from aslpinn.estimation.networks.train import Samples, train
from aslpinn.estimation.problem import prepare
from aslpinn.physics import delta_m

VOXELS, VOXEL_SIZE = 29_804, (3.0, 3.0, 7.0)  # of the book's phantom
TAU, FINAL_DELAY = 3.6 / 11, 0.049  # s: the paper's protocol with equal sub-boli
PAPER_EPOCHS, PAPER_MB = 5000, 2521
STEPS = 200  # of the comparison with the CPU
NOISE = 1e-3  # delta-M / M0b

Row = dict[str, Any]


def series(voxels: int) -> Samples:
    """Samples of a smooth ellipsoid of about so many voxels, noise added."""
    radius = (voxels * 3 / (4 * np.pi) * VOXEL_SIZE[2] / VOXEL_SIZE[0]) ** (1 / 3) * VOXEL_SIZE[0]  # mm
    axes = [np.arange(-radius, radius + size, size) for size in VOXEL_SIZE]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    mask = x**2 + y**2 + z**2 < radius**2
    cbf = 45 + 20 * np.sin(x / 11) * np.cos(y / 9)
    att = 1.2 + 0.3 * np.sin(y / 30) + 0.1 * z / radius
    pld = FINAL_DELAY + TAU * np.arange(10, -1, -1)
    signal = delta_m(cbf[..., None], att[..., None], pld, TAU) * mask[..., None]
    noise = NOISE * np.random.default_rng(0).standard_normal(signal.shape)
    problem = prepare((signal + noise * mask[..., None]).astype(np.float32), mask, Acquisition(TAU, pld))
    return Samples.of(problem, VOXEL_SIZE, PAPER)


PAPER = PRESETS["paper"]


class Bench:
    """The findings, told and written as they are made."""

    def __init__(self, device: str, out: Path, voxels: int, budget: float) -> None:
        self.device, self.out, self.rows = device, out, []
        self.samples, self.budget = series(voxels), budget
        self.began = time.perf_counter()

    def add(self, what: str, value: Any, unit: str = "", networks: int = 1, note: str = "") -> None:
        """Note one finding and write the table anew."""
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        self.rows.append({"what": what, "networks": networks, "value": shown, "unit": unit, "note": note})
        print(f"{time.perf_counter() - self.began:6.1f} s  {what} ({networks}): {shown} {unit} {note}", flush=True)
        with self.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["what", "networks", "value", "unit", "note"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def attempt(self, what: str, measure: Callable[[], None]) -> None:
        """Measure; what fails becomes a row that says how, so that the rest is still measured."""
        try:
            measure()
        except Exception as error:
            self.add(what, "failed", note=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def engine(self, device: str, networks: int = 1, config: PinnOptions = PAPER, **options: Any) -> AutogradEngine:
        """Networks of seeds 0, 1, ..., with tables away from their start, where codes are almost zero."""
        seeds = list(range(networks))
        samples = self.samples if networks == 1 else Samples.stack([self.samples] * networks)
        return AutogradEngine(samples, config, seeds, device, **options)

    def card(self) -> None:
        """What the machine is."""
        self.add("python", platform.python_version())
        self.add("torch", torch.__version__, note=f"CUDA {torch.version.cuda}")
        if self.device != "cpu":
            found = torch.cuda.get_device_properties(self.device)
            self.add("device", found.name)
            self.add("device memory", found.total_memory / 2**20, "MiB")
        self.add("voxels", len(self.samples))

    def parity(self) -> None:
        """Losses and gradients of one batch against the CPU's, away from the start."""
        found = []
        for device in ("cpu", self.device):
            engine = self.engine(device)
            with torch.no_grad():
                engine.fields.parameter_field.encoding.table *= 3000
            (points, drawn), *_ = engine.load(self.samples.batches(PAPER, np.random.default_rng(1))[:1])
            loss = engine.losses(points, drawn)["total"]
            loss.backward()
            found.append((loss.item(), [p.grad.cpu() for p in engine.fields.parameters() if p.grad is not None]))
        (one, gradients), (other, others) = found
        self.add("loss against the CPU", abs(other / one - 1), "relative")
        errors = [float((a - b).abs().max() / a.abs().max()) for a, b in zip(gradients, others, strict=True)]
        self.add("gradients against the CPU", max(errors), "of the largest", note=f"{len(errors)} arrays")

    def steps(self) -> None:
        """The first 200 steps of preset paper against the CPU's."""
        maps, losses = [], []
        for device in ("cpu", self.device):
            engine = self.engine(device)
            rng, done = np.random.default_rng(2), 0
            while done < STEPS:
                for points, drawn in engine.load(self.samples.batches(PAPER, rng)[: STEPS - done]):
                    last = engine.step(points, drawn, PAPER.lr)["total"]
                    done += 1
            losses.append(float(last))
            maps.append(engine.maps())
        self.add(f"loss after {STEPS} steps against the CPU", abs(losses[1] / losses[0] - 1), "relative")
        for name, one, other in zip(("CBF", "ATT"), *maps, strict=True):
            difference = np.abs(other / one - 1)
            self.add(f"{name} after {STEPS} steps against the CPU", float(np.median(difference)), "relative, median")
            self.add(f"{name} after {STEPS} steps against the CPU", float(difference.max()), "relative, largest")

    def twice(self) -> None:
        """A fit of some epochs of two networks, twice: are the maps the same bit for bit?"""
        config = PAPER.changed(epochs=5, t_max=5)
        runs = [train(self.engine(self.device, 2, config), self.samples, config) for _ in range(2)]
        same = all(
            np.array_equal(a, b)
            for one, two in zip(*runs, strict=True)
            for a, b in ((one.cbf, two.cbf), (one.att, two.att))
        )
        self.add("same fit twice, maps equal bit for bit", same, networks=2, note="5 epochs of preset paper")

    def speed(self, networks: int, rounds: int, **options: Any) -> float:
        """Milliseconds of a step of so many networks side by side; the paper's 5000 epochs by extrapolation."""
        if self.device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        engine = self.engine(self.device, networks, **options)
        batches = list(engine.load(self.samples.batches(PAPER, np.random.default_rng(3))))
        batches = [(points, drawn) for points, drawn in batches if len(points) == len(batches[0][0])]
        total: Any = 0.0
        for points, drawn in batches[:3]:
            total = total + engine.step(points, drawn, PAPER.lr)["total"]
        self._wait(total)
        began = time.perf_counter()
        for k in range(rounds):
            total = total + engine.step(*batches[k % len(batches)], PAPER.lr)["total"]
        self._wait(total)
        return 1000 * (time.perf_counter() - began) / rounds

    def _wait(self, value: Any) -> None:
        if not bool(torch.isfinite(value).all()):
            raise RuntimeError("the loss is not finite")

    def time_of(self, networks: int, rounds: int) -> None:
        """Time of a step, of 5000 epochs, and memory, of so many networks side by side."""
        step = self.speed(networks, rounds)
        self.add("step", step, "ms", networks, "batch of 1000 voxels, 15 times each")
        per_epoch = -(-len(self.samples) // PAPER.batch)
        self.add("5000 epochs", step * per_epoch * PAPER_EPOCHS / 60_000, "min", networks, "by extrapolation")
        if self.device != "cpu":
            free, total = torch.cuda.mem_get_info()
            self.add("memory, allocated by tensors", torch.cuda.max_memory_allocated() / 2**20, "MiB", networks)
            self.add("memory, reserved by torch", torch.cuda.max_memory_reserved() / 2**20, "MiB", networks)
            note = f"the paper: {PAPER_MB} MB"
            self.add("memory, of the device in use", (total - free) / 2**20, "MiB", networks, note)

    def eager(self, rounds: int) -> None:
        """A step without a CUDA graph."""
        self.add("step, kernels started one by one", self.speed(1, rounds, recorded=False), "ms")

    def profile(self, networks: int) -> None:
        """The kernels that take most of the time of a step, into a text file beside the table."""
        engine = self.engine(self.device, networks, recorded=False)
        batches = list(engine.load(self.samples.batches(PAPER, np.random.default_rng(4))[:6]))
        for points, drawn in batches[:3]:
            engine.step(points, drawn, PAPER.lr)
        with torch.profiler.profile() as profiler:
            for points, drawn in batches[3:]:
                self._wait(engine.step(points, drawn, PAPER.lr)["total"])
        key = "self_cpu_time_total" if self.device == "cpu" else "self_device_time_total"
        table = profiler.key_averages().table(sort_by=key, row_limit=30, max_name_column_width=80)
        self.out.with_name(f"{self.out.stem}-profile-{networks}.txt").write_text(table)


def page(table: Path) -> str:
    """A stored run as the table of book/reproducibility.md."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ["| what | networks side by side | found | |", "|---|---|---|---|"]
    lines += [f"| {row['what']} | {row['networks']} | {row['value']} {row['unit']} | {row['note']} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, in the order of what matters most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "gpu.csv")
    parser.add_argument("--page", type=Path, help="write the book's table of --out, and measure nothing")
    parser.add_argument("--voxels", type=int, default=VOXELS)
    parser.add_argument("--rounds", type=int, default=300, help="steps of each timing")
    parser.add_argument("--networks", type=int, nargs="+", default=[1, 3, 6, 12, 24], help="side by side")
    parser.add_argument("--seconds", type=float, default=220.0, help="no new measurement is begun after so long")
    arguments = parser.parse_args()
    if arguments.page:
        arguments.page.write_text(page(arguments.out))
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.device, arguments.out, arguments.voxels, arguments.seconds)
    rounds = arguments.rounds
    work: list[tuple[str, Callable[[], None]]] = [
        ("card", bench.card),
        ("parity", bench.parity),
        *((f"step of {k} networks", lambda k=k: bench.time_of(k, rounds)) for k in arguments.networks),
        ("twice", bench.twice),
        ("200 steps", bench.steps),
        ("eager", lambda: bench.eager(max(rounds // 3, 1))),
        ("profile", lambda: bench.profile(1)),
        ("profile", lambda: bench.profile(arguments.networks[-1])),
    ]
    for what, measure in work:
        if time.perf_counter() - bench.began > bench.budget:
            bench.add(what, "not measured", note=f"after {bench.budget:g} s")
            continue
        bench.attempt(what, measure)
    bench.add("this benchmark", time.perf_counter() - bench.began, "s")


if __name__ == "__main__":
    main()
