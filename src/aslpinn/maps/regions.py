"""Tables by region, with the uncertainty of a region's mean: what papers report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..estimation.estimate import PRIOR_DOMINATED
from ..markdown import table, words
from .metrics import tissue_region

if TYPE_CHECKING:
    from ..data.atlases import Atlas
    from ..data.derivatives import Estimate
    from ..data.series import Subject

Mask = NDArray[np.bool_]

COLUMNS = {
    "index": "Label of the region",
    "name": "Name of the region",
    "voxels": "Voxels of the region in the brain mask",
    "coverage": "Share of the region that lies in the brain mask",
    "mean": "Mean over these voxels",
    "median": "Median over these voxels",
    "bias": "By how much the map's mean is off on average, by the estimate's own model: for smoothing between gray and "
    "white matter (where tissue maps are known; by one step of the model of both, or by all of it with --atlas or "
    "--pvc field), and for the curvature of the signal; it is still in the mean",
    "sd_of_mean": "Standard deviation of the mean by the estimate's uncertainty, errors of its voxels going together, "
    "with the bias as a part of it (too wide for small regions where tissue maps are known and neither --atlas nor "
    "--pvc field is given); errors of M0, constants and model, which all voxels share, are not in it",
    "flagged": "Share of the voxels that carry a flag of the estimate",
    "prior_dominated": "Share of the voxels in which the data say little",
}
NO_SD = "n/a: only estimator field draws maps from its posterior, by which errors of different voxels go together"
UNITS = {"cbf": "ml/100g/min", "att": "s"}


@dataclass(frozen=True)
class Region:
    """Voxels (X, Y, Z) inside the mask, and how many there would be if all were in view (None: unknown)."""

    index: int
    name: str
    voxels: Mask
    expected: float | None = None


@dataclass(frozen=True)
class Parcellation:
    """Regions under one name, as in atlas-NAME, and where they are from, ready for JSON."""

    name: str
    regions: tuple[Region, ...]
    provenance: Mapping[str, Any]


def tissue_parcellation(subject: Subject) -> Parcellation:
    """The brain mask, its hemispheres, and gray and white matter (partial volume above 0.7) where they are known.

    The hemispheres part at the plane of constant left-right coordinate through the middle of the mask; voxels whose
    centers lie on it belong to neither.
    """
    mask = subject.mask
    x = (
        np.einsum("ijkc,c->ijk", np.moveaxis(np.indices(mask.shape), 0, -1), subject.affine[0, :3])
        + subject.affine[0, 3]
    )
    middle = float(x[mask].mean())
    named: dict[str, Mask] = {
        "brain": mask,
        "left hemisphere": mask & (x < middle),
        "right hemisphere": mask & (x > middle),
    }
    for name, share in (subject.tissue or {}).items():
        region = tissue_region(share, mask)
        named[name.upper()] = region
        named |= {f"{name.upper()} left": region & (x < middle), f"{name.upper()} right": region & (x > middle)}
    regions = tuple(Region(k, name, voxels) for k, (name, voxels) in enumerate(named.items(), start=1))
    about = {
        "Atlas": "tissue",
        "Regions": "brain mask; hemispheres by the middle of the mask; GM and WM: partial volume above 0.7",
        "Tissue": (subject.provenance.get("tissue") or {}).get("Source", "none found"),
    }
    return Parcellation("tissue", regions, about)


def parcellation_of(atlas: Atlas, mask: Mask) -> Parcellation:
    """The regions of an atlas inside a mask, those that are out of view too."""
    regions = [
        Region(label, name, mask & (atlas.labels == label), atlas.expected[label])
        for label, name in atlas.names.items()
    ]
    return Parcellation(atlas.name, tuple(regions), atlas.provenance)


def bias_of_mean(estimate: Estimate, mask: Mask, region: Mask) -> tuple[float, float]:
    """By how much the region's mean CBF and ATT are off by the model; NaN where the estimate does not say."""
    offset = getattr(estimate, "offset", None)
    if offset is None or not region.any():
        return float("nan"), float("nan")
    cbf, att = np.asarray(offset)[:, region[mask]].mean(axis=1, dtype=float)
    return float(cbf), float(att)


def sd_of_mean(estimate: Estimate, mask: Mask, region: Mask) -> tuple[float, float]:
    """RMS error of the region's mean CBF and ATT, by the members' errors over the mask and the bias.

    NaN where the estimate has no members.
    """
    errors = getattr(estimate, "member_errors", None)
    if errors is None or not region.any():
        return float("nan"), float("nan")
    means = np.asarray(errors)[:, :, region[mask]].mean(axis=2, dtype=float)
    bias = np.nan_to_num(bias_of_mean(estimate, mask, region))
    cbf, att = np.sqrt(np.mean(means**2, axis=0) + bias**2)
    return float(cbf), float(att)


def rows(subject: Subject, estimate: Estimate, parcels: Parcellation) -> dict[str, list[dict[str, Any]]]:
    """Quantity (cbf, att but for one delay) -> a row of COLUMNS for each region; NaN where nothing is known."""
    maps = {name: getattr(estimate, name) for name in UNITS if getattr(estimate, name) is not None}
    known = str(PRIOR_DOMINATED) in estimate.info.get("flags_legend", {})
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in maps}
    for region in parcels.regions:
        count = int(region.voxels.sum())
        spread = dict(zip(UNITS, sd_of_mean(estimate, subject.mask, region.voxels), strict=True))
        bias = dict(zip(UNITS, bias_of_mean(estimate, subject.mask, region.voxels), strict=True))
        flags = None if estimate.flags is None or not count else estimate.flags[region.voxels]
        common = {
            "index": region.index,
            "name": region.name,
            "voxels": count,
            "coverage": min(1.0, count / region.expected) if region.expected else float("nan"),
        }
        shares = {"flagged": float("nan"), "prior_dominated": float("nan")}
        if flags is not None:
            shares["flagged"] = float(np.mean(flags > 0))
            if known:
                shares["prior_dominated"] = float(np.mean((flags & PRIOR_DOMINATED) > 0))
        for name, values in maps.items():
            inside = np.asarray(values, dtype=float)[region.voxels]
            own = {
                "mean": float(inside.mean()) if count else float("nan"),
                "median": float(np.median(inside)) if count else float("nan"),
                "bias": bias[name],
                "sd_of_mean": spread[name],
            }
            found[name].append(common | own | shares)
    return found


def tables(subject: Subject, estimate: Estimate, parcels: Iterable[Parcellation]) -> dict[str, bytes]:
    """Tables and their JSON by the end of their names, _atlas-NAME_cbf.tsv and .json, for `write_estimate(extra=)`."""
    files: dict[str, bytes] = {}
    for parcel in parcels:
        for quantity, lines in rows(subject, estimate, parcel).items():
            text = "\n".join(["\t".join(COLUMNS), *("\t".join(map(_cell, line.values())) for line in lines)]) + "\n"
            files[f"_atlas-{parcel.name}_{quantity}.tsv"] = text.encode()
            about: dict[str, Any] = {column: {"Description": told} for column, told in COLUMNS.items()}
            for column in ("mean", "median", "bias", "sd_of_mean"):
                about[column]["Units"] = "relative" if quantity == "cbf" and subject.relative else UNITS[quantity]
            if getattr(estimate, "member_errors", None) is None:
                about["sd_of_mean"]["Note"] = NO_SD
            about |= {"Estimator": estimate.estimator, "Parcellation": dict(parcel.provenance)}
            files[f"_atlas-{parcel.name}_{quantity}.json"] = (json.dumps(about, indent=2) + "\n").encode()
    return files


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if np.isfinite(value) else "n/a"
    return " ".join(str(value).split())


def as_markdown(lines: Mapping[str, list[dict[str, Any]]], most: int = 40) -> str:
    """The rows of `rows` as a markdown table of means with the SDs of the means, the first `most` regions."""
    head = ["region", "voxels", "coverage", *(f"{name.upper()} ({UNITS[name]})" for name in lines), "flagged"]
    cells = []
    for group in list(zip(*lines.values(), strict=True))[:most]:
        first = group[0]
        values = [_value(row, digits) for row, digits in zip(group, (1, 3), strict=False)]
        name, coverage, flagged = words(first["name"]), _share(first["coverage"]), _share(first["flagged"])
        cells.append([name, first["voxels"], coverage, *values, flagged])
    return table(head, cells, right=head[1:])


def all_markdown(subject: Subject, estimate: Estimate, parcels: Iterable[Parcellation]) -> str:
    """The tables of several parcellations, each under its name."""
    made = {parcel.name: as_markdown(rows(subject, estimate, parcel)) for parcel in parcels}
    return "\n\n".join(f"Atlas `{name}`:\n\n{text}" for name, text in made.items())


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if np.isfinite(value) else ""


def _value(row: Mapping[str, Any], digits: int) -> str:
    if not np.isfinite(row["mean"]):
        return ""
    if not np.isfinite(row["sd_of_mean"]):
        return f"{row['mean']:.{digits}f}"
    # no-break spaces: in a narrow window the cell stays one line
    return f"{row['mean']:.{digits}f} ± {row['sd_of_mean']:.{digits}f}".replace(" ", "\N{NO-BREAK SPACE}")
