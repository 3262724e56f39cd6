"""Numbers of one subject for the group: CBF and ATT by region, residual, held-out error, quality, other estimators."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aslpinn.data import Subject, write_estimate
from aslpinn.estimation import Estimate, fit, options_for, uses
from aslpinn.estimation.estimators import estimator_for
from aslpinn.files import write_atomic
from aslpinn.maps import metrics, regions
from aslpinn.maps import quality as qc
from aslpinn.markdown import table, words

#: Fewest voxels of a region that is reported by itself.
SMALLEST_REGION = 20

Fit = Callable[..., Estimate]


def fitter(person: Subject, estimator: str = "field", preset: str = "", seed: int = 0, fast: bool = False) -> Fit:
    """A fit(series, mask, acquisition) of a subject's volumes with the guide and voxel size of the subject.

    fast: estimators that train networks take one member and few epochs; the others need no short settings.
    """
    options: dict[str, Any] = {"estimator": estimator, "preset": preset or None, "seed": seed}
    takes_guide = options_for(estimator, preset or None).takes_guide
    options |= {"voxel_size": person.voxel_size, "guide": person.guide if takes_guide else None}
    options |= {"tissue": person.tissue if uses(estimator, "tissue") else None}
    if fast and uses(estimator, "epochs"):
        options |= {"members": 1, "epochs": 8}
    return lambda series, mask, acquisition: fit(series, mask, acquisition, **options)


def typical(estimate: Estimate, brain: NDArray[np.bool_]) -> str:
    """Median and range of CBF and ATT over the brain, a line each; of one delay why there is no ATT."""
    lines = []
    for name, values, unit in (("CBF", estimate.cbf, "ml/100g/min"), ("ATT", estimate.att, "s")):
        if values is None:
            lines.append(f"ATT: none ({estimate.info['no_att']})")
            continue
        low, middle, high = np.percentile(values[brain], [5, 50, 95])
        lines.append(f"{name}: median {middle:.3g} {unit}, 5 to 95 % of the voxels {low:.3g} to {high:.3g}")
    return "\n".join(lines)


def parcellations(person: Subject, atlases: Sequence[str] = ()) -> list[regions.Parcellation]:
    """Brain, hemispheres and tissues, and the regions of the atlases (label images), for tables by region."""
    found = [regions.tissue_parcellation(person)]
    if atlases:
        from aslpinn.data.atlases import read_atlases

        for atlas in read_atlases([Path(file) for file in atlases], person):
            person.provenance["inputs"].setdefault("atlases", []).extend(atlas.files)
            found.append(regions.parcellation_of(atlas, person.mask))
    return found


def region_numbers(
    person: Subject, estimate: Estimate, parcels: Sequence[regions.Parcellation]
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Atlas -> region -> voxels, cbf, cbf_sd, att, att_sd: means and the SDs of the means, for the group."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for parcel in parcels:
        table = regions.rows(person, estimate, parcel)
        here: dict[str, dict[str, float | None]] = {}
        for quantity, lines in table.items():
            for line in lines:
                row = here.setdefault(str(line["name"]), {"voxels": line["voxels"]})
                row[quantity] = line["mean"] if np.isfinite(line["mean"]) else None
                row[f"{quantity}_sd"] = line["sd_of_mean"] if np.isfinite(line["sd_of_mean"]) else None
        found[parcel.name] = here
    return found


def suited(
    person: Subject, estimator: str, preset: str = "", compare: Mapping[str, str] | None = None
) -> tuple[str, str, dict[str, str]]:
    """Estimator, preset and further estimators for a subject of a study.

    Those of the study, but for a series of one delay: in a study whose series differ it gets the only estimator that
    takes it, and nothing to compare with.
    """
    delays = len(person.acquisition.distinct[0])
    if delays == 1:
        return estimator_for(delays), "", {}
    return estimator, preset, dict(compare or {})


def regions_of(person: Subject) -> dict[str, NDArray[np.bool_]]:
    """The brain mask, and gray and white matter (partial volume above 0.7) where tissue maps are known."""
    found = {"mask": person.mask}
    for name, share in (person.tissue or {}).items():
        region = metrics.tissue_region(share, person.mask)
        if region.sum() >= SMALLEST_REGION:
            found[name] = region
    return found


def voxel_residual(person: Subject, estimate: Estimate) -> NDArray[np.float64]:
    """Root mean square over volumes of measured minus fitted delta-M / M0b, for each voxel (X, Y, Z)."""
    index = person.acquisition.distinct[1]
    difference = person.series.astype(np.float64) - estimate.fitted[..., index]
    return np.sqrt(np.mean(difference**2, axis=-1))


def measure(person: Subject, estimate: Estimate) -> dict[str, dict[str, float]]:
    """Region -> voxels, median and quartiles of CBF (ml/100g/min) and ATT (s), residual RMSE (delta-M / M0b)."""
    found = {}
    residual = voxel_residual(person, estimate)
    for name, region in regions_of(person).items():
        row: dict[str, float] = {"voxels": int(region.sum())}
        for quantity, values in (("cbf", estimate.cbf), ("att", estimate.att)):
            if values is None:  # one delay
                continue
            low, middle, high = np.percentile(values[region], [25, 50, 75])
            row |= {f"{quantity}_median": float(middle), f"{quantity}_q1": float(low), f"{quantity}_q3": float(high)}
        row["residual"] = float(np.sqrt(np.mean(residual[region] ** 2)))
        found[name] = row
    return found


def quality(person: Subject, estimate: Estimate) -> dict[str, float]:
    """Quality of one fit for the group: measures of `qc.quality` that are known, and the share of flagged voxels.

    negative_cbf is that of CBF fitted to each voxel alone, of either sign; noise the SD of one volume (delta-M / M0b);
    noise_ratio the residual over it, repeats averaged.
    """
    measured = qc.quality(person, estimate)["Measures"]
    names = {"spatial_cov": "spatial_cov", "negative_share": "negative_cbf", "residual_over_noise": "noise_ratio"}
    names |= {"qei": "qei", "gm_wm_ratio": "gm_wm_ratio", "mean_framewise_displacement": "motion"}
    found = {ours: measured[name] for name, ours in names.items() if measured.get(name) is not None}
    if estimate.flags is not None:
        found["flagged"] = float(np.mean(estimate.flags[person.mask] > 0))
    noise = qc.noise_sd(person)
    return found | ({"noise": noise} if np.isfinite(noise) else {})


def halves(person: Subject) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Volumes of the odd and of the even repeats of every delay; None where some delay has one volume only."""
    _, index = person.acquisition.distinct
    order = np.array([np.sum(index[:k] == index[k]) for k in range(len(index))])
    odd, even = np.flatnonzero(order % 2 == 0), np.flatnonzero(order % 2 == 1)
    if set(index[even]) != set(index):
        return None
    return odd, even


def held_out(person: Subject, run: Fit) -> dict[str, float] | None:
    """Error of a fit of the odd repeats on the even ones, averaged by delay; None where there are no repeats.

    "half" is the error of the odd half itself as the prediction: a fit that is no better has learned nothing.
    Both in delta-M / M0b, root mean square over mask voxels and delays.
    """
    parts = halves(person)
    if parts is None:
        return None
    odd, even = parts
    index = person.acquisition.distinct[1]
    estimate = run(person.series[..., odd], person.mask, person.acquisition.select(odd))
    target = person.series[..., even]
    means = person.acquisition.mean_over_repeats(person.series[..., odd], among=odd)
    return {
        "fit": metrics.held_out_error(target, estimate.fitted, person.mask, index[even]),
        "half": metrics.held_out_error(target, means, person.mask, index[even]),
    }


def measure_subject(
    person: Subject,
    estimate: Estimate,
    options: Mapping[str, Any],
    compare: Mapping[str, str] | None = None,
    with_held_out: bool = True,
    fast: bool = False,
) -> dict[str, Any]:
    """Every number of a subject that the group shows.

    Parameters
    ----------
    options
        What the estimate was made with: estimator, preset and seed, as for `fitter`.
    compare
        Further estimators, "vb" or "pinn:paper" -> folder for their maps: each is fitted and measured too, with the
        share of voxels in which the main estimate's residual is the smaller ("improved").
    with_held_out
        Fit the odd repeats and predict the even ones, where there are any.
    """

    def numbers(made: Estimate, run: Fit) -> dict[str, Any]:
        row: dict[str, Any] = {"regions": measure(person, made), "quality": quality(person, made)}
        # one delay has nothing to predict: the fit is the mean of its repeats
        error = held_out(person, run) if with_held_out and made.att is not None else None
        return row | ({"held_out": error} if error else {})

    record = numbers(estimate, fitter(person, **options, fast=fast))
    mine = voxel_residual(person, estimate)
    others = {}
    for name, folder in (compare or {}).items():
        estimator, _, preset = name.partition(":")
        run = fitter(person, **{**options, "estimator": estimator, "preset": preset}, fast=fast)
        made = run(person.series, person.mask, person.acquisition)
        write_estimate(person, made, folder)
        row = numbers(made, run)
        smaller = mine < voxel_residual(person, made)
        for region, inside in regions_of(person).items():
            row["regions"][region]["improved"] = float(np.mean(smaller[inside]))
        others[name] = row
    return record | ({"compare": others} if others else {})


def write_measures(record: dict[str, Any], path: str | Path) -> None:
    """Write the numbers of a subject as JSON."""
    write_atomic(Path(path), json.dumps(record, indent=1) + "\n")


def measures_table(record: dict[str, Any], estimator: str) -> str:
    """The numbers of a subject as a markdown table: a line an estimator and region, and the prediction by one half."""
    numbers = ["voxels", "CBF (ml/100g/min)", "ATT (s)", "residual (1e-4 M0b)", "held-out (1e-4 M0b)"]
    lines = []
    for name, row in {estimator: record, **record.get("compare", {})}.items():
        for region, values in row["regions"].items():
            error = row.get("held_out", {}).get("fit") if region == "mask" else None
            att = f"{values['att_median']:.2f}" if "att_median" in values else ""
            cells = [f"{values['voxels']}", f"{values['cbf_median']:.1f}", att]
            cells += [f"{1e4 * values['residual']:.2f}", "" if error is None else f"{1e4 * error:.2f}"]
            lines.append([words(name), words(region if region == "mask" else region.upper()), *cells])
    half = record.get("held_out", {}).get("half")
    if half is not None:
        lines.append(["*one half itself*", "mask", "", "", "", "", f"{1e4 * half:.2f}"])
    return table(["estimator", "region", *numbers], lines, right=numbers)
