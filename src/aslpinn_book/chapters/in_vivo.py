"""Held-out evaluation of one person: half of the repeats predict the other half; where no truth is known."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.data import Phantom, Subject, load_subject, simulate
from aslpinn.errors import InputError
from aslpinn.estimation import Estimate, Request, fit, options_for, prepare
from aslpinn.estimation.voxelwise import fit_grid
from aslpinn.maps.partial_volume import Window
from aslpinn.maps.style import CATEGORICAL, METHOD_COLORS, METHOD_MARKERS, styled, subplots
from aslpinn.markdown import table as markdown_table
from aslpinn.physics import Acquisition

from ..study.notebooks import find_series
from .subject import halves

Float = NDArray[np.float64]
Person = Subject | Phantom

#: The virtual person's scanner: six delays, eight repeats, 2D slices this many s apart, noise and smoothness of a real
#: 3 T series of such pairs (tSNR of a pair; FWHM in mm).
SLICE_TIME, PAIR_TSNR, NOISE_FWHM = 0.045, 1.3, 3.0


def person_with_repeats(
    bids: str | Path, seed: int = 0, fast: bool = False, motion: str = "auto"
) -> tuple[Person, str]:
    """The first series of a BIDS data set where its delays were repeated, else a virtual volunteer; and words for it.

    Outliers are not weighed down: that would take what the other half knows.
    """
    why = "no data set was given"
    if bids:
        try:
            person = load_subject(find_series(Path(bids))[0], motion=motion, outliers=False)
            if halves(person) is not None:
                what = f"{person.mask.sum()} voxels, {len(person.acquisition)} difference volumes"
                return person, f"a person, the first series of {Path(bids).resolve().name}: {what}"
            why = "the first series of the data set has no repeats"
        except InputError as error:
            said = str(error).replace(f"{Path(bids)}/", "")  # no reader needs the machine's folders
            why = f"the first series of the data set cannot be used: {said}"
    size = (6.0, 6.0, 7.0) if fast else (4.5, 4.5, 6.0)
    made = simulate(
        "mpld6", tsnr=PAIR_TSNR, seed=seed, volunteer=2, voxel_size=size,
        arterial_voxels=True, noise_fwhm=NOISE_FWHM, slice_time=SLICE_TIME,
    )  # fmt: skip
    return made, f"a virtual volunteer ({why}): {made.mask.sum()} voxels, {len(made.acquisition)} difference volumes"


@dataclass(frozen=True, eq=False)
class Halves:
    """The odd and the even repeats of a person.

    train, test: volumes; train_mean, test_mean: (X, Y, Z, D) delta-M / M0b, repeats averaged; half: RMS difference of
    the two, the error of one half as the prediction of the other; floor: SD of the noise of one half, below which no
    prediction can come; by_delay: (D,) the floor of each delay. All over mask voxels.
    """

    train: NDArray[np.intp]
    test: NDArray[np.intp]
    train_mean: Float
    test_mean: Float
    half: float
    floor: float
    by_delay: Float


def split(person: Person) -> Halves:
    """Odd and even repeats of every delay.

    The difference of the two halves is noise only, twice the variance of one: so half / sqrt(2) is the floor (of
    halves of equal size).

    Raises
    ------
    InputError
        Where some delay was measured once only.
    """
    parts = halves(person)  # type: ignore[arg-type]
    if parts is None:
        raise InputError("a delay was measured once only; expected repeats, to hold one half out")
    train, test = (person.acquisition.mean_over_repeats(person.series[..., part], among=part) for part in parts)
    square = np.mean((train - test)[person.mask].astype(float) ** 2, axis=0)
    half = float(np.sqrt(square.mean()))
    return Halves(*parts, train, test, half, half / np.sqrt(2.0), np.sqrt(square / 2.0))


def fit_half(person: Person, volumes: NDArray[np.intp], estimator: str, seed: int = 0) -> Estimate:
    """Fit some volumes of a person. estimator: "grid" (ATT grid, every voxel alone), or a name of `aslpinn.fit`."""
    series, acquisition = person.series[..., volumes], person.acquisition.select(volumes)
    if estimator == "grid":
        return fit_grid(prepare(series, person.mask, acquisition), Request(person.voxel_size), name="grid")
    anatomy = person.guide if isinstance(person, Subject) else person.m0
    guide = anatomy if options_for(estimator).takes_guide else None
    options: dict[str, Any] = {"seed": seed, "voxel_size": person.voxel_size, "guide": guide}
    return fit(series, person.mask, acquisition, estimator=estimator, **options)


@dataclass(frozen=True, eq=False)
class Score:
    """RMS errors of a fit of the training half over mask voxels (delta-M / M0b): on that half, on the other, by delay.

    squares: (N,) mean squared held-out error of each mask voxel.
    """

    train: float
    held_out: float
    by_delay: Float
    squares: Float


def score(person: Person, parts: Halves, estimate: Estimate) -> Score:
    """How well an estimate of the training half predicts the other one."""
    inside = person.mask
    fitted = np.asarray(estimate.fitted, dtype=float)[inside]
    square = (fitted - parts.test_mean[inside]) ** 2
    train = float(np.sqrt(np.mean((fitted - parts.train_mean[inside]) ** 2)))
    return Score(train, float(np.sqrt(square.mean())), np.sqrt(square.mean(axis=0)), square.mean(axis=1))


def noise_squares(parts: Halves, count: int, seed: int = 0) -> Float:
    """Squared errors (count,) that Gaussian noise alone would give, the same in every voxel, averaged over delays."""
    drawn = np.random.default_rng(seed).normal(size=(count, len(parts.by_delay))) * parts.by_delay
    return np.asarray((drawn**2).mean(axis=1))


def worst_share(squares: Float, share: float = 0.05) -> float:
    """Part of the sum of squares that its largest entries hold, a share of them all."""
    worst = max(1, round(share * len(squares)))
    return float(np.sort(squares)[-worst:].sum() / squares.sum())


def scores_table(parts: Halves, scores: Mapping[str, Score]) -> str:
    """Markdown: errors in 1e-3 of M0b, and how far each fit comes from the half itself (0 %) to the floor (100 %).

    The smallest held-out error is in bold.
    """
    best = min(found.held_out for found in scores.values())
    rows = [["the half itself", "0", f"{1e3 * parts.half:.2f}", "0"]]
    for name, found in scores.items():
        way = 100 * (parts.half - found.held_out) / (parts.half - parts.floor)
        cells = [f"{1e3 * found.train:.2f}", f"{1e3 * found.held_out:.2f}", f"{way:.0f}"]
        bold = "**" if found.held_out == best else ""
        rows.append([f"`{name}`", cells[0], *(f"{bold}{cell}{bold}" for cell in cells[1:])])
    rows.append(["*the floor*", "", f"{1e3 * parts.floor:.2f}", "100"])
    return markdown_table(["prediction", "fitted half", "held-out half", "to the floor (%)"], rows)


def partial_volume_table(person: Person, cbf: Float) -> str:
    """Markdown: mean CBF by a voxel's share of gray matter, then of either tissue by regression; or why not.

    The regression is that of `aslpinn.maps.partial_volume`.
    """
    tissue = {"gm": person.gm, "wm": person.wm} if isinstance(person, Phantom) else person.tissue
    if tissue is None:
        return "This data set has no tissue maps, so the page has no table."
    mask, rows = person.mask, []
    edges = (0.0, 0.25, 0.5, 0.75, 1.0)
    for low, high in itertools.pairwise(edges):
        where = mask & (tissue["gm"] > low) & (tissue["gm"] <= high)
        if where.any():
            name = f"voxels with {100 * low:.0f} to {100 * high:.0f} % gray matter"
            rows.append([name, f"{where.sum()}", f"{cbf[where].mean():.0f}"])
    window = Window(tissue["gm"], tissue["wm"], mask)
    for k, (name, values) in enumerate(zip(("gray", "white"), window.solve(np.asarray(cbf, float)), strict=True)):
        where = window.given(k)
        rows.append([f"*{name} matter, by regression*", f"{where.sum()}", f"{values[where].mean():.0f}"])
    return markdown_table(["", "voxels", "mean CBF (ml/100g/min)"], rows)


@dataclass(frozen=True, eq=False)
class SliceEffect:
    """What leaving out slice times does, by slice: its offset in s, median change of ATT in s and ratio of CBF."""

    offset: Float
    att: Float
    cbf: Float


def slice_effect(person: Person, fewest: int = 50) -> SliceEffect | None:
    """Grid fits of all repeats with and without slice times, in voxels with flow; None where slices have one time."""
    timing = person.acquisition
    if timing.slice_offset is None:
        return None
    flat = Acquisition(timing.labeling_duration, timing.post_labeling_delay, constants=timing.constants)
    everything = np.arange(len(timing))
    timed = fit_half(person, everything, "grid")
    ignored = fit_half(replace(person, acquisition=flat), everything, "grid")
    usable = person.mask & (ignored.cbf > 10) & (ignored.att > 0.4) & (timed.att < 2.2)
    rows = []
    for index, late in enumerate(timing.slice_offset):
        where = np.zeros_like(usable)
        at = (slice(None),) * timing.slice_axis + (index,)
        where[at] = usable[at]
        if where.sum() >= fewest:
            shift = float(np.median((timed.att - ignored.att)[where]))
            rows.append((float(late), shift, float(np.median(timed.cbf[where] / ignored.cbf[where]))))
    if not rows:
        return None
    return SliceEffect(*np.array(rows).T)


def _look(name: str, number: int) -> dict[str, Any]:
    name = {"grid": "nlls"}.get(name, name)
    return {
        "color": METHOD_COLORS.get(name, CATEGORICAL[number % len(CATEGORICAL)]),
        "marker": METHOD_MARKERS.get(name, "X"),
    }


@styled
def prediction(
    errors: Mapping[str, tuple[float, float]],
    by_delay: Mapping[str, Float],
    delays: Float,
    half: float,
    floor: tuple[float, Float],
) -> Figure:
    """Training (open) and held-out error (filled) of each method, and the held-out error by delay.

    errors: method -> (train, held out), by_delay: method -> (D,), delta-M / M0b; delays: (D,) PLD in s; half: error of
    one half as the prediction of the other; floor: noise of a half, over all delays and by delay.
    """
    figure, (left, right) = subplots(1, 2, figsize=(8.6, 3.4), width_ratios=[1.15, 1])
    for row, (name, (train, held)) in enumerate(errors.items()):
        look = _look(name, row)
        left.plot([1e3 * train, 1e3 * held], [row, row], "-", color="0.8", linewidth=1.2, zorder=1)
        left.plot(1e3 * train, row, markerfacecolor="white", markersize=7, linestyle="none", **look)
        left.plot(1e3 * held, row, markersize=7, linestyle="none", **look)
        right.plot(delays, 1e3 * by_delay[name], markersize=5, linewidth=1.3, label=name, **look)
    left.axvline(1e3 * floor[0], color="0.3", linestyle=":", label="floor (noise)")
    left.axvline(1e3 * half, color="0.3", linestyle="--", linewidth=1.2, label="the half itself")
    left.plot([], [], "o", color="0.4", markerfacecolor="white", label="on the fitted half")
    left.plot([], [], "o", color="0.4", label="on the held-out half")
    left.set_yticks(range(len(errors)), list(errors))
    left.set_ylim(len(errors) - 0.5, -0.5)
    left.set_xlabel("RMS error of ΔM/M0b (1e-3)")
    right.plot(delays, 1e3 * floor[1], ":", color="0.3", label="floor")
    right.set(xlabel="post-labeling delay (s)", ylabel="held-out RMS error (1e-3)", ylim=(0, None))
    right.legend(fontsize=8, ncols=2, loc="lower left")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    return figure


@styled
def concentration(squares: Mapping[str, Float], noise: Float) -> Figure:
    """Share of the squared held-out error that sits in the worst voxels: method -> (N,), and (N,) of noise alone."""
    figure, axes = subplots(figsize=(5.6, 3.1))
    for number, (name, values) in enumerate([("noise alone", noise), *squares.items()]):
        ordered = np.sort(values)[::-1]
        share = 100 * np.cumsum(ordered) / ordered.sum()
        at = np.unique(np.geomspace(1, len(share), 200).astype(int)) - 1
        look = {"color": "0.6", "linestyle": "--"} if number == 0 else {"color": _look(name, number)["color"]}
        axes.plot(100 * (at + 1) / len(share), share[at], label=name, **look)
    axes.axvline(5, color="0.4", linestyle=":", linewidth=1.2)
    axes.set(xscale="log", xlim=(0.05, 100), ylim=(0, 100))
    axes.set_xticks([0.1, 1, 5, 10, 100], ["0.1", "1", "5", "10", "100"])
    axes.set(xlabel="worst voxels (% of the mask)", ylabel="squared error held (%)")
    axes.legend(fontsize=8)
    return figure


@styled
def slice_times(offset: Float, att: Float, cbf: Float, t1_blood: float) -> Figure:
    """Change of median ATT (s) and ratio of CBF by slice when slice times are used, with what theory says (lines)."""
    figure, (left, right) = subplots(1, 2, figsize=(7.6, 2.9))
    line = np.linspace(0, float(offset.max()), 50)
    left.plot(line, line, "-", color="0.6", label="theory")
    left.plot(offset, att, "o", color=CATEGORICAL[0], markersize=4, label="median of a slice")
    right.plot(line, np.exp(line / t1_blood), "-", color="0.6")
    right.plot(offset, cbf, "o", color=CATEGORICAL[1], markersize=4)
    left.set(xlabel="slice time (s)", ylabel="ATT with minus without (s)")
    right.set(xlabel="slice time (s)", ylabel="CBF with / without")
    left.legend(fontsize=8)
    return figure
