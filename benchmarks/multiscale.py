"""Accuracy of the default estimator on a reference phantom, over noise seeds: python benchmarks/multiscale.py FOLDER.

FOLDER holds cbf, att, m0, gm, wm, mask and deltam_clean as NIfTI and params.json (tau, pld, noise_sd by tSNR). Prints a
line for each tSNR, with and without M0 (2 % noise) as the guide: mean and SD over seeds of PCC and SSIM in the mask,
relative bias and 95 % coverage in gray and white matter (partial volume above 0.7), and processor seconds. With
--lesion I J K R the phantom has a sphere of R mm around voxel (I, J, K) where CBF is 45 % less and ATT 0.9 s more,
and the share of that contrast that is kept is printed too.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from aslpinn import Acquisition, fit
from aslpinn.physics import delta_m
from aslpinn.report import metrics

VOXEL_SIZE = (3.0, 3.0, 7.0)  # mm


def with_lesion(truth: dict[str, Any], mask: Any, acquisition: Acquisition, lesion: list[float]) -> Any:
    """Put a lesion (I, J, K, R) into the truth, and return the signal that it makes."""
    steps = np.indices(mask.shape) - np.array(lesion[:3])[:, None, None, None]
    truth["lesion"] = mask & (np.square(steps * np.array(VOXEL_SIZE)[:, None, None, None]).sum(axis=0) < lesion[3] ** 2)
    truth["cbf"] = np.where(truth["lesion"], 0.55 * truth["cbf"], truth["cbf"])
    truth["att"] = np.where(truth["lesion"], truth["att"] + 0.9, truth["att"])
    timing = acquisition.post_labeling_delay, acquisition.labeling_duration
    inside = np.where(mask, truth["cbf"], 0.0)[..., None], np.where(mask, truth["att"], 1.0)[..., None]
    return delta_m(*inside, *timing)


def score(estimate: Any, truth: dict[str, Any], mask: Any) -> dict[str, float]:
    """Every number of one fit."""
    values: dict[str, float] = {}
    for name in ("cbf", "att"):
        found, sd = getattr(estimate, name), getattr(estimate, f"{name}_sd")
        values[f"{name} PCC"] = metrics.pcc(found, truth[name], mask)
        values[f"{name} SSIM"] = metrics.ssim(found, truth[name], mask)
        for tissue in ("gm", "wm"):
            region = metrics.tissue_region(truth[tissue], mask)
            values[f"{name} bias {tissue} %"] = 100 * metrics.relative_bias(found, truth[name], region)
            values[f"{name} coverage {tissue} %"] = 100 * metrics.coverage(found, sd, truth[name], region)
        if "lesion" in truth:
            values[f"{name} contrast kept"] = metrics.contrast_kept(found, truth[name], truth["lesion"], mask)
    return values


def main() -> None:
    """Fit all combinations and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lesion", type=float, nargs=4, metavar=("I", "J", "K", "R"))
    arguments = parser.parse_args()
    load = lambda name: np.asarray(nib.load(arguments.folder / f"{name}.nii.gz").dataobj, dtype=float)  # noqa: E731
    timing = json.loads((arguments.folder / "params.json").read_text())
    truth = {name: load(name) for name in ("cbf", "att", "gm", "wm", "m0")}
    mask, clean = load("mask") > 0, load("deltam_clean")
    acquisition = Acquisition(timing["tau"], timing["pld"])
    if arguments.lesion:
        clean = with_lesion(truth, mask, acquisition, arguments.lesion)
    for tsnr, sd in timing["noise_sd"].items():
        for guided in (False, True):
            rows = []
            for seed in range(arguments.seeds):
                rng = np.random.default_rng(seed)
                series = clean + sd * rng.standard_normal(clean.shape)
                guide = truth["m0"] * (1 + 0.02 * rng.standard_normal(mask.shape)) if guided else None
                begun = time.process_time()
                estimate = fit(series, mask, acquisition, voxel_size=VOXEL_SIZE, guide=guide)
                rows.append(score(estimate, truth, mask) | {"CPU s": time.process_time() - begun})
            cells = [
                f"{name} {np.mean([row[name] for row in rows]):.3f} ± {np.std([row[name] for row in rows]):.3f}"
                for name in rows[0]
            ]
            print(f"tSNR {tsnr}, {'guide' if guided else 'no guide'}: " + "; ".join(cells), flush=True)


if __name__ == "__main__":
    main()
