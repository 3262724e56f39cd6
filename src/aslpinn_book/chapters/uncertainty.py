"""Whether standard deviations mean what they say: reliability, spatial correlation of errors, SD of regional means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from aslpinn import markdown
from aslpinn.errors import InputError
from aslpinn.maps.metrics import coverage
from aslpinn.maps.style import CATEGORICAL, METHOD_MARKERS, QUANTITIES, Quantity, colorbar, styled, subplots

from .shared import Float, Mask, draw_slice, method_look, stored

#: Probabilities of the intervals that a reliability curve looks at.
LEVELS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.99)


def reliability(
    estimate: ArrayLike, sd: ArrayLike, truth: ArrayLike, region: ArrayLike, levels: Iterable[float] = LEVELS
) -> NDArray[np.float64]:
    """Observed coverage of the central normal interval of every level over the region (Guo et al. 2017)."""
    return np.array([coverage(estimate, sd, truth, region, level) for level in levels])


def z_scores(estimate: ArrayLike, sd: ArrayLike, truth: ArrayLike, region: ArrayLike) -> NDArray[np.float64]:
    """(estimate - truth) / SD in the region; voxels without an SD (0) are left out."""
    chosen = np.asarray(region, bool) & (np.asarray(sd) > 0)
    error = np.asarray(estimate, np.float64)[chosen] - np.asarray(truth, np.float64)[chosen]
    return error / np.asarray(sd, np.float64)[chosen]


def regional_sd(errors: Float, region: NDArray[np.bool_] | NDArray[np.integer]) -> float:
    """SD of the mean over a region, from members' errors.

    Parameters
    ----------
    errors : (K, N)
        One quantity of `Estimate.member_errors`; each row is a draw of the error at the mask's voxels.
    region : (N,) bool, or indices
        Voxels of the region.

    With K members it is known to about 1 / sqrt(2 K) of itself. InputError for an empty region.
    """
    chosen = errors[:, region]
    if chosen.shape[1] == 0:
        raise InputError("the region of the mean holds no voxel")
    return float(np.sqrt(np.mean(chosen.mean(axis=1, dtype=np.float64) ** 2)))


def effective_voxels(errors: Float, region: NDArray[np.bool_] | NDArray[np.integer]) -> float:
    """Number of independent voxels whose mean would be as uncertain as that of the region."""
    variance = float(np.mean(errors[:, region].astype(np.float64) ** 2))
    return variance / regional_sd(errors, region) ** 2


def spheres(
    mask: Mask, voxel_size: Sequence[float], radius: float, count: int, rng: np.random.Generator
) -> list[NDArray[np.intp]]:
    """Indices into the mask's voxels of `count` spheres around random ones of them; radius and voxel_size in mm."""
    from scipy.spatial import cKDTree

    place = np.argwhere(mask) * np.asarray(voxel_size)
    centers = place[rng.choice(len(place), min(count, len(place)), replace=False)]
    return [np.array(found) for found in cKDTree(place).query_ball_point(centers, radius)]


def lag_correlation(errors: Float, mask: Mask, steps: int, axis: int = 0) -> NDArray[np.float64]:
    """Correlation of errors with those 0 to `steps` voxels further along an axis, pooled over K maps.

    errors (K, N) at the mask's voxels; only pairs inside the mask count. The mean error is not taken out.
    """
    volumes = np.zeros((len(errors), *mask.shape))
    volumes[:, mask] = errors
    volumes, inside = np.moveaxis(volumes, axis + 1, 1), np.moveaxis(mask, axis, 0)
    length = inside.shape[0]
    found = []
    for step in range(steps + 1):
        pairs = inside[: length - step] & inside[step:]
        a, b = volumes[:, : length - step][:, pairs], volumes[:, step:][:, pairs]
        found.append(np.sum(a * b) / np.sqrt(np.sum(a**2) * np.sum(b**2)))
    return np.array(found)


def regional_intervals(path: str | Path) -> tuple[Any, str]:
    """A stored run of benchmarks/regions.py: how often the 95 % interval of a region's mean holds the truth.

    As a pandas table of shares in %, index (kind of region, map), and in markdown. Columns are the way of the model of
    two tissues, and that with the bias taken from the mean.
    """
    import pandas as pd

    rows = pd.read_csv(stored(path, "a CSV written by benchmarks/regions.py"))
    sums = rows.groupby(["way", "kind", "map"], sort=False)[["regions", "held", "held_without_bias"]].sum()
    whole, once = sums.loc["whole"], sums.loc["one step"]
    shares = 100 * pd.DataFrame(
        {
            "one step": once["held"] / once["regions"],
            "whole model": whole["held"] / whole["regions"],
            "whole model, less bias": whole["held_without_bias"] / whole["regions"],
        }
    )
    cells = [
        [kind, name.upper(), f"{whole.loc[(kind, name), 'regions']}", *(f"{value:.0f}" for value in values)]
        for (kind, name), values in zip(shares.index, shares.to_numpy(), strict=True)
    ]
    head = ["regions", "map", "means", *shares]
    return shares, markdown.table(head, cells, right=head[2:])


@styled
def sd_maps(rows: Mapping[str, Mapping[str, Float]], mask: Mask, k: int) -> Figure:
    """One axial slice: a row an estimator, a column a key of QUANTITIES ("cbf", "cbf_sd", "att", "att_sd")."""
    keys = list(next(iter(rows.values())))
    drawn = {key: QUANTITIES[key].ranged(*(maps[key][mask] for maps in rows.values())) for key in keys}
    figure, grid = subplots(len(rows), len(keys), figsize=(2.1 * len(keys), 2.5 * len(rows) + 0.6), squeeze=False)
    for row, (name, maps) in zip(grid, rows.items(), strict=True):
        images = [draw_slice(axes, maps[key], mask, k, drawn[key]) for axes, key in zip(row, keys, strict=True)]
        row[0].set_title(name, loc="left")
    for column, (image, key) in enumerate(zip(images, keys, strict=True)):
        colorbar(image, grid[:, column], QUANTITIES[key], location="bottom", shrink=0.9)
    return figure


@styled
def reliability_diagram(levels: Sequence[float], panels: Mapping[str, Mapping[str, Float]]) -> Figure:
    """Observed against nominal coverage in %: panel's title -> estimator -> (levels,) shares; the diagonal is right."""
    columns = 2
    rows = -(-len(panels) // columns)
    figure, grid = subplots(rows, columns, figsize=(7.6, 3.3 * rows + 0.5), sharex=True, sharey=True, squeeze=False)
    nominal = 100 * np.asarray(levels)
    for axes, (title, curves) in zip(grid.flat, panels.items(), strict=False):
        axes.plot([0, 100], [0, 100], "--", color="0.4", linewidth=1)
        for place, (name, shares) in enumerate(curves.items()):
            axes.plot(
                nominal, 100 * shares, marker=METHOD_MARKERS.get(name, "o"), color=method_look(name, place)[0],
                label=name, markersize=5, linewidth=1.4,
            )  # fmt: skip
        axes.set(title=title, xlim=(0, 101), ylim=(0, 101))
        axes.set_aspect("equal")
    for axes in grid[-1]:
        axes.set_xlabel("interval's probability (%)")
    for axes in grid[:, 0]:
        axes.set_ylabel("truths inside (%)")
    names = list(next(iter(panels.values())))
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(6, len(names)))
    return figure


@styled
def z_histograms(panels: Mapping[str, Mapping[str, Float]]) -> Figure:
    """Histograms of error / SD, a panel a title, a line an estimator, against the standard normal distribution."""
    figure, grid = subplots(1, len(panels), figsize=(4.0 * len(panels), 3.5), sharey=True, squeeze=False)
    highest = 0.42
    edges = np.linspace(-6, 6, 61)
    middle = (edges[1:] + edges[:-1]) / 2
    for axes, (title, scores) in zip(grid[0], panels.items(), strict=True):
        axes.fill_between(middle, np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi), color="0.85", label="standard normal")
        for place, (name, values) in enumerate(scores.items()):
            density, _ = np.histogram(np.clip(values, -6, 6), edges, density=True)
            highest = max(highest, 1.04 * float(density.max()))
            axes.plot(middle, density, ("-", "--", "-.")[place % 3], color=method_look(name, place)[0], label=name)
        for edge in (-1.96, 1.96):
            axes.axvline(edge, color="0.5", linewidth=0.8)
        axes.set(title=title, xlabel="error / SD", xlim=(-6, 6))
    grid[0, 0].set(ylabel="density", ylim=(0, highest))
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@styled
def standardized_errors(rows: Mapping[str, tuple[Float, Mask]], slices: Sequence[int]) -> Figure:
    """Maps of error / SD: title -> (map, mask), a row each, a column an axial slice, one color bar."""
    quantity = Quantity("error / SD", "", "PuOr_r", -4.0, 4.0)
    figure, grid = subplots(len(rows), len(slices), figsize=(1.6 * len(slices) + 1.2, 1.95 * len(rows)), squeeze=False)
    for row, (name, (values, mask)) in zip(grid, rows.items(), strict=True):
        for axes, k in zip(row, slices, strict=True):
            image = draw_slice(axes, values, mask, k, quantity)
        row[0].set_title(name, loc="left")
    colorbar(image, grid, quantity, shrink=0.6)
    return figure


@styled
def regional_means(
    count: Float, spreads: Mapping[str, Float], distance: Float, correlations: Mapping[str, Float], unit: str
) -> Figure:
    """Left the SD of a region's mean against its voxels, right the correlation of errors against distance in mm.

    count (R,) voxels; spreads: how it was found -> (R,) in `unit`; correlations: whose errors -> (distances,).
    """
    figure, (left, right) = subplots(1, 2, figsize=(8.6, 3.7))
    for marker, dashes, color, (name, values) in zip(
        "s^o", (":", "--", "-"), CATEGORICAL, spreads.items(), strict=False
    ):
        left.plot(count, values, marker + dashes, color=color, label=name)
    left.set(xscale="log", yscale="log", xlabel="voxels of the region", ylabel=f"SD of the region's mean ({unit})")
    left.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    left.yaxis.set_minor_locator(NullLocator())
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for marker, dashes, color, (name, values) in zip(
        "^o", ("--", "-"), CATEGORICAL[1:], correlations.items(), strict=False
    ):
        right.plot(distance, values, marker + dashes, color=color, label=name)
    right.axhline(0, color="0.4", linewidth=0.8)
    right.set(xlabel="distance between voxels (mm)", ylabel="correlation of their errors")
    left.legend(loc="lower left")
    right.legend()
    return figure
