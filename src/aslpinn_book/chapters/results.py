"""What the chapter on results shows: bias against noise, hard phantoms, and stored runs of the paper's method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from aslpinn.maps.style import CATEGORICAL, QUANTITIES, colorbar, styled, subplots
from aslpinn.markdown import table as markdown_table

from .benchmark import PAPER_TABLE_3
from .benchmark_tables import TABLE_3
from .shared import Float, Mask, draw_slice, method_look, stored

if TYPE_CHECKING:
    from pandas import DataFrame


@styled
def bias_variance(panels: Mapping[str, Mapping[str, tuple[float, float]]], labels: Sequence[str]) -> Figure:
    """Noise (up) against bias (across) of a map, a panel a title, a point a method; arcs are equal total errors.

    panels: title -> method -> (root mean square bias, SD over noise seeds); labels: the unit of each panel.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = subplots(rows, columns, figsize=(3.5 * columns + 0.6, 3.5 * rows), squeeze=False)
    for axes, label, (title, points) in zip(grid.flat, labels, panels.items(), strict=False):
        values = np.array(list(points.values()))
        high = 1.18 * float(values.max())
        angle = np.linspace(0, np.pi / 2, 91)
        for radius in _arcs(high):
            axes.plot(radius * np.cos(angle), radius * np.sin(angle), color="0.75", linewidth=0.8, zorder=0)
            if radius < high:
                axes.text(radius, 0.01 * high, f"{radius:g}", fontsize=8, color="0.4", ha="right", va="bottom")
        for place, (name, (bias, sd)) in enumerate(points.items()):
            color, marker = method_look(name, place)
            look = {"color": color, "markersize": 8, "linestyle": "none", "alpha": 0.9, "clip_on": False}
            axes.plot(bias, sd, marker, label=name, **look)
        axes.set(xlim=(0, high), ylim=(0, high), title=title, xlabel=f"bias ({label})", ylabel=f"noise ({label})")
        axes.set_aspect("equal")
        axes.grid(visible=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)))
    return figure


def _arcs(high: float) -> Float:
    """Three or four round radii up to a little more than `high`."""
    steps = np.array([1, 2, 2.5, 5, 10]) * 10 ** np.floor(np.log10(high / 3))
    step = steps[np.argmin(np.abs(high / steps - 3.5))]
    return np.arange(step, 1.4 * high, step)


@styled
def method_dots(
    panels: Mapping[str, Mapping[str, Sequence[float]]], goals: Mapping[str, float] | None = None, columns: int = 3
) -> Figure:
    """A panel a score, a row a method: a symbol a value, a bar at their mean, a line at the goal where there is one."""
    methods = list(dict.fromkeys(name for values in panels.values() for name in values))
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    size = (2.25 * columns + 1.3, (0.3 * len(methods) + 0.9) * rows)
    figure, grid = subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
    for axes, (title, values) in zip(grid.flat, panels.items(), strict=False):
        if goals and title in goals:
            axes.axvline(goals[title], color="0.3", linewidth=1, zorder=0)
        for place, name in enumerate(methods):
            if name not in values:
                continue
            color, marker = method_look(name, place)
            numbers = np.asarray(values[name], dtype=float)
            if numbers.size > 1:
                axes.plot([numbers.mean()] * 2, [place - 0.3, place + 0.3], color=color, linewidth=2.5)
            axes.plot(numbers, np.full(numbers.size, place), marker, color=color, markersize=7, alpha=0.8)
        axes.set_title(title, fontsize=10.5)
        axes.margins(x=0.1)
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    return figure


def stored_slices(path: str | Path, tsnr: float) -> tuple[int, dict[str, dict[str, Float]]]:
    """Axial slice that benchmarks/phantom.py stored at a noise level: its number, and method -> map -> (X, Y, 1).

    Raises
    ------
    InputError
        Where there is no such file.
    """
    found: dict[str, dict[str, Float]] = {}
    with np.load(stored(path, "the maps that benchmarks/phantom.py writes")) as file:
        for name in file.files:
            method, _, rest = name.rpartition(f"-{tsnr:g}-")
            if method:
                found.setdefault(method, {})[rest] = file[name].astype(np.float32)[..., None]
        return int(file["level"]), found


def paper_runs(path: str | Path) -> DataFrame:
    """Rows of a CSV that benchmarks/paper.py wrote: a training of the paper's method each, or an epoch of one.

    Raises
    ------
    InputError
        Where there is no such file.
    """
    import pandas

    return pandas.read_csv(stored(path, "a CSV written by benchmarks/paper.py"))


def paper_runs_table(runs: DataFrame, region: str) -> str:
    """Markdown: scores over a region of the paper's method by tSNR, sub-boli and reading, mean ± SD over seeds.

    A range of epochs is one that held-out samples chose; the number of seeds is in parentheses. Over the volume the
    paper's own numbers, typed in, stand above them; inside the mask the mean bias of CBF beside them.
    """
    inside = region == "mask"
    scores = [f"{key}_{kind}_{region}" for key, kind in TABLE_3]
    lines: list[list[object]] = []
    for tsnr in sorted(runs["tsnr"].unique(), reverse=True):
        if not inside:
            published = [f"{PAPER_TABLE_3[tsnr, key, kind]['pinn']:.3f}" for key, kind in TABLE_3]
            lines.append([tsnr, "**published**", "", *published])
        by = ["reading", "protocol", "held_out"]
        ordered = runs[runs["tsnr"] == tsnr].sort_values(by, ascending=[False, True, True])
        for (reading, protocol, held_out), group in ordered.groupby(by, sort=False):
            chosen = group["epoch"]
            epochs = f"{chosen.min()} to {chosen.max()}" if held_out else f"{chosen.max()}"
            several = len(group) > 1
            cells = [f"{group[name].mean():.3f}" + f" ± {group[name].std():.3f}" * several for name in scores]
            cells += [f"{group[f'cbf_bias_{tissue}'].mean():+.0f}" for tissue in ("gm", "wm") if inside]
            rate = {"ode": "ODE", "derivative": "dS/dt"}[reading]
            lines.append([tsnr, f"{rate}, {protocol}", f"{epochs} ({len(group)})", *cells])
    head = ["tSNR", "P, sub-boli", "epoch (seeds)", "CBF SSIM", "CBF PCC", "ATT SSIM", "ATT PCC"]
    return markdown_table([*head, *(("bias GM (%)", "bias WM (%)") if inside else ())], lines)


#: Files of benchmarks/paper.py beside the paper's method, and how a reader knows the methods.
BESIDE = {"ode": "paper", "nlls": "NLLS", "vb-prior": "VB", "svb-prior": "SVB", "field": "field"}


def beside_maps(folder: str | Path, tsnr: float, mask: Mask) -> dict[str, dict[str, Float]]:
    """Method -> map -> volume: maps that benchmarks/paper.py stored of one seed with T1-adjusted sub-boli.

    Raises
    ------
    InputError
        Where a file is missing.
    """
    found: dict[str, dict[str, Float]] = {}
    for method, name in BESIDE.items():
        path = stored(Path(folder) / f"t1-adjusted_{tsnr:g}_{method}.npz", "the maps that benchmarks/paper.py writes")
        with np.load(path) as file:
            volumes = np.zeros((2, *mask.shape), np.float32)
            volumes[:, mask] = file["maps"]
        found[name] = {"cbf": volumes[0], "att": volumes[1]}
    return found


def beside_table(runs: DataFrame, beside: DataFrame) -> str:
    """Markdown: the paper's method after its last epoch and others, one seed; volume and mask, SSIM / PCC."""
    lines: list[list[object]] = []
    for tsnr in sorted(beside["tsnr"].unique(), reverse=True):
        same = {"tsnr": tsnr, "protocol": "T1-adjusted", "seed": 0, "reading": "ode", "held_out": 0}
        own = runs[np.logical_and.reduce([runs[key] == value for key, value in same.items()])]
        rows = {"ode": own.iloc[0]} | {row["method"]: row for _, row in beside[beside["tsnr"] == tsnr].iterrows()}
        for method, row in rows.items():
            pairs = [
                f"{row[f'{key}_ssim_{region}']:.3f} / {row[f'{key}_pcc_{region}']:.3f}"
                for region in ("volume", "mask")
                for key in ("cbf", "att")
            ]
            bias = [f"{row[f'cbf_bias_{tissue}']:+.0f}" for tissue in ("gm", "wm")]
            lines.append([tsnr, BESIDE[method], *pairs, *bias])
    head = ["tSNR", "method", "CBF, volume", "ATT, volume", "CBF, mask", "ATT, mask", "bias GM (%)", "bias WM (%)"]
    return markdown_table(head, lines)


@styled
def volunteers_maps(path: str | Path) -> Figure:
    """CBF and ATT of a slice of each volunteer that benchmarks/volunteers.py stored, a column a method.

    Raises
    ------
    InputError
        Where there is no such file.
    """
    with np.load(stored(path, "the maps that benchmarks/volunteers.py writes")) as file:
        maps = {name: file[name] for name in file.files}
    numbers = sorted({name.split(" ", 1)[0] for name in maps})
    methods = [
        name.split(" ", 1)[1] for name in maps if name.startswith(f"{numbers[0]} ") and not name.endswith("mask")
    ]
    cell = 7.4 / len(methods)
    size = (7.4 + 0.9, (1.15 * cell + 0.1) * 2 * len(numbers) + 0.3)
    figure, grid = subplots(2 * len(numbers), len(methods), figsize=size, squeeze=False)
    for place, number in enumerate(numbers):
        mask = maps[f"{number} mask"][..., None]
        for k, key in enumerate(("cbf", "att")):
            row = grid[2 * place + k]
            for axes, method in zip(row, methods, strict=True):
                image = draw_slice(
                    axes, maps[f"{number} {method}"][k][..., None].astype(np.float32), mask, 0, QUANTITIES[key]
                )
                if not place and not k:
                    axes.set_title(
                        method.replace(", one start", "").replace("paper's network", "paper").replace(", ", ",\n"),
                        fontsize=10,
                    )
            colorbar(image, row, QUANTITIES[key]).set_label(f"{QUANTITIES[key].name}\n({QUANTITIES[key].unit})")
    return figure


@styled
def errors_by_epoch(runs: DataFrame) -> Figure:
    """PCC inside the mask and bias of CBF against the epoch of a training, a line a seed, a panel a score."""
    panels = {
        "CBF: PCC": "cbf_pcc_mask", "ATT: PCC": "att_pcc_mask",
        "CBF: bias GM (%)": "cbf_bias_gm", "CBF: bias WM (%)": "cbf_bias_wm",
    }  # fmt: skip
    figure, grid = subplots(2, 2, figsize=(7.6, 5.4), sharex=True)
    for axes, (title, name) in zip(grid.flat, panels.items(), strict=True):
        for color, tsnr in zip(CATEGORICAL, sorted(runs["tsnr"].unique(), reverse=True), strict=False):
            label: str | None = f"tSNR {tsnr:g}"
            for _, one in runs[runs["tsnr"] == tsnr].groupby("seed"):
                axes.plot(one["epoch"], one[name], color=color, linewidth=1.2, label=label)
                label = None
        if name.startswith("cbf_bias"):
            axes.axhline(0, color="0.3", linewidth=0.8, zorder=0)
        axes.set(xscale="log", title=title)
    for axes in grid[1]:
        axes.set_xlabel("epoch")
    grid[0, 0].legend(loc="lower right")
    return figure
