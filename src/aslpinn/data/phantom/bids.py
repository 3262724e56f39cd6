"""A phantom as a BIDS subject: the raw series with its M0 scan, and the truth as a derivative beside it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ...errors import InputError
from ...files import alone, staging
from ...physics import hadamard
from ..sidecar import read_json, shorten
from .simulate import Phantom

#: M0 of cerebrospinal fluid in the units of the simulated scanner.
SCANNER_UNITS = 1000.0
NAME = "Virtual volunteers: simulated pCASL"

_TRUTH_IGNORE = "**/*_cbf.*\n**/*_att.*\n**/*_abv.*\n**/*_probseg.*\n**/*_mask.*\n**/*_m0.*\n"

#: Without this the BIDS validator finds two errors, and no others: LabelingDuration is not as long as the NIfTI file,
#: LABELING_DURATION_LENGTH_NOT_MATCHING_NIFTI, nor as the aslcontext, LABELLING_DURATION_NOT_MATCHING_ASLCONTEXT_TSV.
_ENCODED_IGNORE = (
    "# BIDS has no words for time encoding: LabelingDuration holds one entry for each sub-bolus, not for each volume\n"
    "*_asl.*\n"
)


def write_phantom(
    phantom: Phantom, out: str | Path, subject: str = "01", encoded: bool = False, pairs: bool = False
) -> list[Path]:
    """Write a phantom into the BIDS data set `out` as sub-<subject>; returns the files, the series first.

    Parameters
    ----------
    subject : str
        Letters and digits.
    encoded : bool
        Hadamard-encoded volumes (only for time-encoded protocols) that decode to phantom.series, instead of deltam.
    pairs : bool
        Control and label volumes that differ by phantom.series, instead of deltam.

    The series is delta-M / M0b times M0b = m0 / lambda, in scanner units; the M0 scan is fully relaxed. The truth
    (cbf in ml/100g/min, att in s, partial volumes, mask, lesions) goes to derivatives/truth. All or no file is written.

    Raises
    ------
    InputError
        For a label that BIDS does not allow, an encoding that the protocol does not have, a folder that cannot be
        written to, or one that holds another data set.
    """
    if not re.fullmatch(r"[A-Za-z0-9]+", subject):
        raise InputError(f"subject is {subject!r}; expected letters and digits only, as BIDS labels have")
    if encoded and (pairs or not phantom.protocol.encoded):
        raise InputError(f"protocol {phantom.protocol.name} has no Hadamard encoding; choose a te protocol, or deltam")
    root = Path(out)
    _require_simulated(root)
    with staging(root) as scratch, alone(root):
        files = _subject(phantom, scratch, subject, encoded, pairs)
        files += _dataset(scratch, root / "participants.tsv", subject, phantom)
        files += _truth(scratch / "derivatives" / "truth", subject, phantom)
        places = {file: root / file.relative_to(scratch) for file in files}
        for file, place in reversed(places.items()):  # the series last: where it stands, all of the subject stands
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
    return list(places.values())


def _require_simulated(root: Path) -> None:
    """InputError where a folder holds a data set of another origin: its description would be written over."""
    file = root / "dataset_description.json"
    name = read_json(file).get("Name") if file.is_file() else NAME
    if name != NAME:
        raise InputError(f"{file}: Name is {shorten(name)}; expected a new folder, or one that aslpinn simulate made")


def _subject(phantom: Phantom, root: Path, subject: str, encoded: bool, pairs: bool) -> list[Path]:
    """The series, its M0 scan and their metadata."""
    folder = root / f"sub-{subject}" / "perf"
    folder.mkdir(parents=True)
    stem = folder / f"sub-{subject}"
    target = f"bids::sub-{subject}/perf/{stem.name}_asl.nii.gz"
    volumes, types, timing = _volumes(phantom, encoded, pairs)
    files = [
        _image(Path(f"{stem}_asl.nii.gz"), volumes, phantom, "sec"),
        _json(Path(f"{stem}_asl.json"), _sidecar(phantom) | timing),
        _text(Path(f"{stem}_aslcontext.tsv"), "\n".join(["volume_type", *types]) + "\n"),
        _image(Path(f"{stem}_m0scan.nii.gz"), phantom.m0 * SCANNER_UNITS, phantom),
        _json(Path(f"{stem}_m0scan.json"), _scanner() | {"RepetitionTimePreparation": 10.0, "IntendedFor": target}),
    ]
    if encoded:
        files.append(_text(root / ".bidsignore", _ENCODED_IGNORE))
    return files


def _volumes(phantom: Phantom, encoded: bool, pairs: bool) -> tuple[NDArray[np.float32], list[str], dict[str, Any]]:
    """Raw volumes in scanner units, their aslcontext rows, and the sidecar's timing fields."""
    acquisition, constants = phantom.acquisition, phantom.acquisition.constants
    m0 = phantom.m0[..., None].astype(np.float64) * SCANNER_UNITS
    deltam = phantom.series * m0 / constants.partition_coefficient
    durations, delays = acquisition.labeling_duration, acquisition.post_labeling_delay
    if encoded:
        size = len(phantom.protocol.labeling_duration) + 1
        repeats = deltam.shape[3] // (size - 1)
        # Saturation before labeling: what has recovered at readout is the static signal.
        static = m0[..., 0] * (1 - np.exp(-float(acquisition.time.max()) / constants.t1_tissue))
        signs = hadamard.matrix("Hadamard", size)
        blocks = deltam.reshape(*deltam.shape[:3], repeats, size - 1)
        raw = np.concatenate([hadamard.encode(blocks[..., r, :], signs, static) for r in range(repeats)], axis=-1)
        timing: dict[str, Any] = {
            "TimeEncodedMatrixSize": size,
            "TimeEncodedMatrixType": "Hadamard",
            "LabelingDuration": _seconds(phantom.protocol.labeling_duration),
            "PostLabelingDelay": phantom.protocol.final_delay,
        }
        return raw.astype(np.float32), ["n/a"] * raw.shape[3], timing
    if pairs:
        static = m0 * (1 - np.exp(-acquisition.time / constants.t1_tissue))
        raw = np.stack([static, static - deltam], axis=-1).reshape(*deltam.shape[:3], -1)
        timing = {
            "LabelingDuration": _seconds(np.repeat(durations, 2)),
            "PostLabelingDelay": _seconds(np.repeat(delays, 2)),
        }
        return raw.astype(np.float32), ["control", "label"] * deltam.shape[3], timing
    timing = {"LabelingDuration": _seconds(durations), "PostLabelingDelay": _seconds(delays)}
    return deltam.astype(np.float32), ["deltam"] * deltam.shape[3], timing


def _seconds(values: Any) -> list[float]:
    return [round(float(value), 6) for value in values]


def _scanner() -> dict[str, Any]:
    return {
        "MagneticFieldStrength": 3,
        "Manufacturer": "simulated",
        "MRAcquisitionType": "3D",
        "PulseSequenceType": "simulated",
        "EchoTime": 0.012,
        "FlipAngle": 90,
    }


def _sidecar(phantom: Phantom) -> dict[str, Any]:
    offset = phantom.acquisition.slice_offset
    readout = {} if offset is None else {"MRAcquisitionType": "2D", "SliceTiming": _seconds(offset)}
    recovery = float(phantom.acquisition.time.max()) + (0.0 if offset is None else float(offset.max()))
    return (
        _scanner()
        | readout
        | {
            "ArterialSpinLabelingType": "PCASL",
            "M0Type": "Separate",
            "BackgroundSuppression": False,
            "RepetitionTimePreparation": round(recovery + 0.6, 3),
            "LabelingEfficiency": phantom.acquisition.constants.efficiency,
            "AcquisitionVoxelSize": list(phantom.voxel_size),
            "TotalAcquiredPairs": len(phantom.acquisition),
        }
    )


def _dataset(root: Path, table: Path, subject: str, phantom: Phantom) -> list[Path]:
    """The data set's own files; what stands in the table of participants gains the subject."""
    description = {
        "Name": NAME,
        "BIDSVersion": "1.10.0",
        "DatasetType": "raw",
        "License": "CC0",
        "GeneratedBy": [{"Name": "aslpinn", "Version": __version__, "Description": "aslpinn simulate"}],
    }
    number = "n/a" if phantom.volunteer is None else str(phantom.volunteer)
    tsnr = "n/a" if phantom.tsnr is None else f"{phantom.tsnr:g}"
    rows = [row for row in (table.read_text(encoding="utf-8").splitlines()[1:] if table.is_file() else []) if row]
    rows = [row for row in rows if row.split("\t")[0] != f"sub-{subject}"]
    rows.append(f"sub-{subject}\t{number}\t{phantom.protocol.name}\t{tsnr}\t{phantom.seed}")
    columns = {
        "volunteer": "Number of the virtual volunteer; n/a is the template",
        "protocol": "Labeling protocol",
        "tsnr": "Mean gray-matter signal over the SD of the noise of one volume; n/a is without noise",
        "noise_seed": "Seed of the noise",
    }
    return [
        _json(root / "dataset_description.json", description),
        _text(
            root / "README",
            "Simulated arterial spin labeling, made by aslpinn simulate from the ICBM 152 tissue maps. No person was "
            "scanned.\nThe maps that the signals were made from are in derivatives/truth.\n",
        ),
        _text(root / "participants.tsv", "\n".join(["\t".join(["participant_id", *columns]), *sorted(rows)]) + "\n"),
        _json(root / "participants.json", {name: {"Description": text} for name, text in columns.items()}),
    ]


def _truth(root: Path, subject: str, phantom: Phantom) -> list[Path]:
    """The maps that a fit should find, with a unit beside each."""
    folder = root / f"sub-{subject}" / "perf"
    folder.mkdir(parents=True)
    maps: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {
        "cbf": (phantom.cbf, {"Units": "mL/100 g/min", "NoiseSD": phantom.noise_sd}),
        "att": (phantom.att, {"Units": "s"}),
        "m0": (phantom.m0, {"Units": "arbitrary", "Description": "M0 of tissue, relative"}),
        "label-GM_probseg": (phantom.gm, {"Description": "Partial volume of gray matter"}),
        "label-WM_probseg": (phantom.wm, {"Description": "Partial volume of white matter"}),
        "desc-brain_mask": (phantom.mask, {"Type": "Brain"}),
    }
    if phantom.abv.any():
        maps["desc-arterial_abv"] = (phantom.abv, {"Units": "fraction", "Description": "Arterial blood volume"})
    for name, where in (("lesion", phantom.lesion), ("tumor", phantom.tumor)):
        if where.any():
            maps[f"desc-{name}_mask"] = (where, {"Type": "Lesion"})
    files = []
    for name, (values, metadata) in maps.items():
        files.append(_image(folder / f"sub-{subject}_{name}.nii.gz", values, phantom))
        files.append(_json(folder / f"sub-{subject}_{name}.json", metadata))
    description = {
        "Name": "Virtual volunteers: truth",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "aslpinn", "Version": __version__}],
    }
    files.append(_json(root / "dataset_description.json", description))
    files.append(_text(root / ".bidsignore", _TRUTH_IGNORE))
    return files


def _image(file: Path, values: NDArray[Any], phantom: Phantom, time_unit: str = "unknown") -> Path:
    import nibabel as nib

    kind = np.uint8 if values.dtype == np.bool_ else np.float32
    image = nib.Nifti1Image(values.astype(kind), phantom.affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm", time_unit)
    if values.ndim == 4:
        image.header["pixdim"][4] = 1.0
    nib.save(image, file)  # type: ignore[attr-defined]
    return file


def _json(file: Path, values: dict[str, Any]) -> Path:
    return _text(file, json.dumps(values, indent=2) + "\n")


def _text(file: Path, content: str) -> Path:
    file.write_text(content, encoding="utf-8")
    return file
