"""Bias of CBF of gray and of white matter by tissue share: without a correction, with `--pvc linear` and `--pvc field`.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/partial_volume.py [--seeds N] [--out FILE]

Two phantoms are fitted by estimator field with several seeds of noise: "one T1" has the T1 of gray matter in all
tissue, and its fit is told so; in "two T1" label that white matter takes up decays with a T1 of 0.85 s, and the field
with tissues apart takes that for 0.83 s, its default ("field"), or for that of gray matter ("field, one T1"). A row
holds, for voxels of a phantom in which a tissue's share lies in a bin, the bias in percent of the tissue's true CBF and
how many of the 95 % intervals hold the truth. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from resumable import append, begin

from aslpinn import Acquisition, Estimate, fit, simulate
from aslpinn.data.phantom.simulate import Phantom
from aslpinn.data.phantom.unkind import T1_WHITE
from aslpinn.maps.partial_volume import corrected
from aslpinn.physics import delta_m

COLUMNS = ("phantom", "seed", "method", "tissue", "low", "high", "voxels", "bias", "held")
VOXEL_SIZE, TSNR, LIKELY = (3.0, 3.0, 7.0), 1.5, 1.96  # mm; of one volume; SDs on either side of a 95 % interval
BINS = (0.2, 0.35, 0.5, 0.65, 0.8, 1.0)  # of a tissue's share

Float = NDArray[np.floating]


def truths(phantom: Phantom) -> dict[str, Float]:
    """CBF of either tissue: that of the phantom is both, by their shares, times one smooth level for both."""
    known = phantom.mask & (phantom.gm + phantom.wm > 0.5)
    shares = np.stack([phantom.gm, phantom.wm], axis=-1).astype(float)
    cbf = np.linalg.lstsq(shares[known], phantom.cbf[known], rcond=None)[0]
    level = phantom.cbf / np.maximum(shares @ cbf, 1e-3)
    return {"gm": cbf[0] * level, "wm": cbf[1] * level}


def two_t1(phantom: Phantom) -> Phantom:
    """A phantom whose white matter has a T1 of its own, for the part of a voxel's signal that flows into it."""
    truth, acquisition, inside = truths(phantom), phantom.acquisition, phantom.mask
    part = phantom.wm * truth["wm"] / np.maximum(phantom.gm * truth["gm"] + phantom.wm * truth["wm"], 1e-3)
    cbf, att, part = (values[inside][:, None] for values in (phantom.cbf, phantom.att, part))
    pld, tau = acquisition.pld_at(np.argwhere(inside)), acquisition.labeling_duration
    gray, white = (
        delta_m(cbf, att, pld, tau, replace(acquisition.constants, t1_tissue=t1))
        for t1 in (acquisition.constants.t1_tissue, T1_WHITE)
    )
    series = phantom.series.copy()
    series[inside] += (part * (white - gray)).astype(np.float32)
    return replace(phantom, series=series)


def found(phantom: Phantom, seed: int, t1_white: float | None) -> tuple[SimpleNamespace, Estimate]:
    """The subject that a phantom is, and its fit with a T1 of white matter (None: the default)."""
    timing = phantom.acquisition
    if t1_white is not None:
        constants = replace(timing.constants, t1_white=t1_white)
        timing = Acquisition(timing.labeling_duration, timing.post_labeling_delay, constants=constants)
    tissue = {"gm": phantom.gm, "wm": phantom.wm}
    estimate = fit(
        phantom.series, phantom.mask, timing, voxel_size=VOXEL_SIZE, guide=phantom.m0, tissue=tissue, seed=seed
    )
    return SimpleNamespace(tissue=tissue, mask=phantom.mask, relative=False, acquisition=timing), estimate


def maps(person: Any, estimate: Estimate, method: str) -> dict[str, tuple[Float, Float]]:
    """CBF of either tissue and its SD as a method gives them."""
    if method == "none":
        return dict.fromkeys(("gm", "wm"), (estimate.cbf, estimate.cbf_sd))
    made = corrected(person, estimate, method.split(",")[0])
    return {
        tissue: (made[f"label-{tissue.upper()}_desc-pvc_cbf"][0], made[f"label-{tissue.upper()}_desc-pvcsd_cbf"][0])
        for tissue in ("gm", "wm")
    }


def rows(name: str, seed: int) -> Iterator[dict[str, Any]]:
    """One row a method, tissue and bin, of one phantom."""
    made = simulate(tsnr=TSNR, seed=seed, voxel_size=VOXEL_SIZE)
    if name == "two T1":
        made = two_t1(made)
    one_t1, all_ways = made.acquisition.constants.t1_tissue, ("none", "linear", "field")
    if name == "one T1":
        fits = {all_ways: found(made, seed, one_t1)}
    else:
        fits = {all_ways: found(made, seed, None), ("field, one T1",): found(made, seed, one_t1)}
    truth = truths(made)
    for methods, (person, estimate) in fits.items():
        for method in methods:
            for tissue, (cbf, sd) in maps(person, estimate, method).items():
                share = getattr(made, tissue)
                for low, high in pairwise(BINS):
                    here = made.mask & (share >= low) & (share < high + (high == 1.0)) & (cbf != 0)
                    error = (cbf - truth[tissue])[here]
                    yield {
                        "phantom": name, "seed": seed, "method": method, "tissue": tissue, "low": low, "high": high,
                        "voxels": int(here.sum()), "bias": float(100 * error.mean() / truth[tissue][here].mean()),
                        "held": float(np.mean(np.abs(error) < LIKELY * sd[here])),
                    }  # fmt: skip


def main() -> None:
    """Fit what the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="of the noise")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"), help="the CSV file")
    arguments = parser.parse_args()
    there = begin(arguments.out, COLUMNS, ("phantom", "seed"))
    for seed in range(arguments.seeds):
        for name in ("one T1", "two T1"):
            if (name, str(seed)) in there:
                continue
            done = list(rows(name, seed))
            append(arguments.out, COLUMNS, done, 4)
            print(f"{name}, seed {seed}: {len(done)} rows", flush=True)


if __name__ == "__main__":
    main()
