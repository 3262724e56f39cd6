"""Hadamard-encoded series in, deltam series out: a BIDS data set that any ASL program reads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..errors import InputError
from ..files import alone, commit, staging
from .calibration import find_m0
from .derivatives import dump, require_new, require_outside_raw, uri, write_motion
from .encoded import decoded_metadata
from .nifti import Image, read_image
from .series import load_subject, read_metadata, subject_name
from .sidecar import read_json, read_sidecar, shorten, split_name
from .volumes import Layout


def decode(
    path: str | Path, out: str | Path, mask: str | Path | None = None, motion: str = "auto", force: bool = False
) -> list[Path]:
    """Decode a Hadamard-encoded series into OUT/sub-XX[/ses-YY]/perf/ as deltam volumes; returns the NIfTI files.

    One volume a sub-bolus, the mean over repeats, in order of labeling and in the input's units, with its own
    LabelingDuration and PostLabelingDelay; m0scan volumes of the series come first, a separate M0 scan is copied.

    Raises
    ------
    InputError
        Where the series is not encoded, is unusable, or its order or sign contradicts the kinetics (unless forced).
    """
    path, out = Path(path), Path(out)
    name, folder = subject_name(path)
    _require_place(out, path)
    perf = out / folder / "perf"
    known = read_metadata(path)
    layout, sidecar = known.layout, known.sidecar
    image = read_image(path, dimensions=(4,))
    if layout.time_encoding is None:
        raise sidecar.error(
            "TimeEncodedMatrix", "the encoding matrix (or TimeEncodedMatrixSize and TimeEncodedMatrixType)"
        )
    # Every check of a fit, the kinetics among them; outliers are for the fit to judge.
    subject = load_subject(path, mask, motion=motion, outliers=False, force=force)
    volumes, m0_volumes = _decoded(subject.volumes if subject.volumes is not None else image.data, layout)
    fields, types = decoded_metadata(sidecar.values, layout.time_encoding, repeats=1, m0_volumes=m0_volumes)
    fields = _per_volume(fields, layout)
    fields |= {
        "SkullStripped": False,
        "Sources": [uri(path, out)],
        "DecodingKinetics": subject.provenance["time_encoding"],
    }
    fields["DecodedRepeats"] = layout.encoded.size // layout.time_encoding.size
    if subject.motion is not None:
        fields["Motion"] = subject.motion.provenance()
    with staging(out) as scratch, alone(out):
        _write(scratch / f"{name}_asl.nii.gz", volumes, image)
        dump(scratch / f"{name}_asl.json", fields)
        (scratch / f"{name}_aslcontext.tsv").write_text("\n".join(["volume_type", *types]) + "\n", encoding="utf-8")
        if subject.motion is not None:
            write_motion(subject.motion, scratch, name)
        target = f"bids::{folder}/perf/{name}_asl.nii.gz"
        if sidecar.values.get("M0Type") == "Separate":
            moved = None if subject.motion is None else subject.motion.m0  # on the position of the series
            _copy_m0(path, scratch, name, target, moved, image)
        description: dict[str, Any] = {
            "Name": "Decoded arterial spin labeling",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "aslpinn", "Version": __version__, "Description": _MAKER}],
        }
        dump(scratch / "dataset_description.json", description)
        (scratch / ".bidsignore").write_text("*_timeseries.*\n", encoding="utf-8")
        for shared in ("dataset_description.json", ".bidsignore"):  # several subjects share them
            os.replace(scratch / shared, out / shared)
        # The series last: where it stands, all that belongs to it stands.
        names = sorted((file.name for file in scratch.iterdir()), key=lambda file: file.endswith("_asl.nii.gz"))
        _require_own(perf / f"{name}_asl.json", uri(path, out))
        old = [file for file in perf.glob(f"{name}_*") if file.name.startswith(tuple(f"{name}_{e}" for e in _ENDS))]
        commit({scratch / file: perf / file for file in names}, scratch, old)
    return [perf / file for file in reversed(names) if file.endswith(".nii.gz")]


#: How the files of one decoded series go on after its name.
_ENDS = ("asl.", "aslcontext.", "m0scan.", "desc-motion_timeseries.")


def _require_place(out: Path, path: Path) -> None:
    """InputError unless OUT is new or empty, or holds what decode made of other subjects."""
    require_outside_raw(out, path)
    file = out / "dataset_description.json"
    made = read_json(file).get("GeneratedBy") if file.is_file() else None
    ours = isinstance(made, list) and any(isinstance(e, dict) and e.get("Description") == _MAKER for e in made)
    if not ours:
        require_new(out)


def _require_own(sidecar: Path, source: str) -> None:
    """InputError where a decoded series of that name is of another source."""
    sources = read_json(sidecar).get("Sources") if sidecar.is_file() else [source]
    if sources != [source]:
        raise InputError(
            f"{sidecar}: is decoded from {shorten(sources, 200)}, not from {source}; expected another --out"
        )


_MAKER = "aslpinn decode"


def _decoded(data: NDArray[np.float32], layout: Layout) -> tuple[NDArray[np.float32], int]:
    """m0scan volumes, then the mean decoded sub-boli: (X, Y, Z, M + K); and M."""
    assert layout.time_encoding is not None
    deltam = layout.difference(data)
    boli = layout.time_encoding.matrix.shape[1]
    mean = deltam.reshape(*deltam.shape[:3], -1, boli).mean(axis=3)
    first = [volume for volume, word in enumerate(layout.types) if word == "m0scan"]
    return np.concatenate([data[..., first], mean], axis=3).astype(np.float32), len(first)


#: Sidecar fields that BIDS lets have one entry a volume, besides those that decoding sets.
_BY_VOLUME = ("RepetitionTimePreparation", "FlipAngle", "VascularCrushingVENC")


def _per_volume(fields: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """Lists of one entry a raw volume made into one entry a decoded volume, m0scan first; times of volumes go."""
    assert layout.time_encoding is not None
    first = [volume for volume, word in enumerate(layout.types) if word == "m0scan"]
    order = first + [int(layout.encoded[0])] * layout.time_encoding.matrix.shape[1]
    kept = {name: value for name, value in fields.items() if name != "VolumeTiming"}
    for name in _BY_VOLUME:
        value = kept.get(name)
        if isinstance(value, list) and len(value) == len(layout.types):
            kept[name] = [value[volume] for volume in order]
    return kept


def _write(file: Path, data: NDArray[np.float32], image: Image) -> None:
    header = nib.Nifti1Header.from_header(image.header, check=False)
    header.set_data_dtype(np.float32)
    header.set_data_shape(data.shape)
    header.set_slope_inter(1, 0)
    header.set_zooms((*image.voxel_size, 1.0)[: data.ndim])
    header["cal_max"] = header["cal_min"] = 0
    nib.save(nib.Nifti1Image(data, image.affine, header=header), file)


def _copy_m0(
    path: Path, scratch: Path, name: str, target: str, moved: NDArray[np.float32] | None, image: Image
) -> None:
    """The separate M0 scan and its sidecar, meant for the decoded series; `moved` where it was brought to that."""
    source = find_m0(path)
    if source is None:
        return
    if moved is None:
        shutil.copyfile(source, scratch / f"{name}_m0scan{split_name(source)[1]}")
    else:
        _write(scratch / f"{name}_m0scan.nii.gz", moved, image)
    values = read_sidecar(source, "m0scan", required=False).values  # inherited fields too: the repetition time is one
    dump(scratch / f"{name}_m0scan.json", values | {"IntendedFor": target, "SkullStripped": False})
