"""How the files of the two public data sets become BIDS: what the headers say, and what only the protocol says."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ...errors import InputError

DATASETS: dict[str, tuple[dict[str, Any], str]] = {
    "oxford-mpld": (
        {
            "Name": "Multi-PLD pCASL, 2D EPI, one healthy volunteer",
            "BIDSVersion": "1.10.0",
            "DatasetType": "raw",
            "License": "BSD-2-Clause",
            "Acknowledgements": "Converted with dcm2niix from the DICOM series In/pCASL2Dve of "
            "neurolabusc/dcm_qa_asl at commit 01143b43",
            "ReferencesAndLinks": ["https://github.com/neurolabusc/dcm_qa_asl"],
        },
        "One healthy volunteer, Siemens Prisma 3 T, 2D EPI pCASL: labeling duration 1.4 s, six delays\n"
        "(0.25 to 1.5 s), eight repeats. Volume 0 is the M0 image, by its intensity: the protocol does not say so.\n"
        "Public data of neurolabusc/dcm_qa_asl (BSD-2-Clause, see LICENSE), converted with dcm2niix, de-identified.\n"
        "Background suppression by the protocol: pre-saturation and two inversion pulses, at times not recorded.\n",
    ),
    "asltk-tepcasl": (
        {
            "Name": "Time-encoded (Hadamard-8) pCASL, decoded, a crop of one brain",
            "BIDSVersion": "1.10.0",
            "DatasetType": "raw",
            "License": "MIT",
            "Acknowledgements": "Decoded first-echo series of LOAMRI/asltk "
            "tests/files/pcasl_mte.nii.gz at commit 9ca877e0",
            "ReferencesAndLinks": ["https://github.com/LOAMRI/asltk"],
        },
        "Time-encoded pCASL, already Hadamard-decoded: seven sub-boli (first echo of a multi-echo series) and M0,\n"
        "cut out of one brain. Test data of LOAMRI/asltk (MIT, see LICENSE). Background suppression, repetition time\n"
        "and field strength are not recorded by the source: their values in the sidecars are placeholders.\n",
    ),
}

#: Sidecar fields of dcm2niix that go over unchanged.
_KEPT = (
    "MagneticFieldStrength",
    "Manufacturer",
    "ManufacturersModelName",
    "MRAcquisitionType",
    "PulseSequenceType",
    "EchoTime",
    "FlipAngle",
)


def dicom_to_nifti(folder: Path, out: Path) -> tuple[Path, dict[str, Any]]:
    """Convert one DICOM series with dcm2niix, de-identified (-ba y): the NIfTI file and its sidecar.

    Raises
    ------
    InputError
        Where dcm2niix fails or does not give exactly one image.
    """
    import dcm2niix

    command = [dcm2niix.bin, "-ba", "y", "-b", "y", "-z", "y", "-f", "series", "-o", str(out), str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"{folder}: dcm2niix did not end within 600 s; expected one image") from None
    images = sorted(out.glob("*.nii.gz"))
    if done.returncode != 0 or len(images) != 1:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no output"]
        raise InputError(f"{folder}: dcm2niix made {len(images)} images ({last[0][:120]}); expected one")
    sidecar = json.loads(images[0].with_name("series.json").read_text(encoding="utf-8"))
    return images[0], sidecar


def build_oxford(files: Path, out: Path) -> None:
    """oxford-mpld from its 97 DICOM files: M0, then label and control, the delay varying fastest."""
    perf = out / "sub-01" / "perf"
    perf.mkdir(parents=True)
    scratch = out / ".dicom"
    scratch.mkdir()
    image, header = dicom_to_nifti(files / "In", scratch)
    volumes = int(nib.Nifti1Image.from_filename(image).shape[3])
    delays, repeats = (
        [float(x) for x in header["PostLabelingDelay"]],
        (volumes - 1) // (2 * len(header["PostLabelingDelay"])),
    )
    if 1 + 2 * len(delays) * repeats != volumes:
        raise InputError(
            f"oxford-mpld: dcm2niix gave {volumes} volumes for {len(delays)} delays; expected M0 and pairs"
        )
    shutil.move(image, perf / "sub-01_asl.nii.gz")
    shutil.rmtree(scratch)
    fields = {name: header[name] for name in _KEPT} | {
        "RepetitionTimePreparation": header["RepetitionTime"],
        "SliceTiming": header["SliceTiming"],
        "ArterialSpinLabelingType": "PCASL",
        "PostLabelingDelay": [0.0] + [delay for delay in delays for _ in range(2)] * repeats,
        "LabelingDuration": [0.0] + [header["TagDuration"]] * (volumes - 1),
        "M0Type": "Included",
        "TotalAcquiredPairs": len(delays) * repeats,
        "BackgroundSuppression": True,  # by the protocol; not in the header
        "AcquisitionVoxelSize": header["AcquisitionVoxelSize"],
        "PhaseEncodingDirection": header["PhaseEncodingDirection"],
        "TotalReadoutTime": header["TotalReadoutTime"],
        "EffectiveEchoSpacing": header["EffectiveEchoSpacing"],
        "BackgroundSuppressionNumberPulses": 2,
    }
    _write(perf / "sub-01_asl.json", fields)
    _context(perf, ["m0scan"] + ["label", "control"] * (len(delays) * repeats))


def build_tepcasl(files: Path, out: Path) -> None:
    """asltk-tepcasl: the first echo of each decoded sub-bolus, and M0, on the grid that the source's papers state."""
    perf = out / "sub-01" / "perf"
    perf.mkdir(parents=True)
    echoes = np.asanyarray(nib.Nifti1Image.from_filename(files / "tests/files/pcasl_mte.nii.gz").dataobj)
    m0 = np.asanyarray(nib.Nifti1Image.from_filename(files / "tests/files/m0.nii.gz").dataobj)
    for data, name in ((echoes[..., 0], "asl"), (m0, "m0scan")):
        # Upstream's header holds no voxel size; 3 x 3 x 6 mm is the acquisition's.
        image = nib.Nifti1Image(np.ascontiguousarray(data), np.diag([3.0, 3.0, 6.0, 1.0]))
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, perf / f"sub-01_{name}.nii.gz")
    common = {
        "MagneticFieldStrength": 3,
        "MRAcquisitionType": "3D",
        "EchoTime": 0.01356,
        "RepetitionTimePreparation": 0,
    }
    fields = common | {
        "ArterialSpinLabelingType": "PCASL",
        "PostLabelingDelay": [0.17, 0.27, 0.37, 0.52, 0.67, 1.07, 1.87],
        "LabelingDuration": [0.1, 0.1, 0.15, 0.15, 0.4, 0.8, 1.8],
        "M0Type": "Separate",
        "TotalAcquiredPairs": 1,
        "BackgroundSuppression": False,
    }
    _write(perf / "sub-01_asl.json", fields)
    _write(perf / "sub-01_m0scan.json", common | {"IntendedFor": "bids::sub-01/perf/sub-01_asl.nii.gz"})
    _context(perf, ["deltam"] * echoes.shape[3])


def _write(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _context(perf: Path, types: list[str]) -> None:
    (perf / "sub-01_aslcontext.tsv").write_text("\n".join(["volume_type", *types]) + "\n", encoding="utf-8")
