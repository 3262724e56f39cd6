"""The group: what the subjects' notebooks measured, as rows, tables with links, outliers by name, figures."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aslpinn.errors import InputError
from aslpinn.maps.style import CATEGORICAL, QUANTITIES, styled, subplots
from aslpinn.markdown import table, words

#: |robust z| above which a subject is named (Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers).
OUTLYING = 3.5
#: Fewest subjects among which one can be called an outlier.
FEWEST = 8
REGIONS = {"gm": "gray matter", "wm": "white matter", "mask": "brain mask"}

#: What is looked at for outliers: (region, name) or ("", name) for quality, and how a reader calls it.
WATCHED: dict[tuple[str, str], str] = {
    ("gm", "cbf_median"): "CBF of gray matter",
    ("mask", "cbf_median"): "CBF",
    ("gm", "att_median"): "ATT of gray matter",
    ("mask", "att_median"): "ATT",
    ("mask", "residual"): "residual",
    ("", "held_out"): "held-out error",
    ("", "spatial_cov"): "spatial CoV of CBF",
    ("", "noise_ratio"): "residual over noise",
    ("", "motion"): "motion",
    ("", "qei"): "quality index",
    ("", "flagged"): "share of flagged voxels",
}
#: Flags of the quality file (aslpinn.maps.quality), as a reader calls them.
FLAGS = {
    "qei": "quality index",
    "spatial_cov": "spatial CoV of CBF",
    "negative_share": "share of negative CBF",
    "mean_framewise_displacement": "motion",
    "residual_over_noise": "residual over noise",
    "gm_cbf": "CBF of gray matter",
    "gm_wm_ratio": "CBF ratio of gray to white matter",
}


@dataclass(frozen=True)
class Member:
    """One subject of the group: its page's key, its data set, what was measured (empty where it failed), quality flags.

    flags: measures outside their usual range, named as in aslpinn.maps.quality. maps: "cbf" and "att" -> NIfTI file.
    """

    key: str
    dataset: str
    state: str
    error: str | None = None
    seconds: float | None = None
    measures: dict[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    maps: Mapping[str, Path] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether there are numbers."""
        return self.state == "done" and bool(self.measures)

    def value(self, region: str, name: str, estimator: str | None = None) -> float:
        """One number of a region, or without one of quality, or the held-out error; NaN where it was not measured."""
        record = self.measures if estimator is None else self.measures.get("compare", {}).get(estimator, {})
        if name in ("held_out", "half"):
            row = {"held_out": record.get("held_out", {}).get("fit"), "half": record.get("held_out", {}).get("half")}
        else:
            row = record.get("regions", {}).get(region, {}) if region else record.get("quality", {})
        found = row.get(name)
        return float("nan") if found is None else float(found)


def read_group(path: str | Path) -> tuple[str, list[Member]]:
    """Main estimator and members from OUT/group/subjects.json, each with its measures.

    Raises
    ------
    InputError
        Where the file is not what `aslpinn study` writes.
    """
    file = Path(path)
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        members = []
        for row in record["subjects"]:
            measured = _read(file.parent / row["measures"]) if row["measures"] else {}
            quality = _read(file.parent / row["quality"]) if row.get("quality") else {}
            told = (row["key"], row["dataset"], row["state"], row["error"], row["seconds"])
            maps = {name: file.parent / path for name, path in (row.get("maps") or {}).items()}
            members.append(Member(*told, measured, tuple(map(str, quality.get("Flags", ()))), maps))
        return str(record["estimator"]), members
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: {error!r}; expected the list of subjects that aslpinn study writes") from None


def example_group(count: int) -> tuple[str, list[Member]]:
    """A group of simulated volunteers at coarse resolution, fitted voxel by voxel: for reading without a study."""
    import tempfile

    from aslpinn.data import load_subject, simulate, write_phantom

    from .subject import fitter, measure_subject

    members = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, count + 1):
            phantom = simulate(volunteer=number, seed=number, voxel_size=(9.0, 9.0, 10.0))
            person = load_subject(write_phantom(phantom, folder, subject=f"{number:02d}")[0])
            options: dict[str, Any] = {"estimator": "nlls"}
            estimate = fitter(person, **options)(person.series, person.mask, person.acquisition)
            members.append(
                Member(person.name, "simulated", "done", measures=measure_subject(person, estimate, options))
            )
    return "nlls", members


def _read(file: Path) -> dict[str, Any]:
    """What a subject's notebook has written as JSON; empty where it has not (a template without that cell)."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def values_of(members: Iterable[Member], region: str, name: str, estimator: str | None = None) -> NDArray[np.float64]:
    """One number of every member, NaN where it has none."""
    return np.array([member.value(region, name, estimator) for member in members], dtype=np.float64)


def middle_slices(
    members: Sequence[Member], most: int = 40
) -> tuple[dict[str, dict[str, NDArray[np.float64]]], dict[str, tuple[float, ...]]]:
    """The middle axial slice of CBF and ATT of the first `most` subjects, and voxel sizes in mm.

    Subject -> quantity -> (X, Y) values inside a frame around the brain, NaN outside of it, x from the person's left to
    the right. The brain is where ATT is above 0, or, of one delay, where CBF is not 0. A subject whose maps are damaged
    is left out, which is printed.
    """
    import nibabel as nib

    from aslpinn.maps.figures import left_on_left

    slices: dict[str, dict[str, NDArray[np.float64]]] = {}
    sizes: dict[str, tuple[float, ...]] = {}
    for member in members:
        if len(slices) == most:
            break
        found = [name for name in ("cbf", "att") if name in member.maps and member.maps[name].is_file()]
        if "cbf" not in found:
            continue
        try:
            images = {name: nib.Nifti1Image.from_filename(member.maps[name]) for name in found}
            volumes = {
                name: left_on_left(np.asarray(image.dataobj, dtype=np.float64), image.affine)
                for name, image in images.items()
            }
        except Exception as error:  # nibabel has many for a damaged file
            print(f"{member.key} is not drawn: a map of it cannot be read ({type(error).__name__})")
            continue
        brain = volumes["att"] > 0 if "att" in volumes else volumes["cbf"] != 0
        levels = np.flatnonzero(brain.any(axis=(0, 1)))
        if levels.size == 0:
            continue
        k = int(levels[levels.size // 2])
        x, y = (np.flatnonzero(brain.any(axis=axes)) for axes in ((1, 2), (0, 2)))
        frame = slice(x[0], x[-1] + 1), slice(y[0], y[-1] + 1), k
        slices[member.key] = {name: np.where(brain[frame], values[frame], np.nan) for name, values in volumes.items()}
        sizes[member.key] = tuple(float(size) for size in images["cbf"].header.get_zooms()[:2])
    return slices, sizes


def robust_z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """0.6745 (x - median) / MAD, NaN where x is; 0 everywhere if more than half of the values are equal."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return np.full(values.shape, np.nan)
    middle = np.median(finite)
    spread = np.median(np.abs(finite - middle))
    if spread <= 1e-12 * max(1.0, abs(float(middle))):
        return np.where(np.isfinite(values), 0.0, np.nan)
    return 0.6745 * (values - middle) / spread


def outliers(members: Sequence[Member], limit: float = OUTLYING) -> dict[str, list[tuple[str, float, float]]]:
    """Key -> (what, value, robust z) of each number that lies far from the group's median; data sets apart.

    Groups of fewer than FEWEST have none: protocols differ between data sets, and the spread of a handful says little.
    """
    found: dict[str, list[tuple[str, float, float]]] = {}
    for dataset in dict.fromkeys(member.dataset for member in members):
        here = [member for member in members if member.dataset == dataset and member.done]
        if len(here) < FEWEST:
            continue
        for (region, name), told in WATCHED.items():
            values = values_of(here, region, name)
            for member, value, z in zip(here, values, robust_z(values), strict=True):
                if abs(z) > limit:
                    found.setdefault(member.key, []).append((told, float(value), float(z)))
    return found


def regions_in(members: Iterable[Member]) -> list[str]:
    """Regions that any member has, gray matter first."""
    names = {name for member in members for name in member.measures.get("regions", {})}
    return [name for name in REGIONS if name in names]


def shown_in(members: Iterable[Member]) -> list[str]:
    """Regions to show: the tissues that any member has, and the mask where a member has no tissue."""
    done = [member for member in members if member.done]
    tissues = [name for name in regions_in(done) if name != "mask"]
    bare = any(not set(tissues) & set(member.measures.get("regions", {})) for member in done)
    return [*tissues, "mask"] if bare or not tissues else tissues


def compared_in(members: Iterable[Member]) -> list[str]:
    """Further estimators that any member was fitted with."""
    return list(dict.fromkeys(name for member in members for name in member.measures.get("compare", {})))


def summary_text(members: Sequence[Member]) -> str:
    """How many there are, how many failed, in a sentence or two of markdown."""
    failed = [member for member in members if member.state != "done"]
    sets = Counter(member.dataset for member in members)
    told = ", ".join(f"{count} of {words(name)}" for name, count in sets.items())
    text = f"**{len(members)} series** ({told}); {len(members) - len(failed)} were fitted"
    if not failed:
        return text + ", none failed."
    named = ", ".join(link(member.key) for member in failed[:20]) + (" and others" if len(failed) > 20 else "")
    told = "Its page says" if len(failed) == 1 else "Their pages say"
    return text + f", **{len(failed)} failed**: {named}. {told} why."


def link(key: str) -> str:
    """A markdown link to a subject's page."""
    return f"[{words(key)}](/subjects/{key})"


def subjects_table(members: Sequence[Member]) -> str:
    """One markdown line a subject: medians of CBF and ATT by region, and who has no numbers.

    Columns in which nobody has anything are left out.
    """
    shown = shown_in(members)
    names = [name.upper() if name != "mask" else "mask" for name in shown]
    rows = [
        ["subject", "data set", *(f"CBF {name}" for name in names), *(f"ATT {name} (s)" for name in names), "state"]
    ]
    for member in members:
        cells = [f"{member.value(name, 'cbf_median'):.1f}" for name in shown]
        cells += [f"{member.value(name, 'att_median'):.2f}" for name in shown]
        state = "" if member.done else "fitted, not measured" if member.state == "done" else "failed"
        rows.append([link(member.key), words(member.dataset), *cells, state])
    return _table(rows, ("subject", "data set", "state"))


def errors_table(members: Sequence[Member]) -> str:
    """One markdown line a subject with numbers: errors, quality, seconds, in what it stands out. Empty without any."""
    odd = outliers(members)
    head = ["subject", "residual", "held-out", "spatial CoV", "flagged", "seconds", "stands out in", "not usual"]
    rows = [head]
    for member in members:
        if member.done:
            cells = [f"{1e4 * member.value('mask', 'residual'):.2f}", f"{1e4 * member.value('', 'held_out'):.2f}"]
            cells += [f"{member.value('', 'spatial_cov'):.2f}", f"{100 * member.value('', 'flagged'):.0f} %"]
            cells += [f"{member.seconds or 0:.0f}", ", ".join(told for told, *_ in odd.get(member.key, []))]
            rows.append([link(member.key), *cells, ", ".join(_flag(name) for name in member.flags)])
    return _table(rows, ("subject", "stands out in", "not usual")) if len(rows) > 1 else ""


def _flag(name: str) -> str:
    """A flag as a reader calls it."""
    return FLAGS.get(name) or words(name)


def _table(rows: Sequence[Sequence[str]], left: Container[str]) -> str:
    """A markdown table, numbers to the right; NaN is an empty cell, and columns without any value are left out."""
    rows = [["" if cell.startswith("nan") else cell for cell in row] for row in rows]
    kept = [at for at in range(len(rows[0])) if any(row[at] for row in rows[1:])]
    head, *lines = [[row[at] for at in kept] for row in rows]
    return table(head, lines, right=[name for name in head if name not in left])


def outliers_text(members: Sequence[Member]) -> str:
    """Outliers by name, as a markdown list."""
    found = outliers(members)
    sizes = Counter(member.dataset for member in members if member.done)
    small = [words(name) for name, count in sizes.items() if count < FEWEST]
    lines = [
        f"- {link(key)}: " + "; ".join(f"{told} {value:.3g} (robust z {z:+.1f})" for told, value, z in rows)
        for key, rows in found.items()
    ]
    if not lines:
        lines.append(f"No subject lies more than {OUTLYING:g} robust standard deviations from its data set's median.")
    if small:
        lines += ["", f"Not looked at, with fewer than {FEWEST} subjects: {', '.join(small)}."]
    return "\n".join(lines)


def flags_text(members: Sequence[Member]) -> str:
    """Measures of quality outside their usual range, and whose they are, as a markdown list."""
    found: dict[str, list[str]] = {}
    for member in members:
        for name in member.flags:
            found.setdefault(name, []).append(member.key)
    if not found:
        return "Every measure of every subject lies in its usual range."
    lines = []
    for name, keys in sorted(found.items(), key=lambda item: -len(item[1])):
        named = ", ".join(link(key) for key in keys[:20]) + (" and others" if len(keys) > 20 else "")
        lines.append(f"- {_flag(name)}, {len(keys)} of {len(members)}: {named}")
    return "\n".join(lines)


def region_rows(members: Sequence[Member]) -> list[dict[str, Any]]:
    """A row for each subject, atlas and region: the long table, empty where nothing was measured by region."""
    return [
        {"subject": member.key, "dataset": member.dataset, "atlas": atlas, "region": region, **values}
        for member in members
        if member.done
        for atlas, here in member.measures.get("atlases", {}).items()
        for region, values in here.items()
    ]


def write_regions(members: Sequence[Member], path: Path) -> None:
    """Write `region_rows` as CSV; an empty cell is a number that is not known."""
    columns = ["subject", "dataset", "atlas", "region", "voxels", "cbf", "cbf_sd", "att", "att_sd"]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(region_rows(members))


def regions_tables(members: Sequence[Member]) -> str:
    """Regions over subjects, a markdown table an atlas: mean and SD over subjects, and the mean SD of one's mean."""
    rows = region_rows(members)
    parts = []
    for atlas in dict.fromkeys(row["atlas"] for row in rows):
        mine = [row for row in rows if row["atlas"] == atlas]
        lines = [["region", "subjects", "CBF", "SD of one's CBF", "ATT (s)", "SD of one's ATT (s)"]]
        for region in list(dict.fromkeys(row["region"] for row in mine))[:MOST_REGIONS]:
            here = [row for row in mine if row["region"] == region]
            known = {
                name: np.array([row[name] for row in here if row.get(name) is not None], dtype=float)
                for name in ("cbf", "cbf_sd", "att", "att_sd")
            }
            cells = [_spread(known["cbf"]), _mean(known["cbf_sd"], 2), _spread(known["att"]), _mean(known["att_sd"], 3)]
            lines.append([" ".join(region.replace("|", " ").split()), str(len(known["cbf"])), *cells])
        parts.append(f"Atlas `{atlas}`:\n\n" + _table(lines, ("region",)))
    return "\n\n".join(parts) or "Nothing was measured by region."


MOST_REGIONS = 60  # of an atlas that the page shows; the CSV has all


def _mean(values: NDArray[np.float64], digits: int) -> str:
    return f"{values.mean():.{digits}f}" if values.size else ""


def comparison_table(members: Sequence[Member], estimator: str) -> str:
    """The paper's Table 1 for these subjects: residual of the main estimator and the others by region, mean +- SD.

    The ratio is that of the residuals, main over other; improved is the share of voxels in which the main estimator's
    residual is the smaller. Residual RMSE cannot tell fitting from overfitting: the held-out error, where there is one,
    can. Empty without another estimator.
    """
    sets = by_dataset(members)
    several = len(sets) > 1  # of different noise: no mean over them
    head = ["data set"] * several + ["against", "region", f"residual, {words(estimator)}", "residual, other", "ratio"]
    head += ["voxels improved", "held-out", "held-out, other"]
    lines = []
    for dataset, done in sets.items():
        for other in compared_in(done):
            for region in regions_in(done):
                mine, theirs = values_of(done, region, "residual"), values_of(done, region, "residual", other)
                both = np.isfinite(mine) & np.isfinite(theirs)
                if not both.any():
                    continue
                improved = 100 * values_of(done, region, "improved", other)[both]
                cells = [_spread(1e4 * mine[both]), _spread(1e4 * theirs[both]), _spread(mine[both] / theirs[both])]
                cells.append(_spread(improved) + " %")
                cells += [
                    _spread(1e4 * values_of(done, "", "held_out", name)) if region == "mask" else ""
                    for name in (None, other)
                ]
                lines.append([*[words(dataset)] * several, words(other), REGIONS[region], *cells])
    return table(head, lines, right=head[-6:]) if lines else ""


def _spread(values: NDArray[np.float64]) -> str:
    values = values[np.isfinite(values)]
    if values.size == 0:
        return ""
    sd = f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{values.std(ddof=1):.2f}" if values.size > 1 else ""
    return f"{values.mean():.2f}{sd}"


def by_dataset(members: Sequence[Member]) -> Mapping[str, list[Member]]:
    """Members with numbers, by data set, in order of appearance."""
    found: dict[str, list[Member]] = {}
    for member in members:
        if member.done:
            found.setdefault(member.dataset, []).append(member)
    return found


@styled
def subject_values(
    panels: Mapping[str, Mapping[str, NDArray[np.float64]]],
    names: Mapping[str, Sequence[str]] | None = None,
    marked: Sequence[str] = (),
) -> Figure:
    """One panel a quantity: a point a subject and a bar at the median, in a column for each group.

    panels: axis label -> {column: values}; NaN is left out, and columns of nothing else. names: column -> the subject
    of each value; those in marked are ringed and named. One subject has no median.
    """
    figure, axes = subplots(1, len(panels), figsize=(7.6 if len(panels) > 1 else 4.0, 3.0), squeeze=False)
    for panel, (label, told) in zip(axes[0], panels.items(), strict=True):
        columns = {column: values for column, values in told.items() if np.isfinite(values).any()}
        places = {column: place for place, column in enumerate(told)}  # of all: a column has one color in every panel
        for at, (column, values) in enumerate(columns.items()):
            kept = np.flatnonzero(np.isfinite(values))
            points = values[kept]
            across = at + _side_by_side(points)
            look = {"markersize": 5 if kept.size > 1 else 7, "alpha": 0.6 if kept.size > 1 else 1.0}
            panel.plot(across, points, "o", color=CATEGORICAL[places[column] % 6], markeredgewidth=0, **look)
            if kept.size > 1:
                panel.hlines(np.median(points), at - 0.35, at + 0.35, color="0.2", linewidth=1.6)
            for x, index in zip(across, kept, strict=True):
                name = names[column][int(index)] if names else ""
                if name in marked:
                    panel.plot(x, values[index], "o", markersize=9, markerfacecolor="none", markeredgecolor="0.1")
                    panel.annotate(name, (x, values[index]), (6, 3), textcoords="offset points", fontsize=7)
        panel.set_xticks(range(len(columns)), [name.replace(" ", "\n") for name in columns], fontsize=9)
        turned = len(columns) * len(panels) > 5
        panel.tick_params(axis="x", rotation=30 if turned else 0)
        for tick in panel.get_xticklabels() if turned else ():
            tick.set(ha="right", rotation_mode="anchor")
        panel.set_xlim(-0.6, len(columns) - 0.4)
        panel.set_ylabel(label)
        everything = np.concatenate([values[np.isfinite(values)] for values in columns.values()] or [np.zeros(0)])
        if everything.size and everything.min() >= 0:
            panel.set_ylim(0, 1.1 * everything.max() or 1)  # from zero, and no point on the frame
    return figure


def _side_by_side(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sideways shifts, the same on every run, that keep near-equal values apart."""
    shift = np.zeros(values.size)
    order = np.argsort(values, kind="stable")
    shift[order] = ((np.arange(values.size) * 0.618034) % 1 - 0.5) * 0.5
    return shift if values.size > 1 else np.zeros(values.size)


@styled
def paired(mine: NDArray[np.float64], others: Mapping[str, NDArray[np.float64]], label: str, name: str) -> Figure:
    """One point a subject: an error of the main estimator (up) against that of each other (across), logarithmic.

    Below the line of equality the main estimator's is the smaller. NDArray[np.float64] are positive.
    """
    figure, panel = subplots(figsize=(4.2, 3.8))
    everything: list[Any] = [mine[np.isfinite(mine)]]
    for index, (other, values) in enumerate(others.items()):
        both = np.isfinite(mine) & np.isfinite(values)
        marker = "osD^v"[index % 5]
        panel.plot(values[both], mine[both], marker, color=CATEGORICAL[index + 1], markersize=5, alpha=0.7, label=other)
        everything.append(values[both])
    known = np.concatenate(everything) if any(v.size for v in everything) else np.ones(1)
    low, high = 0.8 * float(known.min()), 1.25 * float(known.max())
    panel.plot([low, high], [low, high], color="0.5", linewidth=1, label="equal")
    panel.set(xlabel=f"{label}, other estimator", ylabel=f"{label}, {name}", xscale="log", yscale="log")
    panel.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    ticks = [tick for power in range(-3, 6) for tick in np.array([1, 2, 5]) * 10.0**power if low <= tick <= high]
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_ticks([], minor=True)
    panel.legend(loc="upper left")
    return figure


@styled
def subject_maps(
    slices: Mapping[str, Mapping[str, NDArray[np.float64]]],
    voxel_sizes: Mapping[str, Sequence[float]],
    quantities: Sequence[str] = ("cbf", "att"),
    columns: int = 7,
) -> Figure:
    """One axial slice a subject: a row of CBF and below it one of ATT, again for every `columns` subjects.

    slices: subject -> quantity -> (X, Y) values, NaN outside the brain; voxel_sizes: subject -> its x and y in mm. All
    are drawn at one scale. A color bar for each quantity stands below.
    """
    from matplotlib.cm import ScalarMappable

    names = list(slices)
    columns = min(columns, len(names))
    blocks = -(-len(names) // columns)
    extents = {
        name: [count * mm for count, mm in zip(slices[name][quantities[0]].shape, voxel_sizes[name], strict=False)]
        for name in names
    }
    wide, high = (1.06 * max(extent[axis] for extent in extents.values()) for axis in (0, 1))
    label = 0.3 * high  # room for a name of two lines
    block_high = len(quantities) * high + label
    unit = max(1.05, 7.2 / max(columns, 5))  # inches a subject
    inches = columns * unit, unit * blocks * block_high / wide
    figure, axes = subplots(figsize=inches)
    axes.set_axis_off()
    axes.set(xlim=(0, columns * wide), ylim=(-blocks * block_high, 0), aspect="equal")
    for level, key in enumerate(quantities):
        drawn = QUANTITIES[key]
        colors = ScalarMappable(Normalize(drawn.low, drawn.high), drawn.cmap)
        for index, name in enumerate(names):
            x, y = (index % columns + 0.5) * wide, -(index // columns) * block_high
            if level == 0:
                axes.text(x, y - label, name.replace("_", "\n"), fontsize=8, ha="center", va="bottom", linespacing=1.0)
            y -= label + (level + 0.5) * high
            if key not in slices[name]:
                axes.text(x, y, "one delay:\nno ATT", fontsize=7, ha="center", va="center", color="0.4")
                continue
            values = np.rot90(slices[name][key])
            shown = np.where(np.isfinite(values)[..., None], colors.to_rgba(np.nan_to_num(values)), 0.0)
            half = [0.5 * extent for extent in extents[name]]
            axes.imshow(shown, extent=(x - half[0], x + half[0], y - half[1], y + half[1]))
        room = (level / len(quantities) + 0.03, -0.3 / inches[1], 1 / len(quantities) - 0.06, 0.12 / inches[1])
        figure.colorbar(colors, cax=axes.inset_axes(room), orientation="horizontal", extend="both", label=drawn.label)
    axes.set(xlim=(0, columns * wide), ylim=(-blocks * block_high, 0))
    return figure
