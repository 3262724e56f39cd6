"""The paper's method in full on the book's phantom: errors against epochs, at 5000 epochs and at the best epoch.

    python benchmarks/paper.py --prepare                     # simulates the phantoms, once
    python benchmarks/paper.py                               # trains what benchmarks/paper.csv lacks, one by one
    python benchmarks/paper.py --device cuda --minutes 9     # the seeds of a configuration side by side
    python benchmarks/paper.py --beside                      # other methods on the same signals, for the first seed

Preset paper (Table 2: 16 levels, 5000 epochs) on a whole brain at 3 x 3 x 7 mm, with equal and with T1-adjusted
sub-boli, tSNR 1.5 and 0.5, and P read as the right-hand side of the ODE or as the derivative of Buxton's solution.
Three seeds run to the end; five more keep a tenth of the samples back, which choose the epoch among the first ones.
A seed is one of the noise and of the networks.

A run can be stopped at any time and goes on where it was: a row is written as a training ends, benchmarks/paper.csv
with the errors of its last or chosen epoch, benchmarks/paper-epochs.csv with those of some epochs on the way, and maps
of the first seed in benchmarks/paper-maps. benchmarks/paper-beside.csv has the same errors of other methods. Only
--prepare needs images; training needs torch or Numba, NumPy, SciPy and scikit-image.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aslpinn import Acquisition
from aslpinn.maps.metrics import everywhere, pcc, relative_bias, ssim, tissue_region

HERE = Path(__file__).resolve().parent
PHANTOMS = HERE.parent / "build" / "paper" / "phantoms.npz"
VOXEL_SIZE = (3.0, 3.0, 7.0)
PROTOCOLS = {"equal": "te11", "T1-adjusted": "te11-t1adjusted"}
TSNR, READINGS = (1.5, 0.5), ("ode", "derivative")
FULL_SEEDS, HELD_OUT_SEEDS = (0, 1, 2), (3, 4, 5, 6, 7)
EPOCHS, HELD_OUT = 5000, 0.1
#: Where samples held out choose the epoch: in the ODE reading, trained first, it was one of 2 to 15 out of 400.
HELD_OUT_EPOCHS = {"ode": 400, "derivative": 60}
#: Epochs after which the maps are compared with the truth.
LOOKS = (1, 2, 3, 5, 8, 12, 20, 35, 60, 100, 160, 250, 400, 650, 1000, 1600, 2500, 3500, 5000)
#: What stands beside the paper's method: options of `aslpinn.fit`. VB and SVB start from their prior.
BESIDE: dict[str, dict[str, Any]] = {
    "nlls": {"estimator": "nlls"},
    "vb-prior": {"estimator": "vb", "vb_start": "prior"},
    "svb-prior": {"estimator": "svb", "vb_start": "prior"},
    "field": {"estimator": "field"},
}
SOON = 15  # epochs after which it is clear whether a training will end in time


@dataclass(frozen=True)
class Run:
    """One training: what it is told by."""

    protocol: str
    tsnr: float
    reading: str
    seed: int
    epochs: int
    held_out: float

    @property
    def together(self) -> tuple[Any, ...]:
        """What runs that are trained side by side have in common."""
        return self.epochs, self.held_out, self.reading, self.protocol


class OutOfTime(Exception):
    """The training would not end before the limit."""


def plan() -> list[Run]:
    """All trainings, in the order of what matters most."""
    runs = [
        Run(protocol, tsnr, reading, seed, epochs, held_out)
        for protocol in PROTOCOLS
        for tsnr in TSNR
        for reading in READINGS
        for seeds, epochs, held_out in ((FULL_SEEDS, EPOCHS, 0.0), (HELD_OUT_SEEDS, HELD_OUT_EPOCHS[reading], HELD_OUT))
        for seed in seeds
    ]
    return sorted(runs, key=lambda run: (READINGS.index(run.reading), run.epochs))


def prepare(path: Path) -> None:
    """Simulate the phantoms without noise: truth, tissue, signals (N, D), delays and noise levels."""
    from aslpinn import simulate

    arrays: dict[str, NDArray[Any]] = {}
    for name, protocol in PROTOCOLS.items():
        made = simulate(protocol, tsnr=TSNR[0], voxel_size=VOXEL_SIZE)
        timing = made.acquisition
        arrays |= {
            f"{name} signal": made.clean[made.mask],
            f"{name} timing": np.array([timing.labeling_duration, timing.post_labeling_delay]),
            f"{name} noise": np.float64(made.noise_sd * TSNR[0]),
        }
    arrays |= {key: getattr(made, key) for key in ("mask", "cbf", "att")}
    arrays |= {key: tissue_region(getattr(made, key), made.mask) for key in ("gm", "wm")}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def noisy(phantoms: dict[str, Any], run: Run) -> NDArray[np.float32]:
    """The series (X, Y, Z, D) of a run: that of `aslpinn.simulate` with its tSNR and seed."""
    mask, clean = phantoms["mask"], phantoms[f"{run.protocol} signal"]
    drawn = np.random.default_rng([run.seed, 0]).standard_normal((*mask.shape, clean.shape[1]), dtype=np.float32)
    series = np.zeros_like(drawn)
    series[mask] = clean + drawn[mask] * np.float32(phantoms[f"{run.protocol} noise"] / run.tsnr)
    return series


@cache
def load(path: Path) -> dict[str, Any]:
    """The phantoms as `prepare` wrote them."""
    with np.load(path) as file:
        return dict(file)


def score(path: Path, cbf: NDArray[Any], att: NDArray[Any]) -> dict[str, float]:
    """Errors of maps (N,): inside the mask (ours) and over the whole volume (the paper's, and it flatters)."""
    phantoms = load(path)
    mask, found = phantoms["mask"], {}
    for name, values in (("cbf", cbf), ("att", att)):
        volume, truth = np.zeros(mask.shape, np.float32), phantoms[name]
        volume[mask] = values
        for region, where in (("mask", mask), ("volume", everywhere(mask))):
            found[f"{name}_pcc_{region}"] = pcc(volume, truth, where)
            found[f"{name}_ssim_{region}"] = ssim(volume, truth, where, mask)
        for tissue in ("gm", "wm"):
            found[f"{name}_bias_{tissue}"] = 100 * relative_bias(volume, truth, phantoms[tissue])
    return found


class Table:
    """A CSV file that grows by rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.is_file():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows and write the file anew, in one piece."""
        self.rows += [
            {key: f"{value:.6g}" if isinstance(value, float) else str(value) for key, value in row.items()}
            for row in rows
        ]
        part = self.path.with_suffix(".part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        part.replace(self.path)

    def has(self, run: Run) -> bool:
        """Whether a run has its row."""
        wanted = {key: str(value) for key, value in asdict(run).items()}
        return any(all(row.get(key) == value for key, value in wanted.items()) for row in self.rows)


class Trainer:
    """Trains runs, several side by side on a CUDA device, and writes what came out."""

    def __init__(self, arguments: argparse.Namespace, pool: ProcessPoolExecutor) -> None:
        self.arguments, self.pool, self.path = arguments, pool, arguments.phantoms.resolve()
        self.phantoms = load(self.path)
        self.final = Table(arguments.out)
        self.on_the_way = Table(arguments.out.with_name(f"{arguments.out.stem}-epochs.csv"))
        self.end = time.perf_counter() + 60 * arguments.minutes

    def groups(self, runs: list[Run]) -> Iterator[list[Run]]:
        """What is missing, in parts that are trained at once."""
        missing = [run for run in runs if not self.final.has(run)]
        if self.arguments.device == "cpu":
            yield from ([run] for run in missing)
            return
        while missing:
            group = [run for run in missing if run.together == missing[0].together]
            missing = [run for run in missing if run not in group]
            yield group

    def train(self, runs: list[Run]) -> None:
        """Train runs side by side; their rows. Raises OutOfTime as soon as they are sure to end too late."""
        from aslpinn.estimation.networks.config import PRESETS
        from aslpinn.estimation.networks.fit import MEMBER_SEEDS
        from aslpinn.estimation.networks.train import Samples, train
        from aslpinn.estimation.problem import prepare as problem_of

        first = runs[0]
        config = PRESETS["paper"].changed(
            epochs=first.epochs, t_max=EPOCHS, reading=first.reading, held_out=first.held_out, members=1
        )
        tau, pld = self.phantoms[f"{first.protocol} timing"]
        series = []
        for run in runs:
            problem = problem_of(noisy(self.phantoms, run), self.phantoms["mask"], Acquisition(tau, pld))
            series.append(Samples.of(problem, VOXEL_SIZE, replace(config, seed=run.seed)))
        samples = series[0] if len(runs) == 1 else Samples.stack(series)
        engine = self.engine(samples, config, [run.seed * MEMBER_SEEDS for run in runs])
        looks: list[tuple[Run, int, float, Future[dict[str, float]]]] = []
        began = time.perf_counter()

        def on_epoch(epoch: int, losses: dict[str, float]) -> None:
            done, spent = epoch + 1, time.perf_counter() - began
            if done == SOON and time.perf_counter() + spent * (config.epochs / SOON - 1) > self.end:
                raise OutOfTime(f"{spent / SOON:.2f} s an epoch")
            if done in LOOKS:
                told = f"{done} epochs, {spent:.0f} s, {spent / done:.3f} s an epoch, loss {losses['total']:.4g}"
                print(f"  {told}", flush=True)
                for run, cbf, att in zip(runs, *engine.maps(), strict=True):
                    looks.append((run, done, losses["total"], self.pool.submit(score, self.path, cbf, att)))

        trained = train(engine, samples, config, on_epoch)
        seconds = time.perf_counter() - began
        common = {
            "edge_width": float(samples.edge_width), "seconds": seconds, "networks": len(runs),
            "engine": engine.name, "device": self.device(),
        }  # fmt: skip
        ends = [self.pool.submit(score, self.path, one.cbf, one.att) for one in trained]
        self.on_the_way.add(
            asdict(run) | {"epoch": epoch, "mean_loss": loss} | errors.result() for run, epoch, loss, errors in looks
        )
        self.final.add(
            asdict(run) | {"epoch": one.history.best + 1} | errors.result() | common
            for run, one, errors in zip(runs, trained, ends, strict=True)
        )
        for run, one in zip(runs, trained, strict=True):
            if run.seed == FULL_SEEDS[0]:
                keep(self.arguments.out, run, run.reading, one.cbf, one.att)

    def engine(self, samples: Any, config: Any, seeds: list[int]) -> Any:
        """The compiled engine on a CPU, all networks side by side on a CUDA device."""
        if self.arguments.device == "cpu":
            from aslpinn.estimation.networks.compiled import CompiledEngine

            return CompiledEngine(samples, config, seeds[0])

        from aslpinn.estimation.networks.autograd import AutogradEngine

        many = seeds if len(seeds) > 1 else seeds[0]
        engine = AutogradEngine(samples, config, many, self.arguments.device, "cuda", not self.arguments.no_graphs)
        return engine

    def device(self) -> str:
        """What trains, in words."""
        if not self.arguments.device.startswith("cuda"):
            return "CPU"
        import torch

        return str(torch.cuda.get_device_name(self.arguments.device))


def keep(out: Path, run: Run, method: str, cbf: NDArray[Any], att: NDArray[Any]) -> None:
    """Store maps (N,) of CBF and ATT in half precision, (2, N)."""
    folder = out.with_name(f"{out.stem}-maps")
    folder.mkdir(exist_ok=True)
    name = f"{run.protocol}_{run.tsnr:g}_{method}".lower()
    np.savez_compressed(folder / f"{name}.npz", maps=np.stack([cbf, att]).astype(np.float16))


def beside(out: Path, phantoms: Path) -> None:
    """Fit the first seed's signals with T1-adjusted sub-boli by every method of BESIDE; maps, and a row each."""
    from aslpinn import fit

    known, table = load(phantoms), Table(out.with_name(f"{out.stem}-beside.csv"))
    for tsnr in TSNR:
        run = Run("T1-adjusted", tsnr, "", FULL_SEEDS[0], 0, 0.0)
        series, mask = noisy(known, run), known["mask"]
        tau, pld = known[f"{run.protocol} timing"]
        for method, settings in BESIDE.items():
            size = {"voxel_size": VOXEL_SIZE} if method == "field" else {}
            found = fit(series, mask, Acquisition(tau, pld), **settings, **size)
            cbf, att = found.cbf[mask], found.att[mask]
            keep(out, run, method, cbf, att)
            key = {"method": method, "protocol": run.protocol, "tsnr": tsnr, "seed": run.seed}
            table.add([key | score(phantoms.resolve(), cbf, att)])
            print(key, flush=True)


def main() -> None:
    """Prepare, or train what is missing until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", action="store_true", help="simulate the phantoms and stop")
    parser.add_argument("--beside", action="store_true", help="fit other methods, anew, and stop")
    parser.add_argument("--phantoms", type=Path, default=PHANTOMS)
    parser.add_argument("--out", type=Path, default=HERE / "paper.csv")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-graphs", action="store_true", help="cuda: kernels started one by one")
    parser.add_argument("--minutes", type=float, default=1e6, help="no training is begun that would end later")
    parser.add_argument("--epochs", type=int, help="short trainings, to try this out")
    parser.add_argument("--reading", choices=READINGS, help="only this one")
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), help="only this one")
    parser.add_argument("--tsnr", type=float, choices=TSNR, help="only this one")
    parser.add_argument("--seed", type=int, choices=(*FULL_SEEDS, *HELD_OUT_SEEDS), help="only this one")
    parser.add_argument("--part", choices=("full", "held-out"), help="only this one")
    parser.add_argument("--workers", type=int, default=2, help="processes that score maps")
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(arguments.phantoms)
        return
    if arguments.beside:
        arguments.out.with_name(f"{arguments.out.stem}-beside.csv").unlink(missing_ok=True)
        beside(arguments.out, arguments.phantoms)
        return
    runs = [
        run
        for run in plan()
        if arguments.reading in (None, run.reading)
        and arguments.protocol in (None, run.protocol)
        and arguments.tsnr in (None, run.tsnr)
        and arguments.seed in (None, run.seed)
        and arguments.part in (None, "held-out" if run.held_out else "full")
    ]
    if arguments.epochs:
        runs = [replace(run, epochs=arguments.epochs) for run in runs]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, mp_context=spawn) as pool:
        trainer = Trainer(arguments, pool)
        for group in trainer.groups(runs):
            first = group[0]
            print(f"{len(group)} networks: {first.protocol}, {first.reading}, {first.epochs} epochs", flush=True)
            try:
                trainer.train(group)
            except OutOfTime as late:
                print(f"  left for later ({late})", flush=True)


if __name__ == "__main__":
    main()
