"""One delay of a multi-delay series, as a data set of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np


def one_delay(asl: Path, out: Path, delay: float = 1.5, repeats: int | None = None) -> Path:
    """Write the volumes of one delay (s) of an ASL series, M0 included in it kept, as a BIDS data set at out."""
    stem = asl.name.removesuffix("_asl.nii.gz")
    sidecar = json.loads(asl.with_name(f"{stem}_asl.json").read_text())
    types = asl.with_name(f"{stem}_aslcontext.tsv").read_text().split()[1:]
    delays = np.array(sidecar["PostLabelingDelay"])
    kept = [k for k, word in enumerate(types) if word == "m0scan" or abs(delays[k] - delay) < 1e-6]
    if repeats is not None:
        first = sum(types[k] == "m0scan" for k in kept)
        kept = kept[: first + 2 * repeats]
    for name in ("PostLabelingDelay", "LabelingDuration"):
        if isinstance(sidecar[name], list):
            sidecar[name] = [sidecar[name][k] for k in kept]
    sidecar["TotalAcquiredPairs"] = sum(types[k] in ("label", "deltam") for k in kept)
    perf = out / "sub-01" / "perf"
    perf.mkdir(parents=True)
    (out / "dataset_description.json").write_text('{"Name": "one delay", "BIDSVersion": "1.10.0"}')
    for file in asl.parent.glob(f"{stem}_m0scan.*"):
        shutil.copy(file, perf / file.name.replace(stem, "sub-01"))
    image = nib.load(asl)
    data = np.asarray(image.dataobj)[..., kept]
    nib.save(nib.Nifti1Image(data, image.affine, image.header), perf / "sub-01_asl.nii.gz")
    (perf / "sub-01_asl.json").write_text(json.dumps(sidecar))
    (perf / "sub-01_aslcontext.tsv").write_text("volume_type\n" + "".join(f"{types[k]}\n" for k in kept))
    return perf / "sub-01_asl.nii.gz"
