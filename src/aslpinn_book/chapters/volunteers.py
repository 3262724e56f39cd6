"""The paper's Table 1 on virtual volunteers: residuals of several fits, and beside them what residuals cannot see."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.errors import InputError
from aslpinn.maps import metrics
from aslpinn.maps.style import CATEGORICAL, QUANTITIES, colorbar, styled, subplots
from aslpinn.markdown import table as markdown_table

from .benchmark import Method
from .shared import Float, axial_slices, draw_slice, method_look

if TYPE_CHECKING:
    from aslpinn.data import Phantom
    from aslpinn.estimation import Estimate

VOLUNTEERS = 18
REGIONS = ("gm", "wm")
UNIT = 1e3  # residuals are stated in 1e-3 of M0b

#: Row's name -> how it is fitted; all see one repeat of the protocol. "fine network" has the paper's encoding, trained
#: on the closed form.
METHODS: dict[str, Method] = {
    "VB, one start": Method("vb", {"vb_start": "prior"}),
    "VB, grid start": Method("vb"),
    "smoothed": Method("smoothed"),
    "fine network": Method(
        "pinn",
        {
            "objective": "closed-form",
            "members": 1,
            "levels": 16,
            "base": 16,
            "finest": 4096,
            "att_levels": 0,
            "level_decay": 0.0,
            "anatomy": "off",
            "arterial": "off",
            "epochs": 20,
            "batch": 500,
        },
    ),
    "default": Method("field"),
}
REFERENCE = "VB, one start"

#: Row's name -> the name that the book uses for it everywhere.
NAMES = {
    "VB, one start": "vb-prior",
    "VB, grid start": "vb",
    "SVB, one start": "svb-prior",
    "paper's network": "pinn-paper",
    "default": "field-unguided",
    "smoothed": "smoothed",
    "fine network": "pinn-fine",
}

#: Table 1 of the paper, 18 people: (region, row) -> mean and SD over people. The unit of its RMSE is not stated.
PAPER_TABLE_1: dict[tuple[str, str], tuple[float, float]] = {
    ("gm", "VB"): (1.276, 0.385),
    ("gm", "PINN"): (0.691, 0.178),
    ("gm", "ratio"): (1.946, 0.810),
    ("wm", "VB"): (0.900, 0.171),
    ("wm", "PINN"): (0.563, 0.164),
    ("wm", "ratio"): (1.676, 0.441),
}
#: Share of voxels with a lower residual than VB's, as the paper's text puts it.
PAPER_IMPROVED = {"gm": "over 74 %", "wm": "76 %"}


@dataclass(frozen=True)
class Row:
    """One fit of one volunteer in one region.

    residual, held_out, noise: root mean square in 1e-3 of M0b, of the fitted repeat, of the other one, and of the noise
    of one volume; cbf_rmse, att_rmse: error against the truth (ml/100g/min, s); ratio: REFERENCE's residual over this
    one; improved, improved_cbf: share of voxels with a smaller residual, or a smaller error of CBF, than REFERENCE's.
    """

    volunteer: int
    method: str
    region: str
    residual: float
    held_out: float
    noise: float
    cbf_rmse: float
    att_rmse: float
    ratio: float
    improved: float
    improved_cbf: float


def volunteer_phantom(number: int, tsnr: float, voxel_size: tuple[float, float, float]) -> Phantom:
    """Virtual volunteer `number` with an anatomy, perfusion and noise of their own, scanned twice: two repeats."""
    from aslpinn.data import simulate

    return simulate("te11", tsnr=tsnr, seed=number, volunteer=number, voxel_size=voxel_size, repeats=2)


def first_repeat(phantom: Phantom) -> tuple[Phantom, NDArray[np.float32]]:
    """The phantom with one repeat of every delay, and the volumes of the other one, in the same order."""
    count = len(phantom.acquisition.distinct[0])
    if phantom.series.shape[3] != 2 * count:
        raise InputError(f"the phantom has {phantom.series.shape[3]} volumes; expected 2 repeats of {count} delays")
    once = replace(
        phantom,
        series=np.ascontiguousarray(phantom.series[..., :count]),
        clean=np.ascontiguousarray(phantom.clean[..., :count]),
        acquisition=phantom.acquisition.select(range(count)),
    )
    return once, np.ascontiguousarray(phantom.series[..., count:])


def fit_once(case: Phantom, method: Method, seed: int = 0, **options: Any) -> Estimate:
    """Fit one repeat with a method."""
    from aslpinn.estimation import fit

    return fit(
        case.series,
        case.mask,
        case.acquisition,
        estimator=method.estimator,
        seed=seed,
        voxel_size=case.voxel_size,
        **{**method.options, **options},
    )


def measure(case: Phantom, other: NDArray[Any], estimates: Mapping[str, Estimate]) -> list[Row]:
    """A row for each estimate and region; `other` holds the volumes that no fit has seen."""
    if REFERENCE not in estimates:
        raise InputError(f"the estimates are {', '.join(estimates)}; expected {REFERENCE!r} among them")

    def misfit(estimate: Estimate, volumes: NDArray[Any]) -> NDArray[np.float64]:
        return np.sqrt(np.mean((volumes.astype(np.float64) - estimate.fitted) ** 2, axis=-1))

    mine = misfit(estimates[REFERENCE], case.series)
    error = np.abs(estimates[REFERENCE].cbf - case.cbf)
    rows = []
    for name, estimate in estimates.items():
        inside, outside = misfit(estimate, case.series), misfit(estimate, other)
        for tissue in REGIONS:
            region = metrics.tissue_region(getattr(case, tissue), case.mask)
            rms = {
                key: UNIT * float(np.sqrt(np.mean(values[region] ** 2)))
                for key, values in (("own", inside), ("other", outside), ("reference", mine))
            }
            rows.append(
                Row(
                    volunteer=case.volunteer or 0,
                    method=name,
                    region=tissue,
                    residual=rms["own"],
                    held_out=rms["other"],
                    noise=UNIT * case.noise_sd,
                    cbf_rmse=metrics.rmse(estimate.cbf, case.cbf, region),
                    att_rmse=metrics.rmse(estimate.att, case.att, region),
                    ratio=rms["reference"] / max(rms["own"], 1e-12),
                    improved=float(np.mean(inside[region] < mine[region])),
                    improved_cbf=float(np.mean(np.abs(estimate.cbf - case.cbf)[region] < error[region])),
                )
            )
    return rows


def study(
    numbers: Iterable[int] = range(1, VOLUNTEERS + 1),
    tsnr: float = 1.5,
    voxel_size: tuple[float, float, float] = (3.0, 3.0, 7.0),
    methods: Mapping[str, Method] = METHODS,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    keep: dict[tuple[int, str], tuple[Phantom, Estimate]] | None = None,
) -> list[Row]:
    """Simulate volunteers, fit one of two repeats with every method, and measure.

    options: method -> further options of the fit; keep, if given, is filled with (volunteer, method) -> (the fitted
    repeat, the fit).
    """
    people = list(numbers)
    rows: list[Row] = []
    for done, number in enumerate(people):
        if progress:
            progress(done, len(people), f"volunteer {number}")
        case, other = first_repeat(volunteer_phantom(number, tsnr, voxel_size))
        found = {
            name: fit_once(case, method, seed=number, **dict((options or {}).get(name, {})))
            for name, method in methods.items()
        }
        rows += measure(case, other, found)
        if keep is not None:
            keep |= {(number, name): (case, estimate) for name, estimate in found.items()}
    return rows


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file that benchmarks/volunteers.py wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(int(row["volunteer"]), row["method"], row["region"], **{k: float(row[k]) for k in list(row)[3:]})
            for row in csv.DictReader(file)
        ]


def across(rows: Sequence[Row], method: str, region: str, value: str) -> NDArray[np.float64]:
    """One value of every volunteer; InputError where there is none."""
    found = [getattr(row, value) for row in rows if (row.method, row.region) == (method, region)]
    if not found:
        raise InputError(f"no volunteer was fitted with {method!r} in {region!r}")
    return np.array(found)


def spread(rows: Sequence[Row], method: str, region: str, value: str, digits: int = 2, factor: float = 1.0) -> str:
    """Mean ± SD over volunteers of one value, as a cell of a table."""
    values = factor * across(rows, method, region, value)
    return f"{values.mean():.{digits}f} ±\N{NO-BREAK SPACE}{values.std(ddof=1):.{digits}f}"


def methods_of(rows: Sequence[Row]) -> list[str]:
    """Methods in the order of the rows."""
    return list(dict.fromkeys(row.method for row in rows))


def residual_table(rows: Sequence[Row], region: str) -> str:
    """Markdown: the paper's Table 1 of one tissue, as published (its unit is not stated), above ours in 1e-3 of M0b."""
    lines: list[list[str]] = []
    for name in ("VB", "PINN"):
        residual, ratio = ("{:.3f} ± {:.3f}", "{:.2f} ± {:.2f}")
        told = ["1", "-"]
        if name == "PINN":
            told = [ratio.format(*PAPER_TABLE_1[region, "ratio"]), PAPER_IMPROVED[region].replace(" %", "")]
        lines.append([f"*{name}, published*", residual.format(*PAPER_TABLE_1[region, name]), *told])
    for name in methods_of(rows):
        improved = "-" if name == REFERENCE else spread(rows, name, region, "improved", 0, 100)
        cells = [spread(rows, name, region, "residual", 3), spread(rows, name, region, "ratio")]
        lines.append([f"`{NAMES[name]}`", *cells, improved])
    lines.append(["*noise of one volume*", spread(rows, REFERENCE, region, "noise", 3), "", ""])
    return markdown_table(["method", "residual", "ratio", "improved (%)"], lines)


def truth_table(rows: Sequence[Row], region: str) -> str:
    """Markdown: errors of one tissue on the second scan and against the truth, the smallest in bold."""
    scores = {"held_out": 3, "cbf_rmse": 1, "att_rmse": 2}
    names = methods_of(rows)
    best = {key: min(names, key=lambda name: across(rows, name, region, key).mean()) for key in scores}
    lines = []
    for name in names:
        cells = [spread(rows, name, region, key, digits) for key, digits in scores.items()]
        cells = [f"**{cell}**" if best[key] == name else cell for cell, key in zip(cells, scores, strict=True)]
        improved = "-" if name == REFERENCE else spread(rows, name, region, "improved_cbf", 0, 100)
        lines.append([f"`{NAMES[name]}`", *cells, improved])
    return markdown_table(["method", "second scan", "CBF error", "ATT error (s)", "improved (%)"], lines)


@styled
def residual_against_error(
    panels: Mapping[str, Mapping[str, tuple[Float, Float]]], labels: tuple[str, str], noise: float = 1.0
) -> Figure:
    """Error against residual, a point a volunteer, a symbol a method, a panel a title; dashed: the noise.

    panels: title -> method -> (residuals, errors), each (volunteers,); labels of the two axes with units.
    """
    figure, grid = subplots(1, len(panels), figsize=(4.3 * len(panels), 3.9), squeeze=False)
    for axes, (title, methods) in zip(grid[0], panels.items(), strict=True):
        for place, (name, (residual, error)) in enumerate(methods.items()):
            color, marker = method_look(name, place)
            axes.plot(residual, error, marker, color=color, label=name, markersize=5, alpha=0.7, linestyle="none")
        axes.axvline(noise, color="0.3", linestyle="--", linewidth=1)
        axes.set(title=title, xlabel=labels[0], ylim=(0, None))
    grid[0, 0].set_ylabel(labels[1])
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)))
    return figure


@styled
def maps_of(brains: Mapping[str, tuple[Float, Float, NDArray[np.bool_]]]) -> Figure:
    """CBF above, ATT below, a column a brain: name -> (cbf, att, mask); one axial slice of each."""
    figure, grid = subplots(2, len(brains), figsize=(2.1 * len(brains) + 1.1, 4.6), squeeze=False)
    for column, (name, (cbf, att, mask)) in zip(grid.T, brains.items(), strict=True):
        k = axial_slices(mask, 3)[1]
        images = [
            draw_slice(axes, values, mask, k, QUANTITIES[key])
            for axes, values, key in zip(column, (cbf, att), ("cbf", "att"), strict=True)
        ]
        column[0].set_title(name)
    for row, image, key in zip(grid, images, ("cbf", "att"), strict=True):
        colorbar(image, row, key)
    return figure


@styled
def one_voxel_overfit(time: Float, measured: Float, other: Float, clean: Float, fits: Mapping[str, Float]) -> Figure:
    """Signals of one voxel in % of M0b: the repeat that was fitted, the one that was not, the truth, and fits of it."""
    figure, axes = subplots(figsize=(6.6, 3.6))
    order = np.argsort(time)
    axes.plot(time[order], 100 * clean[order], color="black", linewidth=1.2, label="truth")
    axes.plot(time[order], 100 * measured[order], "o", color="black", markersize=6, label="fitted repeat")
    axes.plot(time[order], 100 * other[order], "o", color="black", markerfacecolor="white", label="other repeat")
    for color, dashes, (name, values) in zip(CATEGORICAL, ("-", "--", "-.", ":"), fits.items(), strict=False):
        axes.plot(time[order], 100 * values[order], dashes, color=color, label=name)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(xlabel="time since labeling began, t = τ + PLD (s)", ylabel="ΔM / M0b (%)")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure
