"""What time and memory a fit takes: measurements as rows, exponents fitted to them, and the limits they are held to.

Used by benchmarks/speed.py (whole processes, up to a million voxels) and by the chapter on speed (a short version).
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from aslpinn.errors import InputError
from aslpinn.maps.style import CATEGORICAL, METHOD_COLORS, METHOD_MARKERS, styled, subplots
from aslpinn.markdown import table
from aslpinn.physics import Acquisition, delta_m

from .shared import MARKERS, stored

Row = dict[str, Any]
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]

COLUMNS = ("case", "estimator", "voxels", "delays", "levels", "threads", "seconds", "peak_mb")
PHANTOM_VOXELS = 29804
MILLION = 1_000_000


def synthetic(voxels: int, delays: int = 11) -> tuple[NDArray[np.float32], NDArray[np.bool_], Acquisition]:
    """A smooth brain-like series for timing: a box of so many voxels at tSNR about 1.5, time-encoded delays.

    The noise is what a fit has to work against; the values are not a phantom's.
    """
    side = max(2, round(voxels ** (1 / 3)))
    shape = (side, side, -(-voxels // side**2))
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij")
    tau = 3.6 / delays
    timing = Acquisition(np.full(delays, tau), 0.049 + tau * np.arange(delays - 1, -1, -1))
    cbf, att = 45 + 20 * np.sin(2 * x) * np.cos(2 * y), 1.2 + 0.3 * y + 0.1 * z
    noise = np.random.default_rng(0)
    series = np.empty((*shape, delays), np.float32)
    level = 2e-3 * tau  # signals are proportional to the labeling duration
    for k, (delay, duration) in enumerate(zip(timing.post_labeling_delay, timing.labeling_duration, strict=True)):
        series[..., k] = delta_m(cbf, att, delay, duration) + level * noise.standard_normal(shape, np.float32)
    mask = np.zeros(shape, bool)
    mask.reshape(-1)[:voxels] = True
    return series, mask, timing


def synthetic_m0(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A smooth image to go with `synthetic`: the guide that the command line passes to the default is M0."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in mask.shape), indexing="ij")
    return (0.8 + 0.1 * np.sin(3 * x) * np.cos(2 * y) - 0.05 * z).astype(np.float32)


def time_fit(voxels: int, delays: int = 11, repeats: int = 1, **options: Any) -> float:
    """Seconds of `fit` on a synthetic series inside this process, the smallest of `repeats`; the default gets an M0."""
    from aslpinn.estimation import fit

    series, mask, timing = synthetic(voxels, delays)
    if options.get("estimator", "field") == "field":
        options = {"guide": synthetic_m0(mask)} | options
    best = math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        fit(series, mask, timing, voxel_size=(3.0, 3.0, 3.0), **options)
        best = min(best, time.perf_counter() - began)
    return best


def exponent(sizes: Iterable[float], values: Iterable[float]) -> float:
    """Slope of log(value) against log(size) over the upper half of the sizes, where start-up no longer counts.

    NaN with fewer than two different sizes.
    """
    pairs = np.array(sorted(zip(sizes, values, strict=True)), dtype=float).reshape(-1, 2)
    upper = pairs[len(pairs) // 2 :] if len(pairs) > 3 else pairs
    if len(np.unique(upper[:, 0])) < 2:
        return math.nan
    return float(np.polyfit(np.log(upper[:, 0]), np.log(upper[:, 1]), 1)[0])


def curves(rows: Sequence[Row], case: str, against: str, value: str = "seconds") -> dict[str, Curve]:
    """Estimator -> (sizes, values) of the rows of one case, sorted by size."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["case"] == case and row.get(against) is not None and row.get(value) is not None:
            found.setdefault(row["estimator"], []).append((row[against], row[value]))
    return {name: (np.array(sorted(pairs))[:, 0], np.array(sorted(pairs))[:, 1]) for name, pairs in found.items()}


def against(found: Mapping[str, Curve], reference: str, size: float) -> dict[str, Curve]:
    """The same curves over the value of one estimator at the size nearest to `size`."""
    sizes, values = found[reference]
    unit = values[int(np.argmin(np.abs(sizes - size)))]
    return {name: (n, value / unit) for name, (n, value) in found.items()}


def write_rows(path: Path, rows: Iterable[Row], each: Callable[[Row], None] | None = None) -> list[Row]:
    """Write rows to a CSV as they come, so that an interrupted run leaves what it has; returns them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
            file.flush()
            written.append(row)
            if each is not None:
                each(row)
    return written


def read_rows(path: Path) -> list[Row]:
    """Rows of a CSV that benchmarks/speed.py wrote; numbers as numbers, empty cells as None.

    Raises InputError where the file or a column is missing.
    """
    with stored(path, "a CSV written by benchmarks/speed.py").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = sorted(set(COLUMNS) - set(reader.fieldnames or ()))
        if missing:
            raise InputError(f"{path}: has no column {', '.join(missing)}; expected those of benchmarks/speed.py")
        rows: list[Row] = []
        for line in reader:
            row: Row = {}
            for name in COLUMNS:
                text = line[name]
                row[name] = text if name in ("case", "estimator") else float(text) if text else None
            rows.append(row)
    return rows


@dataclass(frozen=True)
class Limit:
    """A ratio (or GB) that the project promises: what, at most (or at least), and as measured, where it has been."""

    what: str
    bound: float
    at_least: bool = False
    found: float = math.nan

    @property
    def kept(self) -> bool:
        """Whether what was found is within the bound."""
        return self.found >= self.bound if self.at_least else self.found <= self.bound


#: Estimator -> times the grid fit's, whole processes.
FIT_BOUNDS = {"field": 8.0, "pinn-single": 3.5}
PROMISED = (
    Limit("field / grid fit", FIT_BOUNDS["field"]),
    Limit("pinn-single / grid fit", FIT_BOUNDS["pinn-single"]),
    Limit("plain autograd / paper's step", 35.0, at_least=True),
    Limit("peak memory of field (GB)", 1.2),
    Limit("a million voxels / 29,804", 40.0),
    Limit("peak memory of a million voxels (GB)", 6.0),
)


def limits(rows: Sequence[Row]) -> list[Limit]:
    """The promises that these rows can be held to, as ratios of one run; absent rows leave theirs out."""
    threads = max((row["threads"] for row in rows if row["case"] == "phantom" and row["threads"]), default=None)
    seconds = _table(rows, "phantom", "seconds", threads)
    memory = _table(rows, "phantom", "peak_mb", threads)
    found: dict[str, float] = {}
    if "grid" in seconds:
        for name, what in (("field", "field / grid fit"), ("pinn-single", "pinn-single / grid fit")):
            if name in seconds:
                found[what] = seconds[name] / seconds["grid"]
    steps = (step_times(rows, threads) if threads else {}) or _table(rows, "step pointwise", "seconds", None)
    if {"naive", "fused"} <= set(steps):
        found["plain autograd / paper's step"] = steps["naive"] / steps["fused"]
    if "field" in memory:
        found["peak memory of field (GB)"] = memory["field"] / 1024
    million = [row for row in rows if row["case"] == "voxels" and row["estimator"] == "field"]
    large = [row for row in million if row["voxels"] == MILLION]
    small = [row for row in million if row["voxels"] == PHANTOM_VOXELS]
    if large and small:
        found["a million voxels / 29,804"] = large[0]["seconds"] / small[0]["seconds"]
        found["peak memory of a million voxels (GB)"] = large[0]["peak_mb"] / 1024
    return [replace(limit, found=found[limit.what]) for limit in PROMISED if limit.what in found]


def limits_table(rows: Sequence[Row]) -> str:
    """Markdown: every promise, and what these rows say of it."""
    found = {limit.what: limit for limit in limits(rows)}
    lines = []
    for limit in PROMISED:
        measured = f"{found[limit.what].found:.3g}" if limit.what in found else "not measured"
        if limit.what in found and not found[limit.what].kept:
            measured += ", not kept"
        lines.append([limit.what, f"{'at least' if limit.at_least else 'at most'} {limit.bound:g}", measured])
    return table(["", "promised", "measured"], lines)


def _table(rows: Sequence[Row], case: str, value: str, threads: float | None) -> dict[str, float]:
    """Estimator -> value of the rows of a case, of a number of threads where one is given (else of any, the last)."""
    chosen = [row for row in rows if row["case"] == case and (threads is None or row["threads"] == threads)]
    return {row["estimator"]: row[value] for row in chosen if row.get(value)}


def step_times(rows: Sequence[Row], threads: float) -> dict[str, float]:
    """Engine -> seconds of one step of the paper's training on so many threads."""
    return _table(rows, "step pointwise", "seconds", threads)


def relative(rows: Sequence[Row], case: str, reference: str, value: str = "seconds") -> Mapping[str, float]:
    """Estimator -> value over that of the reference estimator, for the rows of a case."""
    table = _table(rows, case, value, None)
    return {name: found / table[reference] for name, found in table.items()} if reference in table else {}


COLORS = METHOD_COLORS | {
    "grid": CATEGORICAL[6],
    "naive": CATEGORICAL[1],
    "torch": CATEGORICAL[4],
    "fused": CATEGORICAL[0],
}


NAMES = {
    "naive": "plain autograd", "torch": "reference engine",
    "fused": "compiled engine",
}  # fmt: skip


@styled
def scaling(
    panels: Mapping[tuple[str, str], Mapping[str, Curve]], relative_to: tuple[str, float] | None = None
) -> Figure:
    """Log-log plots with fitted exponents in the legend: (label of x, label of y) -> estimator -> (sizes, values).

    With relative_to = (estimator, size), values are divided by that estimator's at the nearest size of the panel.
    """
    figure, grid = subplots(1, len(panels), figsize=(5.2 * len(panels), 4.3), squeeze=False)
    for axes, ((x_label, y_label), found) in zip(grid[0], panels.items(), strict=True):
        curves = against(found, *relative_to) if relative_to else found
        for number, (name, (sizes, values)) in enumerate(curves.items()):
            slope = exponent(sizes, values)
            power = "" if np.isnan(slope) else f", exponent {slope:.2f}"
            axes.plot(
                sizes,
                values,
                marker=METHOD_MARKERS.get(name, MARKERS[number % len(MARKERS)]),
                color=COLORS.get(name, CATEGORICAL[number % len(CATEGORICAL)]),
                label=f"{NAMES.get(name, name)}{power}",
                linewidth=1.4,
                markersize=6,
            )
        axes.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label)
        axes.grid(which="minor", alpha=0.12)
        ticks = np.unique(np.concatenate([sizes for sizes, _ in found.values()]))
        if ticks.size <= 8:
            axes.set_xticks(ticks, [_short(tick) for tick in ticks])
            axes.minorticks_off()
        low, high = axes.get_ylim()
        if high < 50 * low:  # powers of ten alone would leave one tick, or none
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(low, high * (high / low) ** (0.075 * len(found)))  # room for the legend above the curves
        axes.legend(loc="upper left", fontsize=9)
    return figure


def _short(size: float) -> str:
    """1k for a thousand, 1M for a million."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:.3g}{name}"
    return f"{size:g}"


@styled
def step_ratios(times: Mapping[str, float], reference: str) -> Figure:
    """One bar a way of computing the same step: its time over that of the reference, on a logarithmic axis."""
    ratios = {NAMES.get(name, name): seconds / times[reference] for name, seconds in times.items()}
    figure, axes = subplots(figsize=(6.6, 0.55 * len(ratios) + 1.1))
    bars = axes.barh(range(len(ratios)), list(ratios.values()), color=CATEGORICAL[: len(ratios)], height=0.6)
    axes.bar_label(bars, [f"{value:.3g}" for value in ratios.values()], padding=4)
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel=f"time of a step / that of the {NAMES.get(reference, reference)}")
    axes.set_xlim(min(0.8, *ratios.values()) * 0.9, 2.2 * max(ratios.values()))
    axes.grid(axis="y", visible=False)
    return figure


@styled
def fit_ratios(times: Mapping[str, float], reference: str, limits: Mapping[str, float] | None = None) -> Figure:
    """One bar a fit, its time over the reference's; limits (name -> ratio) as lines across their bars."""
    ratios = {name: seconds / times[reference] for name, seconds in times.items()}
    figure, axes = subplots(figsize=(6.8, 0.48 * len(ratios) + 1.1))
    colors = [COLORS.get(name, CATEGORICAL[k % len(CATEGORICAL)]) for k, name in enumerate(ratios)]
    bars = axes.barh(range(len(ratios)), list(ratios.values()), color=colors, height=0.6)
    axes.bar_label(bars, [f"{value:.2g}" for value in ratios.values()], padding=4)
    for row, name in enumerate(ratios):
        if limits and name in limits:
            axes.plot([limits[name]] * 2, [row - 0.42, row + 0.42], color="black", linewidth=2)
    axes.set_yticks(range(len(ratios)), [NAMES.get(name, name) for name in ratios])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * max(*ratios.values(), *(limits or {"": 0.0}).values()))
    axes.set_xlabel(f"time / that of {NAMES.get(reference, reference)}")
    axes.grid(axis="y", visible=False)
    return figure
