"""Accuracy of the default estimator on a reference phantom, over noise seeds: python benchmarks/multiscale.py FOLDER.

FOLDER holds cbf, att, m0, gm, wm, mask and deltam_clean as NIfTI and params.json (tau, pld, noise_sd by tSNR). Prints a
line for each tSNR, with and without M0 (2 % noise) as the guide: mean and SD over seeds of PCC and SSIM in the mask,
relative bias and 95 % coverage in gray and white matter (partial volume above 0.7), and processor seconds.
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
from aslpinn.report import metrics


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
    return values


def main() -> None:
    """Fit all combinations and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    load = lambda name: np.asarray(nib.load(arguments.folder / f"{name}.nii.gz").dataobj, dtype=float)  # noqa: E731
    timing = json.loads((arguments.folder / "params.json").read_text())
    truth = {name: load(name) for name in ("cbf", "att", "gm", "wm", "m0")}
    mask, clean = load("mask") > 0, load("deltam_clean")
    acquisition = Acquisition(timing["tau"], timing["pld"])
    for tsnr, sd in timing["noise_sd"].items():
        for guided in (False, True):
            rows = []
            for seed in range(arguments.seeds):
                rng = np.random.default_rng(seed)
                series = clean + sd * rng.standard_normal(clean.shape)
                guide = truth["m0"] * (1 + 0.02 * rng.standard_normal(mask.shape)) if guided else None
                begun = time.process_time()
                estimate = fit(series, mask, acquisition, voxel_size=(3, 3, 7), guide=guide)
                rows.append(score(estimate, truth, mask) | {"CPU s": time.process_time() - begun})
            cells = [
                f"{name} {np.mean([row[name] for row in rows]):.3f} ± {np.std([row[name] for row in rows]):.3f}"
                for name in rows[0]
            ]
            print(f"tSNR {tsnr}, {'guide' if guided else 'no guide'}: " + "; ".join(cells), flush=True)


if __name__ == "__main__":
    main()
