"""One line of quality a subject: what it is measured by, what is usual, and what is not."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ..physics import delta_m
from .metrics import spatial_cov

if TYPE_CHECKING:
    from ..data.derivatives import Estimate
    from ..data.series import Subject

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Threshold:
    """The usual range of a measure; outside it the subject is flagged."""

    low: float
    high: float
    source: str


OURS = "convention of this project, not of the literature"

#: Ranges outside which a measure is flagged.
THRESHOLDS = {
    "qei": Threshold(0.53, 1.0, "Dolui et al. 2024, doi:10.1002/jmri.29308"),
    "spatial_cov": Threshold(0.0, 0.8, f"measure: Mutsaerts et al. 2017, doi:10.1177/0271678X16683690; limit: {OURS}"),
    "negative_share": Threshold(0.0, 0.1, f"measure: Dolui et al. 2024, doi:10.1002/jmri.29308; limit: {OURS}"),
    "mean_framewise_displacement": Threshold(0.0, 0.5, "Power et al. 2012, doi:10.1016/j.neuroimage.2011.10.018"),
    "residual_over_noise": Threshold(0.5, 1.5, OURS),
    "gm_cbf": Threshold(20.0, 120.0, "Clement et al. 2022, doi:10.1002/mrm.29024 (healthy adults: 40 to 100)"),
    "gm_wm_ratio": Threshold(1.2, 6.0, OURS),
}


@dataclass(frozen=True)
class Healthy:
    """Mean and SD over brain regions of healthy people, and whose."""

    mean: float
    sd: float
    unit: str


#: Wang et al. 2014, doi:10.1002/nbm.3040 (PMC3947417), multi-delay pCASL at 3 T of ten volunteers; regions, not people.
HEALTHY = {"cbf": Healthy(46.0, 14.0, "ml/100g/min"), "att": Healthy(1.4, 0.3, "s")}
HEALTHY_SOURCE = "Wang et al. 2014, doi:10.1002/nbm.3040: regions of ten healthy brains, mean and SD"


def plausibility(subject: Subject, estimate: Estimate) -> list[str]:
    """A note for CBF and for ATT: the median over gray matter, or the mask, beside what healthy brains have."""
    gm = None if subject.tissue is None else subject.mask & (np.asarray(subject.tissue["gm"]) > 0.7)
    gray = gm is not None and gm.sum() >= 20
    region = gm if gray and gm is not None else subject.mask
    notes = []
    for name, known in HEALTHY.items():
        values = getattr(estimate, name)
        if values is None or (name == "cbf" and subject.relative):
            continue
        middle = float(np.median(np.asarray(values, dtype=float)[region]))
        low, high = known.mean - 2 * known.sd, known.mean + 2 * known.sd
        where = "inside" if low <= middle <= high else "below" if middle < low else "above"
        notes.append(
            f"median {name.upper()} of {'gray matter' if gray else 'the mask'} is {middle:.3g} {known.unit}, {where} "
            f"{low:.3g} to {high:.3g} (two SDs around {known.mean:g}; {HEALTHY_SOURCE})"
        )
    return notes


def quality(subject: Subject, estimate: Estimate) -> dict[str, Any]:
    """Measures of a subject's maps, their thresholds, and which are flagged; ready for JSON. NaN where not measurable.

    qei (needs tissue maps), spatial_cov of CBF (SD over mean; in gray matter where it is known), negative_share of
    the raw voxelwise CBF, mean_framewise_displacement in mm, residual_over_noise, gm_cbf and gm_wm_ratio; beside them
    where CBF is not above zero.
    """
    mask = subject.mask
    cbf = np.asarray(estimate.cbf, dtype=float)
    one_delay = estimate.att is None
    raw = cbf if one_delay else voxelwise_cbf(subject, estimate.att)
    measures: dict[str, float] = {
        "spatial_cov": spatial_cov(cbf, mask),
        "negative_share": float(np.mean(raw[mask] < 0)),
        "mean_framewise_displacement": float("nan") if subject.motion is None else subject.motion.mean_displacement,
        # one delay leaves nothing: the formula passes through its one sample
        "residual_over_noise": float("nan") if one_delay else residual_over_noise(subject, estimate.fitted),
    }
    if subject.tissue is not None:
        gm, wm = (np.asarray(subject.tissue[name], dtype=float) for name in ("gm", "wm"))
        pure, white = mask & (gm > 0.7), mask & (wm > 0.7)
        measures["qei"] = quality_index(np.where(mask, cbf, 0.0), gm, wm, mask, subject.voxel_size)
        if pure.sum() >= 20 and white.sum() >= 20:
            measures["spatial_cov"] = spatial_cov(cbf, pure)
            measures["gm_cbf"] = float(cbf[pure].mean())
            measures["gm_wm_ratio"] = measures["gm_cbf"] / max(float(cbf[white].mean()), 1e-6)
    if subject.relative:  # these two have units
        measures = {name: value for name, value in measures.items() if name not in ("qei", "gm_cbf")}
    tissue = subject.provenance.get("tissue") or {}
    source = str(tissue.get("Source", "given" if subject.tissue else "none found"))
    # Maps of an atlas follow no one's folds: what is measured with them is shown, not flagged.
    unsure = () if tissue.get("OfSubject", subject.tissue is not None) else ("qei", "gm_wm_ratio")
    flags = [
        name
        for name, value in measures.items()
        if np.isfinite(value) and name not in unsure
        if not THRESHOLDS[name].low <= value <= THRESHOLDS[name].high
    ]
    outliers = subject.provenance.get("outliers") or {}
    return {
        "Subject": subject.name,
        "Estimator": estimate.estimator,
        "Measures": {name: round(value, 4) if np.isfinite(value) else None for name, value in measures.items()},
        "OutlyingVolumes": len(outliers.get("Volumes", [])),
        "OutlyingSlices": len(outliers.get("Slices", [])),
        "TissueMaps": source,
        "MaskVoxels": int(mask.sum()),
        "CbfNotAboveZero": not_above_zero(subject, cbf),
        "Flags": flags,
        "Plausibility": plausibility(subject, estimate),
        "Thresholds": {name: {"Low": t.low, "High": t.high, "Source": t.source} for name, t in THRESHOLDS.items()},
    }


def not_above_zero(subject: Subject, cbf: Float) -> dict[str, float | None]:
    """Shares of the mask's voxels whose CBF is 0 or below, and where these are: ready for JSON.

    Of them, Zero are exactly 0; Fluid have less than half tissue (None without tissue maps), Edge are others that touch
    what is not in the mask, where a voxel is part fluid, and Elsewhere are the rest.
    """
    mask = subject.mask
    low = mask & (cbf <= 0)
    fluid = np.zeros_like(mask)
    if subject.tissue is not None:
        fluid = mask & (sum(np.asarray(subject.tissue[name], dtype=float) for name in ("gm", "wm")) < 0.5)
    edge = mask & ~fluid & ~ndimage.binary_erosion(mask)
    parts = {"All": low, "Zero": low & (cbf == 0), "Fluid": low & fluid, "Edge": low & edge}
    parts["Elsewhere"] = low & ~fluid & ~edge
    shares: dict[str, float | None] = {name: round(float(part.sum() / mask.sum()), 4) for name, part in parts.items()}
    return shares if subject.tissue is not None else shares | {"Fluid": None}


def line(found: dict[str, Any]) -> str:
    """The measures of `quality` as one line of text."""
    words = {
        "qei": "QEI {:.2f}",
        "spatial_cov": "spatial CoV {:.2f}",
        "negative_share": "negative {:.1%}",
        "mean_framewise_displacement": "motion {:.2f} mm",
        "residual_over_noise": "residual/noise {:.2f}",
        "gm_cbf": "GM CBF {:.0f}",
        "gm_wm_ratio": "GM/WM {:.1f}",
    }
    measures = found["Measures"]
    parts = [text.format(measures[name]) for name, text in words.items() if measures.get(name) is not None]
    return f"quality: {', '.join(parts)}; flags: {', '.join(found['Flags']) or 'none'}"


def beside(subject: Subject, estimate: Estimate, found: dict[str, Any] | None = None) -> dict[str, bytes]:
    """Files that go beside the maps, by the end of their names: quality as JSON, and the figure of motion, if any.

    found: what `quality` returned, where it has been called already. For `write_estimate(..., extra=...)`.
    """
    files = {"_desc-qc_quality.json": (json.dumps(found or quality(subject, estimate), indent=2) + "\n").encode()}
    if subject.motion is not None:
        from io import BytesIO

        from .figures import motion

        picture = BytesIO()
        figure = motion(subject.motion.parameters, subject.motion.framewise_displacement)
        figure.savefig(picture, format="svg", metadata={"Date": None})
        files["_desc-motion_timeseries.svg"] = picture.getvalue()
    return files


def details(found: dict[str, Any]) -> list[str]:
    """A line for each flag of `quality`: measure, value, usual range and where that comes from."""
    rows = []
    for name in found["Flags"]:
        usual = found["Thresholds"][name]
        value = f"{found['Measures'][name]:.3g}; usual: {usual['Low']:g} to {usual['High']:g}"
        rows.append(f"{name}: {value} ({usual['Source']})")
    return rows


def flagged_voxels(flags: NDArray[np.uint8] | None, legend: dict[str, str], mask: Mask) -> str:
    """Share of mask voxels that carry each flag of an estimate, one a line or two; says so where it has none."""
    if flags is None:
        return "this estimator flags no voxels"
    inside = flags[mask]
    rows = [f"{100 * np.mean((inside & int(bit)) > 0):5.1f} %  {meaning}" for bit, meaning in legend.items()]
    rows.append(f"{100 * np.mean(inside == 0):5.1f} %  none of these")
    return "\n".join(part for row in rows for part in wrap(row, 76, subsequent_indent=" " * 9))


def voxelwise_cbf(subject: Subject, att: ArrayLike) -> Float:
    """CBF of every voxel on its own, by linear least squares at a given ATT, of either sign: (X, Y, Z).

    T1' is that of 50 ml/100g/min, where the model is linear in CBF.
    """
    out = np.zeros(subject.mask.shape)
    distinct, count = subject.acquisition.distinct[0], subject.acquisition.repeats
    mean = subject.acquisition.mean_over_repeats(subject.series[subject.mask].astype(float))
    pld = distinct.pld_at(np.argwhere(subject.mask))
    arrival = np.asarray(att, dtype=float)[subject.mask][:, None]
    model = delta_m(50.0, arrival, pld, distinct.labeling_duration, distinct.constants)
    energy = (model**2 * count).sum(axis=1)
    share = np.divide((model * mean * count).sum(axis=1), energy, out=np.zeros(len(energy)), where=energy > 0)
    out[subject.mask] = 50.0 * share
    return out


def blood_effect(subject: Subject) -> str | None:
    """What the person's own T1 of blood does to CBF, in a sentence or two; None where the default was taken.

    CBF that the default, and the other formulas for hematocrit, would give a voxel of 50 ml/100g/min and ATT 1.2 s, by
    least squares over the delays.
    """
    about = subject.provenance.get("t1_blood") or {}
    distinct, _ = subject.acquisition.distinct
    constants = distinct.constants
    if about.get("Source", "default") == "default":
        return None

    def signal(t1: float) -> Float:
        used = replace(constants, t1_blood=t1)
        return delta_m(50.0, 1.2, distinct.post_labeling_delay, distinct.labeling_duration, used)

    def change(t1: float) -> str:
        measured, model = signal(constants.t1_blood), signal(t1)
        return f"{100 * (float(measured @ model) / float(model @ model) - 1):+.0f} %"

    default = type(constants).t1_blood
    told = f"T1 of blood is {constants.t1_blood:.3f} s ({about['Source']}); with {default:g} s CBF would be "
    told += f"{change(default)}."
    others = [
        f"by {name} T1 would be {value:.3f} s and CBF {change(value)}"
        for name, value in about.get("OtherFormulas", {}).items()
    ]
    formula = f" Formula {about['FormulaName']}: {about['Formula']}" if "FormulaName" in about else ""
    return told + formula + (f"; {', '.join(others)}." if others else "." if formula else "")


def noise_sd(subject: Subject) -> float:
    """SD of the noise of one volume: from repeats where there are any, else from differences of neighboring voxels."""
    _, index = subject.acquisition.distinct
    repeated = [k for k in np.unique(index) if np.sum(index == k) > 1]
    if repeated:
        values = subject.series[subject.mask].astype(float)
        groups = [values[:, index == k] for k in repeated]
        free = sum(group.shape[1] - 1 for group in groups)
        return float(np.sqrt(sum(g.var(axis=1).mean() * g.shape[1] for g in groups) / free))
    inner = subject.mask & np.roll(subject.mask, 1, axis=0) & np.roll(subject.mask, -1, axis=0)
    bent = 2 * subject.series - np.roll(subject.series, 1, axis=0) - np.roll(subject.series, -1, axis=0)
    differences = bent[inner].astype(float) / np.sqrt(6.0)
    return float(1.4826 * np.median(np.abs(differences - np.median(differences)))) if differences.size else float("nan")


def residual_over_noise(subject: Subject, fitted: ArrayLike) -> float:
    """RMS of measured minus fitted, repeats averaged, over the noise of those averages: near 1 where the model fits."""
    mean = subject.acquisition.mean_over_repeats(subject.series[subject.mask].astype(float))
    left = (mean - np.asarray(fitted, dtype=float)[subject.mask]) * np.sqrt(subject.acquisition.repeats)
    noise = noise_sd(subject)
    return float(np.sqrt(np.mean(left**2)) / noise) if noise > 0 else float("nan")


def quality_index(
    cbf: ArrayLike, gm: ArrayLike, wm: ArrayLike, mask: Mask, voxel_size: tuple[float, float, float]
) -> float:
    """Quality evaluation index of a CBF map, 0 to 1: likeness to 2.5 GM + WM, dispersion, negative gray matter.

    Geometric mean of 1 - exp(-3.0126 r^2.4419), exp(-0.054 D^0.9272) and exp(-2.8478 n^0.5196): r the correlation
    with the pseudo-structural image (0 where negative), D the variance within tissues over mean gray-matter CBF, n
    the share of gray-matter voxels below 0; CBF smoothed by 5 mm (Dolui et al. 2024, doi:10.1002/jmri.29308). What
    is neither gray nor white inside the mask counts as cerebrospinal fluid.
    """
    inside = np.asarray(mask, dtype=bool)
    smooth = ndimage.gaussian_filter(np.asarray(cbf, dtype=float), [5.0 / 2.3548 / size for size in voxel_size])
    gray, white = np.asarray(gm, dtype=float), np.asarray(wm, dtype=float)
    parts = [inside & (share > 0.7) for share in (gray, white, 1.0 - gray - white)]
    pure = parts[0]
    if pure.sum() < 2 or np.ptp(smooth[inside]) == 0:
        return float("nan")
    structure = (2.5 * gray + white)[inside]
    likeness = max(0.0, float(np.corrcoef(smooth[inside], structure)[0, 1])) if np.ptp(structure) > 0 else 0.0
    counts = np.array([part.sum() for part in parts])
    spread = sum((n - 1) * smooth[part].var() for n, part in zip(counts, parts, strict=True) if n > 1)
    variance = float(spread) / max(int(counts.sum()) - 3, 1)
    level = abs(float(smooth[pure].mean()))
    dispersion = variance / level if level > 0 else np.inf
    negative = float(np.mean(smooth[pure] < 0))
    factors = (
        1.0 - np.exp(-3.0126 * likeness**2.4419),
        np.exp(-0.054 * dispersion**0.9272),
        np.exp(-2.8478 * negative**0.5196),
    )
    return float(np.prod(factors) ** (1.0 / 3.0))
