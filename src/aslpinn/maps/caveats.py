"""What can and what cannot be read from a subject's maps, told from what the data are: for any data set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..estimation.estimate import PRIOR_DOMINATED
from ..markdown import words
from .quality import THRESHOLDS, noise_sd, residual_over_noise

if TYPE_CHECKING:
    from ..data.derivatives import Estimate
    from ..data.series import Subject

#: ml below which a mask is a part of a brain: three SDs below the mean of women in UK Biobank, 1,116 (SD 90) ml
#: (Ritchie et al. 2018, doi:10.1093/cercor/bhy109).
WHOLE_BRAIN = 850.0
#: Share of CBF, and s of ATT, up to which the median SD lets single voxels be read. A convention of this project.
READABLE_CBF, READABLE_ATT = 0.25, 0.2
#: Spread of CBF over the mask, in median SDs, from which its pattern is more than noise. A convention too.
PATTERN = 2.0
#: A mean residual that is this share of the largest mean signal, and this many standard errors, is a misfit.
MISFIT_SHARE, MISFIT_ERRORS = 0.1, 5.0
#: Repetition time in s of M0 scans that are not fully relaxed, as they are often acquired.
SHORT_TR = 2.0


def readings(subject: Subject, estimate: Estimate) -> dict[str, list[str]]:
    """Sentences on what "can" and what "cannot" be read from the maps of a subject.

    They follow from the volumes (raw or delta-M, repeats, delays), M0, the size of the mask, tissue maps, the
    estimate's own SDs and flags, and what the model leaves; never from the name of a data set.
    """
    found: dict[str, list[str]] = {"can": [], "cannot": []}
    for part in (_units, _voxels, _arrival, _region, _tissue, _model, _volumes):
        for verdict, sentence in part(subject, estimate):
            found[verdict].append(sentence)
    return found


def as_markdown(found: dict[str, list[str]]) -> str:
    """The sentences of `readings` as two lists."""
    lines = ["**What can be read**", "", *(f"- {words(s)}" for s in found["can"] or ["Nothing with confidence."])]
    lines += ["", "**What cannot**", "", *(f"- {words(s)}" for s in found["cannot"] or ["Nothing stands in the way."])]
    return "\n".join(lines)


Verdicts = Iterator[tuple[str, str]]


def _units(subject: Subject, estimate: Estimate) -> Verdicts:
    """Whether CBF is absolute."""
    m0 = subject.provenance.get("m0", {})
    t1 = subject.acquisition.constants.t1_tissue
    if subject.relative:
        yield (
            "cannot",
            "CBF as a number: there is no M0 (M0Type Absent). Its pattern can be read, and ratios of regions.",
        )
    elif m0.get("type") == "Estimate":
        yield (
            "cannot",
            "CBF relative to each voxel's own M0: one M0 of blood was given for all, and coil shading stays in.",
        )
    elif m0.get("repetition_time"):
        yield "can", "CBF in ml/100g/min: M0 was measured, and its repetition time is known."
    else:
        excess = 100 * (1 / (1 - np.exp(-SHORT_TR / t1)) - 1)
        yield (
            "cannot",
            "The level of CBF: the repetition time of M0 is not recorded, and M0 is taken as fully relaxed. Were it "
            f"{SHORT_TR:g} s, all CBF would be {excess:.0f} % too high. Ratios between regions do not depend on it.",
        )
    if "BackgroundSuppression" not in subject.provenance.get("sidecar", {}):
        yield "cannot", "The level of CBF to better than 5 % a pulse: background suppression is not recorded."


def _voxels(subject: Subject, estimate: Estimate) -> Verdicts:
    """Whether single voxels can be read, by the estimate's own SD."""
    mask = subject.mask
    if estimate.cbf_sd is None or (estimate.att is not None and estimate.att_sd is None):
        yield "cannot", "How sure a voxel is: this estimator gives no standard deviation."
        return
    share = float(np.median(estimate.cbf_sd[mask] / np.maximum(estimate.cbf[mask], 1.0)))
    spread = float(estimate.cbf[mask].std() / max(float(np.median(estimate.cbf_sd[mask])), 1e-6))
    if spread >= PATTERN:
        yield (
            "can",
            "The pattern: where flow is high or low, early or late. CBF differs between voxels by "
            f"{spread:.1f} times its median SD.",
        )
    if estimate.att is None:
        yield _readable(share)
        return
    late = float(np.median(estimate.att_sd[mask]))
    excess = residual_over_noise(subject, estimate.fitted)
    if excess > THRESHOLDS["residual_over_noise"].high:
        yield (
            "cannot",
            f"Single voxels by their standard deviations: these count noise, and what the model leaves is {excess:.1f} "
            f"times the noise (the median SD, {100 * share:.0f} % of CBF and {late:.2f} s of ATT, is too small).",
        )
        return
    yield _readable(share)
    said = f"ATT of single voxels: the median SD is {late:.2f} s"
    if late <= READABLE_ATT:
        yield "can", f"{said}."
    else:
        yield "cannot", f"{said}. Early and late regions can be told apart where they differ by more."
    if estimate.flags is not None and str(PRIOR_DOMINATED) in estimate.info.get("flags_legend", {}):
        borrowed = float(np.mean((estimate.flags[mask] & PRIOR_DOMINATED) > 0))
        if borrowed > 0.05:
            yield (
                "cannot",
                f"Detail in {100 * borrowed:.0f} % of the voxels: there the data say little, and CBF or ATT are what "
                "their surroundings make likely.",
            )


def _readable(share: float) -> tuple[str, str]:
    """Whether CBF of single voxels can be read, whose median SD is a share of the value."""
    said = f"CBF of single voxels: the median SD is {100 * share:.0f} % of the value"
    if share <= READABLE_CBF:
        return "can", f"{said}."
    return "cannot", f"{said}. Means over many voxels can be read."


def _arrival(subject: Subject, estimate: Estimate) -> Verdicts:
    """Whether the delays bracket the arrival."""
    mask = subject.mask
    distinct, _ = subject.acquisition.distinct
    if len(distinct) < 2:
        yield "cannot", "ATT: there is one delay only."
        first = float(distinct.pld_at(np.argwhere(mask)).min())
        yield (
            "cannot",
            f"Low CBF as low flow alone: label that arrives later than the delay ({first:.2f} s or more) is missing "
            "from CBF. The standard deviations count that for usual arrivals, not for those of a stenosis.",
        )
        return
    pld = distinct.pld_at(np.argwhere(mask))
    att = estimate.att[mask]
    early = float(np.mean(att < pld.min(axis=1)))
    late = float(np.mean(att > pld.max(axis=1)))
    span = f"{distinct.post_labeling_delay.min():.2g} to {distinct.post_labeling_delay.max():.2g} s"
    if early > 0.05:
        yield (
            "cannot",
            f"ATT in {100 * early:.0f} % of the voxels but as an upper bound: all label had arrived before the first "
            f"delay ({span}, slice times added).",
        )
    if late > 0.05:
        yield (
            "cannot",
            f"CBF and ATT apart in {100 * late:.0f} % of the voxels: at the last delay ({span}) label was still "
            "arriving, and less flow looks like later flow.",
        )
    if early <= 0.05 and late <= 0.05:
        bracketed = 100 * (1 - early - late)
        yield (
            "can",
            f"Arrival: the delays ({span}) begin before and end after it in {bracketed:.0f} % of voxels.",
        )


def _region(subject: Subject, estimate: Estimate) -> Verdicts:
    """Whether the mask is a whole brain."""
    volume = float(subject.mask.sum() * np.prod(subject.voxel_size) / 1000)
    if volume < WHOLE_BRAIN:
        shape = " x ".join(map(str, subject.mask.shape))
        yield (
            "cannot",
            f"Anything of the whole brain: the mask holds {volume:.0f} ml ({int(subject.mask.sum())} voxels of a grid "
            f"of {shape}), a part of one. Medians are those of this part, and not to be set beside other people's.",
        )
    else:
        yield "can", f"Means over the brain: the mask holds {volume:.0f} ml."


def _tissue(subject: Subject, estimate: Estimate) -> Verdicts:
    """Whether gray and white matter can be told apart."""
    if subject.tissue is None:
        yield (
            "cannot",
            "Gray and white matter apart: there are no tissue maps (--tissue estimate takes those of an atlas).",
        )
    elif not (subject.provenance.get("tissue") or {}).get("OfSubject", True):
        yield "cannot", "Cortical detail by tissue: the tissue maps are those of an atlas, and follow no one's folds."
    else:
        yield "can", "Gray and white matter apart, by the tissue maps given."


def _model(subject: Subject, estimate: Estimate) -> Verdicts:
    """Delays at which the mean of the brain is not what the model says."""
    if estimate.att is None:
        yield "cannot", "Whether the model fits: one delay is met exactly, and leaves nothing to compare."
        return
    worst = mean_misfit(subject, estimate)
    if worst is None:
        yield "can", "The mean curve: at every delay the brain's mean is what the model says."
    else:
        yield (
            "cannot",
            f"The signal at PLD {worst['pld']:.2f} s: its mean is {100 * worst['measured']:.2f} % of M0b, the model "
            f"says {100 * worst['fitted']:.2f} %. That is more than noise: the model lacks something.",
        )


def mean_misfit(subject: Subject, estimate: Estimate) -> dict[str, float] | None:
    """The delay whose mean signal over the mask differs most from the fitted one, where that is no noise; else None.

    Returns pld in s, measured and fitted mean delta-M / M0b.
    """
    distinct, count, inside = subject.acquisition.distinct[0], subject.acquisition.repeats, subject.mask
    measured = subject.acquisition.mean_over_repeats(subject.series[inside].mean(axis=0, dtype=float))
    fitted = np.asarray(estimate.fitted, dtype=float)[inside].mean(axis=0)
    error = noise_sd(subject) / np.sqrt(count * inside.sum())
    off = np.abs(measured - fitted)
    bad = (off > MISFIT_SHARE * np.abs(measured).max()) & (off > MISFIT_ERRORS * error)
    if not bad.any():
        return None
    worst = int(np.argmax(np.where(bad, off, 0)))
    pld = float(distinct.post_labeling_delay[worst])
    return {"pld": pld, "measured": float(measured[worst]), "fitted": float(fitted[worst])}


def _volumes(subject: Subject, estimate: Estimate) -> Verdicts:
    """What the kind of volumes and their repeats allow to check."""
    provenance: dict[str, Any] = subject.provenance
    if "deltam" in provenance.get("volumes", {}):
        yield "cannot", "Motion: only difference images are there, in which it can be neither seen nor corrected."
    elif provenance.get("motion"):
        yield "can", "Perfusion in spite of motion: the raw volumes were there, and were brought onto one position."
    repeats = int(subject.acquisition.repeats.min())
    if repeats < 2:
        yield (
            "cannot",
            "Whether the fit is too close or not close enough: without repeats nothing can be held out, the noise "
            "is guessed from differences of neighbors, and a spoilt volume would not be noticed.",
        )
    else:
        judged = (provenance.get("outliers") or {}).get("Judged", 0)
        watched = "Spoilt volumes were looked for." if judged else "They are too few to find a spoilt one."
        yield "can", f"How well the fit predicts: each delay was measured {repeats} times. {watched}"
