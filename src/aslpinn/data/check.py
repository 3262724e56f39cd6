"""What a series is and what would be done with it, as a dictionary and as a table."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import numpy as np

from ..errors import InputError
from .derivatives import constants_table, jsonable
from .series import Subject


def describe(subject: Subject) -> dict[str, Any]:
    """What was found, what will be done, what is missing, and the effective delay of every slice; ready for JSON."""
    acquisition = subject.acquisition
    distinct = acquisition.distinct[0]
    offset = acquisition.slice_offset
    axis = acquisition.slice_axis
    offsets = np.zeros(subject.mask.shape[axis]) if offset is None else offset
    delays = [
        {"labeling_duration": tau, "post_labeling_delay": pld, "repeats": int(repeats)}
        for tau, pld, repeats in zip(
            distinct.labeling_duration, distinct.post_labeling_delay, acquisition.repeats, strict=True
        )
    ]
    slices = [
        {"slice": k, "offset": float(late), "post_labeling_delay": distinct.post_labeling_delay + late}
        for k, late in enumerate(offsets)
    ]
    inside = subject.m0[subject.mask]
    return jsonable(
        {
            "name": subject.name,
            "file": str(subject.path),
            "shape": [*subject.mask.shape, sum(subject.provenance.get("volumes", {}).values())],
            "voxel_size": subject.voxel_size,
            "sidecar": subject.provenance.get("sidecar", {}),
            "volumes": subject.provenance.get("volumes", {}),
            "inputs": subject.provenance.get("inputs", {}),
            "delays": delays,
            "time_encoding": subject.provenance.get("time_encoding"),
            "slice_axis": "ijk"[axis],
            "slices": slices,
            "m0": {**subject.provenance.get("m0", {}), "median": float(np.median(inside))},
            "mask": subject.provenance.get("mask", {}),
            "tissue": subject.provenance.get("tissue", {}).get("Source", "given" if subject.tissue else "none found"),
            "motion": subject.provenance.get("motion"),
            "motion_told": subject.provenance.get("motion_told", []),
            "outliers": subject.provenance.get("outliers"),
            "calibration": subject.provenance.get("calibration"),
            "constants": constants_table(acquisition.constants, subject.provenance.get("t1_blood")),
            "steps": subject.provenance.get("steps", []),
            "notes": subject.provenance.get("notes", []),
        }
    )


def require_agreement(subject: Subject) -> None:
    """InputError where order or sign of the volumes contradict the kinetics, which a fit refuses without force."""
    if subject.contradiction:
        raise InputError(subject.contradiction)


def _numbers(values: list[float], unit: str = "") -> str:
    return " ".join(f"{value:.4g}" for value in values) + unit


def table(found: dict[str, Any], slices: bool = True, width: int | None = None) -> str:
    """The dictionary of describe() as lines of text; longer lines than `width` characters, if given, are broken.

    Where the series could not be read it holds nothing but `missing`, what is missing or wrong.
    """
    if "name" not in found:
        return "\n".join(["missing or wrong", *(f"  {problem}" for problem in found["missing"])])
    kinds = ", ".join(f"{count} {word}" for word, count in found["volumes"].items())
    sidecar = found["sidecar"]
    repeats = sorted({entry["repeats"] for entry in found["delays"]})
    rows = [
        ("subject", found["name"]),
        ("series", f"{found['file']}"),
        ("grid", f"{' x '.join(map(str, found['shape']))}, {' x '.join(f'{v:.4g}' for v in found['voxel_size'])} mm"),
        ("kind", f"{sidecar.get('ArterialSpinLabelingType')}, {sidecar.get('MRAcquisitionType', 'unknown')} readout"),
        ("volumes", kinds),
        ("repeats", f"{' or '.join(map(str, repeats))} of each of {len(found['delays'])} (duration, delay)"),
        ("durations", _numbers([entry["labeling_duration"] for entry in found["delays"]], " s")),
        ("delays", _numbers([entry["post_labeling_delay"] for entry in found["delays"]], " s")),
        ("M0", f"{found['m0']['type']}, median {found['m0']['median']:.4g} in the mask"),
        ("mask", f"{found['mask']['source']}, {found['mask']['voxels']} voxels"),
        ("tissue maps", found["tissue"]),
        ("constants", ", ".join(f"{name} {entry['Value']:g}" for name, entry in found["constants"].items())),
    ]
    if found.get("time_encoding"):
        code = found["time_encoding"]
        left = 100 * code["unexplained"]["as given"]
        agrees = f"order and sign: {code['kinetics']} ({left:.0f} % of the mean curve unexplained as given)"
        rows.insert(5, ("encoding", f"{code['matrix']} matrix of order {code['size']}; {agrees}"))
    lines = [f"{name:<12} {value}" for name, value in rows]
    lines += ["", "what will be done"] + [f"  {step}" for step in found["steps"]]
    if found.get("missing"):
        lines += ["", "missing or wrong"] + [f"  {problem}" for problem in found["missing"]]
    lines += ["", "assumed"] + [f"  {note}" for note in found["notes"] or ["nothing"]]
    if slices:
        lines += [
            "",
            "effective delays in s, by slice" if len(_distinct(found)) > 1 else "delays in s, all slices alike",
        ]
        shown = found["slices"] if len(_distinct(found)) > 1 else found["slices"][:1]
        lines += [
            f"  {entry['slice']:>3}  " + " ".join(f"{value:.3f}" for value in entry["post_labeling_delay"])
            for entry in shown
        ]
    return "\n".join(lines if width is None else [part for line in lines for part in _broken(line, width)])


def _broken(line: str, width: int) -> list[str]:
    """A line of the table in parts of at most `width` characters, the further ones below the value or the sentence."""
    indent = " " * (4 if line.startswith("  ") else 13)
    return wrap(line, width, subsequent_indent=indent, drop_whitespace=True, break_long_words=False) or [""]


def _distinct(found: dict[str, Any]) -> set[float]:
    return {entry["offset"] for entry in found["slices"]}
