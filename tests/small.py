"""A small subject of uniform perfusion, which tests write, spoil and read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from aslpinn.physics import Constants, delta_m, hadamard

SHAPE = (10, 10, 6)
AFFINE = np.diag([3.0, 3.0, 5.0, 1.0])
CBF, ATT, M0 = 60.0, 1.1, 1000.0
DELAYS = [0.4, 0.8, 1.2, 1.6, 2.0]
SUBBOLI = [0.5] * 7


def encode_series(
    deltam: np.ndarray,
    static: np.ndarray,
    matrix: np.ndarray,
    noise_sd: float = 0.0,
    repeats: int = 1,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Encoded volumes of a clean delta-M, as a scanner with this matrix would give them.

    Parameters
    ----------
    deltam : (X, Y, Z, K) array
        delta-M of each sub-bolus in order of labeling.
    static : (X, Y, Z) array
        Signal of an all-control volume, same unit.
    matrix : (N, K) array
        +1 control, -1 label.
    noise_sd : float
        SD of the noise of one decoded repeat, same unit; an encoded volume gets sqrt(N) / 2 times as much.
    repeats : int
        Number R of repeats, each with its own noise.

    Returns
    -------
    (X, Y, Z, R * N) array
    """
    clean = hadamard.encode(deltam, matrix, static)
    series = np.tile(clean, (1, 1, 1, repeats))
    if noise_sd > 0:
        generator = rng if rng is not None else np.random.default_rng(0)
        series = series + generator.normal(scale=noise_sd * np.sqrt(clean.shape[-1]) / 2.0, size=series.shape)
    return series


def brain() -> np.ndarray:
    grid = np.indices(SHAPE).reshape(3, -1).T - (np.array(SHAPE) - 1) / 2
    return ((grid / (0.48 * np.array(SHAPE))) ** 2).sum(axis=1).reshape(SHAPE) < 1


def put(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(data, dtype=np.float32), affine), path)


class Series:
    """A subject of uniform perfusion whose files a test may spoil before `write`."""

    def __init__(self, root: Path, kind: str = "deltam", name: str = "sub-01", folder: str = "sub-01/perf") -> None:
        self.root, self.perf, self.name = root, root / folder, name
        self.brain = brain()
        constants = Constants()
        scale = M0 / constants.partition_coefficient
        self.sidecar: dict[str, Any] = {
            "ArterialSpinLabelingType": "PCASL",
            "MRAcquisitionType": "3D",
            "M0Type": "Separate",
            "BackgroundSuppression": False,
            "RepetitionTimePreparation": 5.0,
        }
        inside = self.brain[..., None]
        if kind == "encoded":
            tau = np.array(SUBBOLI)
            pld = hadamard.effective_delays(tau, 0.1)
            # Two tissues, so that the mean curve is that of a brain.
            clean = np.mean([delta_m(c, a, pld, tau) for c, a in ((70.0, 0.9), (50.0, 1.3))], axis=0)
            volumes = hadamard.encode(clean * scale, hadamard.matrix("Hadamard", 8), np.array(500.0))
            self.types = ["n/a"] * 8
            self.sidecar |= {"LabelingDuration": SUBBOLI, "PostLabelingDelay": 0.1}
            self.sidecar |= {"TimeEncodedMatrixSize": 8, "TimeEncodedMatrixType": "Hadamard"}
        else:
            volumes = delta_m(CBF, ATT, np.array(DELAYS), np.full(len(DELAYS), 1.8)) * scale
            pld = list(DELAYS)
            self.types = ["deltam"] * len(DELAYS)
            if kind == "pairs":
                volumes = np.stack([np.full(len(DELAYS), 500.0), 500.0 - volumes], axis=1).ravel()
                self.types = ["control", "label"] * len(DELAYS)
                pld = [delay for delay in DELAYS for _ in range(2)]
            self.sidecar |= {"LabelingDuration": 1.8, "PostLabelingDelay": pld}
        self.data = np.where(inside, volumes, 0.0)
        self.m0 = np.where(self.brain, M0, 0.0)
        self.m0_affine, self.m0_sidecar = AFFINE, {"RepetitionTimePreparation": 6.0}

    @property
    def asl(self) -> Path:
        return self.perf / f"{self.name}_asl.nii.gz"

    def write(self) -> Path:
        put(self.asl, self.data)
        put(self.perf / f"{self.name}_m0scan.nii.gz", self.m0, self.m0_affine)
        (self.perf / f"{self.name}_asl.json").write_text(json.dumps(self.sidecar))
        (self.perf / f"{self.name}_m0scan.json").write_text(json.dumps(self.m0_sidecar))
        (self.perf / f"{self.name}_aslcontext.tsv").write_text("\n".join(["volume_type", *self.types]) + "\n")
        (self.root / "dataset_description.json").write_text('{"Name": "t", "BIDSVersion": "1.10.0"}')
        return self.asl
