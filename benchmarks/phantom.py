"""Every method on the phantoms at the paper's voxel size, with several seeds of noise, for the chapter on results.

    python benchmarks/phantom.py [--seeds N] [--again METHOD ...] [--out FILE]

On the healthy phantom both noise levels, on the hard ones tSNR 1.5. `benchmarks/phantom.csv` has the scores that the
chapter shows, written as a fit ends; a run that was stopped goes on where it was. `--again` forgets a method's rows
first, as after a change of its code. The maps of the healthy phantom stay in build/benchmarks/phantom, because bias and
noise can be told apart only when all seeds are there; one slice of those of the first seed is stored beside the CSV.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from aslpinn.data import Phantom, simulate
from aslpinn_book.chapters import benchmark
from aslpinn_book.chapters.benchmark_tables import SPECIAL
from aslpinn_book.chapters.shared import axial_slices

VOXEL_SIZE = (3.0, 3.0, 7.0)
HEALTHY = ("field", "field-unguided", "pinn-single", "nlls", "vb", "vb-prior", "svb", "smoothed")
HARD = ("field", "pinn-single", "nlls", "svb", "smoothed")
SHOWN = ("field", "pinn-single", "nlls", "vb", "svb", "smoothed")
SCORES = ("pcc", "ssim", "rmse", "bias", "relative_bias", "coverage")
MAPS = Path("build/benchmarks/phantom")
Key = tuple[str, str, float, int]  # method, phantom, tSNR, seed


def tasks(seeds: int) -> list[Key]:
    """What is fitted, the networks last because they take longest."""
    healthy = [(m, "healthy", tsnr, seed) for seed, tsnr, m in product(range(seeds), benchmark.TSNRS, HEALTHY)]
    hard = [(m, brain, benchmark.TSNRS[0], seed) for seed, brain, m in product(range(seeds), SPECIAL, HARD)]
    return sorted(healthy + hard, key=lambda key: (key[0] == "pinn-single", key[1] != "healthy"))


def wanted(phantom: str, region: str, metric: str) -> bool:
    """Whether the chapter shows a score."""
    if phantom == "healthy":
        kind = metric.partition("_")[2]
        return kind in SCORES and (region != "volume" or kind in ("pcc", "ssim"))
    where, metrics = SPECIAL[phantom]
    return region == where and metric in metrics


def phantom_of(key: Key) -> Phantom:
    """The phantom of a task."""
    _, brain, tsnr, seed = key
    return simulate(tsnr=tsnr, seed=seed, voxel_size=VOXEL_SIZE, **benchmark.PHANTOMS[brain])


def one(key: Key) -> list[benchmark.Score]:
    """Fit and score; keeps the maps of the healthy phantom."""
    phantom = phantom_of(key)
    start = time.perf_counter()
    estimate = benchmark.fit_phantom(phantom, key[0])
    seconds = time.perf_counter() - start
    if key[1] == "healthy":
        MAPS.mkdir(parents=True, exist_ok=True)
        np.savez(map_file(key), cbf=estimate.cbf, att=estimate.att)
    found = benchmark.score(phantom, estimate)
    return [
        benchmark.Score(*key, region, metric, value, seconds)
        for (region, metric), value in found.items()
        if wanted(key[1], region, metric)
    ]


def map_file(key: Key) -> Path:
    """Where the maps of a fit are kept."""
    return MAPS / f"{key[0]}-{key[2]:g}-{key[3]}.npz"


def of_all_seeds(rows: list[benchmark.Score], known: list[benchmark.Score]) -> list[benchmark.Score]:
    """Bias and noise of each method on the healthy phantom, from the maps that are kept; seed is ALL_SEEDS.

    A method whose maps are elsewhere keeps the rows that are `known` of it.
    """
    found: list[benchmark.Score] = []
    for method, tsnr in product(HEALTHY, benchmark.TSNRS):
        seeds = {row.seed for row in rows if (row.estimator, row.phantom, row.tsnr) == (method, "healthy", tsnr)}
        files = [file for seed in sorted(seeds) if (file := map_file((method, "healthy", tsnr, seed))).is_file()]
        if len(files) < 2:
            found += [row for row in known if (row.estimator, row.tsnr) == (method, tsnr)]
            continue
        moments = benchmark.Moments()
        for file in files:
            with np.load(file) as maps:
                moments.add(dict(maps))
        place = (method, "healthy", tsnr, benchmark.ALL_SEEDS)
        scores = moments.scores(phantom_of((*place[:3], 0)))
        found += [benchmark.Score(*place, *at, value, 0.0) for at, value in scores.items()]
    return found


def write_slices(path: Path) -> None:
    """Store one axial slice of each method's maps of the first seed, (X, Y) float16: METHOD-TSNR-cbf or -att.

    A method whose maps are elsewhere keeps the slices that are stored of it.
    """
    level = axial_slices(phantom_of(("", "healthy", benchmark.TSNRS[0], 0)).mask, 3)[1]
    slices: dict[str, np.ndarray] = {}
    if path.is_file():
        with np.load(path) as before:
            slices = dict(before)
    slices["level"] = np.array(level)
    for method, tsnr in product(SHOWN, benchmark.TSNRS):
        if (file := map_file((method, "healthy", tsnr, 0))).is_file():
            with np.load(file) as maps:
                slices |= {f"{method}-{tsnr:g}-{key}": maps[key][..., level].astype(np.float16) for key in maps}
    np.savez_compressed(path, **slices)  # type: ignore[arg-type]


def main() -> None:
    """Fit what the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds of noise, from 0 on")
    parser.add_argument("--again", nargs="+", choices=HEALTHY, default=[], help="methods whose rows are made anew")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"), help="the CSV file")
    arguments = parser.parse_args()
    rows = benchmark.read_csv(arguments.out) if arguments.out.is_file() else []
    rows = [row for row in rows if row.estimator not in arguments.again]
    known = [row for row in rows if row.seed == benchmark.ALL_SEEDS]
    rows = [row for row in rows if row.seed != benchmark.ALL_SEEDS]
    there = {(row.estimator, row.phantom, row.tsnr, row.seed) for row in rows}
    todo = [key for key in tasks(arguments.seeds) if key not in there]
    for number, key in enumerate(todo, 1):
        rows += one(key)
        print(f"{number} of {len(todo)}: {key[0]} on {key[1]}, tSNR {key[2]:g}, seed {key[3]}", flush=True)
        write(rows + known, arguments.out)
    write(rows + of_all_seeds(rows, known), arguments.out)
    write_slices(arguments.out.with_name("phantom-maps.npz"))


def write(rows: list[benchmark.Score], path: Path) -> None:
    """Rows with five digits, which is more than a table shows, in the order of HEALTHY."""
    rows = sorted(rows, key=lambda row: HEALTHY.index(row.estimator))
    benchmark.write_csv([replace(r, value=float(f"{r.value:.5g}"), seconds=round(r.seconds, 1)) for r in rows], path)


if __name__ == "__main__":
    main()
