"""Figures of one subject: what was found by slice, maps, residuals, curves of a few voxels, histograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from ..physics import Acquisition, delta_m
from . import style as plt
from .style import CATEGORICAL, QUANTITIES, Quantity, colorbar, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Float = NDArray[Any]


def chosen_slices(mask: NDArray[np.bool_], count: int = 6) -> NDArray[np.intp]:
    """Axial slices spread evenly over the mask, the nearly empty ones at its ends left out."""
    area = mask.sum(axis=(0, 1))
    full = np.flatnonzero(area > 0.2 * area.max())
    return np.unique(np.linspace(full[0], full[-1], min(count, full.size)).round().astype(int))


def left_on_left(values: Float, affine: Float) -> Float:
    """An (X, Y, ...) array with x from the person's left to the right, by the (4, 4) affine of its image."""
    x = np.asarray(affine)[:3, 0]
    return values[::-1] if np.argmax(np.abs(x)) == 0 and x[0] < 0 else values


@styled
def montage(
    volume: Float,
    mask: NDArray[np.bool_],
    quantity: str,
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
    limits: tuple[float, float] | None = None,
    count: int = 6,
) -> Figure:
    """Slices of an (X, Y, Z) map, gray outside the mask, with one color bar.

    quantity: a name of style.QUANTITIES; limits: display range, by default the quantity's, widened to the percentile of
    the data that it names where that is larger.
    """
    drawn = QUANTITIES[quantity]
    low, high = limits or _limits(volume[mask], drawn)
    slices = chosen_slices(mask, count)
    rows, columns = np.flatnonzero(mask.any(axis=(1, 2))), np.flatnonzero(mask.any(axis=(0, 2)))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    colors = ScalarMappable(Normalize(low, high), drawn.cmap)
    # One image of all slices: axes for each would take several times as long to lay out.
    tiles, gap = [], np.ones((window[1].stop - window[1].start, 1, 3))
    for k in slices:
        shown = colors.to_rgba(volume[..., k][window].T)[..., :3]
        tiles += [gap, np.where(mask[..., k][window].T[..., None], shown, 0.92)]
    row = np.concatenate(tiles[1:], axis=1)
    figure, axes = plt.subplots(figsize=(1.55 * len(slices) + 0.9, 2.1))
    axes.imshow(row, origin="lower", aspect=voxel_size[1] / voxel_size[0])
    axes.set_axis_off()
    width = tiles[1].shape[1]
    for index, k in enumerate(slices):
        axes.text((index + 0.5) * (width + 1) - 1, row.shape[0], f"slice {k}", fontsize=9, ha="center", va="bottom")
    colorbar(colors, axes, drawn, aspect=14)
    return figure


def _limits(values: Float, quantity: Quantity) -> tuple[float, float]:
    low, high = quantity.limits(values)
    if low < 0:  # a signed quantity: zero stays in the middle
        bound = max(-low, float(np.percentile(np.abs(values), quantity.percentile)))
        return -bound, bound
    return low, max(high, float(np.percentile(values, quantity.percentile)))


def example_voxels(cbf: Float, att: Float, mask: NDArray[np.bool_], count: int = 4) -> NDArray[np.intp]:
    """Indices (count, 3) of voxels with CBF above its median whose ATT is at evenly spread quantiles: early to late."""
    voxels = np.argwhere(mask & (cbf >= np.median(cbf[mask])) & (cbf <= np.percentile(cbf[mask], 90)))
    order = np.argsort(att[tuple(voxels.T)], kind="stable")
    at = np.round(np.linspace(0.1, 0.9, min(count, len(order))) * (len(order) - 1)).astype(int)
    return voxels[order[at]]


@styled
def voxel_curves(series: Float, cbf: Float, att: Float, acquisition: Acquisition, voxels: NDArray[np.intp]) -> Figure:
    """Measured delta-M / M0b of single voxels (mean and, with repeats, its standard error) with the fitted curve.

    series (X, Y, Z, T); cbf in ml/100g/min; att in s; voxels (N, 3) indices. Where every duration is the same the model
    is drawn as a line over delays, otherwise at the measured samples.
    """
    distinct, index = acquisition.distinct
    columns = min(2, len(voxels))
    rows = -(-len(voxels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.9 * columns, 2.4 * rows), squeeze=False, sharex=True)
    duration = distinct.labeling_duration
    constant = bool(np.ptp(duration) < 1e-6)
    for panel, voxel in zip(axes.flat, voxels, strict=False):
        here = tuple(voxel)
        groups = [100 * series[here][index == k] for k in range(len(distinct))]
        mean = np.array([group.mean() for group in groups])
        error = np.array([group.std(ddof=1) / np.sqrt(group.size) if group.size > 1 else 0.0 for group in groups])
        pld = distinct.pld_at(voxel[None])[0]
        order = np.argsort(pld + duration, kind="stable")
        if constant:
            dense = np.linspace(max(pld.min() - 0.2, 0.0), pld.max() + 0.2, 200)
            tau = np.full(dense.shape, duration[0])
        else:
            dense, tau = pld[order], duration[order]
        model = 100 * delta_m(float(cbf[here]), float(att[here]), dense, tau, acquisition.constants)
        line = "-" if constant else "s--"
        panel.plot(dense + tau, model, line, color=CATEGORICAL[1], markersize=4, label="tissue model")
        panel.errorbar(pld + duration, mean, yerr=error, fmt="o", color=CATEGORICAL[0], markersize=4, label="measured")
        name = ", ".join(str(int(i)) for i in voxel)
        panel.set_title(f"voxel {name}: CBF {cbf[here]:.0f}, ATT {att[here]:.2f} s", fontsize=9)
        panel.axhline(0, color="0.6", linewidth=0.8)
    for panel in axes.flat[len(voxels) :]:
        panel.set_visible(False)
    for panel in axes[-1]:
        panel.set_xlabel("time since labeling began (s)")
    for panel in axes[:, 0]:
        panel.set_ylabel("ΔM/M0b (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


@styled
def histograms(cbf: Float, att: Float | None, regions: Mapping[str, NDArray[np.bool_]]) -> Figure:
    """Histograms of CBF (ml/100g/min) and ATT (s), a line a region; dashed its median; last bin: all above."""
    drawn = [(values, *of) for values, of in ((cbf, ("cbf", 150.0)), (att, ("att", 4.0))) if values is not None]
    figure, axes = plt.subplots(1, len(drawn), figsize=(3.8 * len(drawn), 2.8), squeeze=False)
    for panel, (values, quantity, top) in zip(axes[0], drawn, strict=True):
        edges = np.linspace(0, top, 61)
        for color, (name, region) in zip(CATEGORICAL, regions.items(), strict=False):
            inside = np.clip(values[region], 0, top)
            label = f"{name} ({region.sum()} voxels)"
            panel.hist(inside, edges, density=True, histtype="step", color=color, linewidth=1.6, label=label)
            panel.axvline(float(np.median(inside)), color=color, linestyle="--", linewidth=1)
        panel.set(xlabel=QUANTITIES[quantity].label, ylabel="density")
    axes[0, 0].legend(fontsize=8)
    return figure


@styled
def residual_by_delay(residual: Float, acquisition: Acquisition) -> Figure:
    """Root mean square and mean over voxels of measured minus fitted (N, D), in % of M0b, for each distinct delay."""
    distinct, _ = acquisition.distinct
    figure, axes = plt.subplots(figsize=(5.6, 2.6))
    at = np.arange(len(distinct))
    axes.bar(at, 100 * np.sqrt((residual**2).mean(axis=0)), color=CATEGORICAL[5], label="root mean square")
    axes.plot(at, 100 * residual.mean(axis=0), "o-", color=CATEGORICAL[1], label="mean")
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set_xticks(at, [f"{pld:g}" for pld in np.round(distinct.post_labeling_delay, 2)], fontsize=8)
    axes.set(xlabel="post-labeling delay (s), in order of acquisition", ylabel="residual ΔM/M0b (%)")
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return figure


@styled
def motion(parameters: Float, framewise_displacement: Float) -> Figure:
    """Rigid motion of every volume, (T, 6) in mm and degrees, and its framewise displacement in mm."""
    figure, axes = plt.subplots(3, 1, figsize=(7.2, 5.2), sharex=True)
    volumes = np.arange(len(parameters))
    panels = ((axes[0], parameters[:, :3], "translation (mm)"), (axes[1], parameters[:, 3:], "rotation (degrees)"))
    for panel, values, label in panels:
        for axis, color, marker in zip(range(3), CATEGORICAL, "os^", strict=False):
            panel.plot(volumes, values[:, axis], f"{marker}-", color=color, markersize=3, label="xyz"[axis])
        bound = max(0.1, 1.1 * float(np.abs(values).max(initial=0.0)))
        panel.set(ylabel=label, ylim=(-bound, bound))
    axes[0].legend(ncols=3, fontsize=8)
    axes[2].plot(volumes, framewise_displacement, "o-", color=CATEGORICAL[6], markersize=3)
    axes[2].set(xlabel="volume", ylabel="framewise (mm)")
    return figure
