"""How often the 95 % interval of a region's mean holds the truth, over draws of the phantom's noise.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/regions.py [--draws N] [--out FILE]

Each draw of the noise is fitted by estimator field as `aslpinn fit` does, with tissue maps and M0, in both ways that
tables by region have: "one step" of the model of two tissues, as without further options, and the "whole" of it, as
with --atlas or --pvc field. A row holds, for one draw, way, kind of region and map: the number of regions, of how many
the mean +- 1.96 SD holds the true mean, the same without the bias that the table tells (taken from the mean and from
its SD), and root mean squares of the error and of the SD. Rows are written as their fit ends; a run that was stopped
goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from resumable import append, begin

from aslpinn import fit, simulate
from aslpinn.data.phantom.simulate import Phantom
from aslpinn.maps.regions import bias_of_mean, sd_of_mean, tissue_parcellation

COLUMNS = ("way", "seed", "kind", "map", "regions", "held", "held_without_bias", "rms_error", "rms_sd")
WAYS = {"one step": False, "whole": True}
VOXEL_SIZE, TSNR, LIKELY = (7.0, 7.0, 8.0), 1.5, 1.96  # mm; of one volume; SDs on either side of a 95 % interval
LEAST = 8  # voxels of a region

Mask = NDArray[np.bool_]


def regions_of(phantom: Phantom) -> dict[str, list[Mask]]:
    """Kind of region -> its regions: those of every table, cubes of two sizes, and gray matter inside the larger."""
    tissue = {"gm": phantom.gm, "wm": phantom.wm}
    person: Any = SimpleNamespace(mask=phantom.mask, affine=phantom.affine, tissue=tissue, provenance={})
    named = {region.name: region.voxels for region in tissue_parcellation(person).regions}
    found = {
        "brain": [named["brain"]],
        "hemispheres": [named[f"{side} hemisphere"] for side in ("left", "right")],
        "gray matter": [named[name] for name in ("GM", "GM left", "GM right")],
        "white matter": [named[name] for name in ("WM", "WM left", "WM right")],
    }
    for edge in (40.0, 20.0):
        at = np.indices(phantom.mask.shape) * np.array(phantom.voxel_size).reshape(3, 1, 1, 1) // edge
        label = np.where(phantom.mask, 1 + at[0] + 100 * at[1] + 10_000 * at[2], 0)
        cubes = [label == k for k in np.unique(label[label > 0])]
        found[f"cubes of {edge:g} mm"] = cubes
        if edge == 40.0:
            found["gray matter of these cubes"] = [cube & (phantom.gm > 0.5) for cube in cubes]
    return {kind: [mask for mask in masks if mask.sum() >= LEAST] for kind, masks in found.items()}


def rows(way: str, seed: int) -> Iterator[dict[str, Any]]:
    """One row a kind of region and map, of one draw."""
    made = simulate(tsnr=TSNR, seed=seed, voxel_size=VOXEL_SIZE)
    found = fit(
        made.series, made.mask, made.acquisition, voxel_size=VOXEL_SIZE, guide=made.m0, seed=seed,
        tissue={"gm": made.gm, "wm": made.wm}, apart=WAYS[way],
    )  # fmt: skip
    for kind, masks in regions_of(made).items():
        sds = np.array([sd_of_mean(found, made.mask, mask) for mask in masks])
        biases = np.array([bias_of_mean(found, made.mask, mask) for mask in masks])
        by_chance = np.sqrt(np.maximum(sds**2 - biases**2, 0))
        for k, name in enumerate(("cbf", "att")):
            error = np.array([(getattr(found, name) - getattr(made, name))[mask].mean(dtype=float) for mask in masks])
            yield {
                "way": way, "seed": seed, "kind": kind, "map": name, "regions": len(masks),
                "held": int((np.abs(error) < LIKELY * sds[:, k]).sum()),
                "held_without_bias": int((np.abs(error - biases[:, k]) < LIKELY * by_chance[:, k]).sum()),
                "rms_error": float(np.sqrt(np.mean(error**2))), "rms_sd": float(np.sqrt(np.mean(sds[:, k] ** 2))),
            }  # fmt: skip


def main() -> None:
    """Fit what the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=50, help="draws of the noise")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"), help="the CSV file")
    arguments = parser.parse_args()
    there = begin(arguments.out, COLUMNS, ("way", "seed"))
    for seed in range(arguments.draws):
        for way in WAYS:
            if (way, str(seed)) in there:
                continue
            done = list(rows(way, seed))
            append(arguments.out, COLUMNS, done, 5)
            held, count = (sum(row[key] for row in done) for key in ("held", "regions"))
            print(f"{way} {seed}: {held} of {count}", flush=True)


if __name__ == "__main__":
    main()
