"""Where the default loses: one half of the repeats predicts the other, on unkind phantoms and on real series.

    python benchmarks/unkind.py [--data NAME=ASL_FILE ...] [--only NAME ...] [--out FILE]

Each phantom of `aslpinn.data.phantom.unkind`, with a lesion, and each BIDS series given, is split into its odd and its
even repeats. Every estimator is given one half and predicts the mean of the other; "half" is the given half itself, and
"field-white" the field with the T1 of white matter as that of tissue. A row holds the RMSE over the mask in units of
M0b, and for phantoms the correlation with the truth and the share of voxels whose 95 % interval holds it in gray and
white matter, in the lesion, and within 6 mm of its border. A row is written as its fit ends; a run that was stopped
goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from resumable import append, begin
from scipy.ndimage import distance_transform_edt

from aslpinn import Estimate, fit, load_subject
from aslpinn.data.phantom.simulate import Phantom
from aslpinn.data.phantom.unkind import T1_WHITE, UNKIND, unkind

ESTIMATORS = ("field", "nlls", "smoothed")
COLUMNS = (
    "data", "seed", "direction", "estimator", "held_out", "cbf_pcc", "att_pcc",
    *(f"{name}_{region}_held" for name in ("cbf", "att") for region in ("gm", "wm", "lesion", "rim")),
)  # fmt: skip
TSNR, LIKELY = 1.5, 1.96  # of the phantoms; SDs on either side of a 95 % interval
PURE = 0.8  # partial volume from which a voxel is of one tissue
RIM = 6.0  # mm on either side of the lesion's border


class Case:
    """A series with its mask, timing, guide, and the phantom that it is of, if any."""

    def __init__(self, name: str, source: Phantom | Any) -> None:
        self.name, self.truth = name, source if isinstance(source, Phantom) else None
        self.series, self.mask, self.acquisition = source.series, source.mask, source.acquisition
        self.voxel_size, self.guide = source.voxel_size, source.m0 if self.truth else source.guide

    def halves(self, direction: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Volumes to fit and to predict."""
        _, pair = self.acquisition.distinct
        turn = np.array([np.sum(pair[:k] == pair[k]) for k in range(len(pair))])
        return np.flatnonzero(turn % 2 == direction), np.flatnonzero(turn % 2 != direction)

    def rows(self, direction: int, estimators: Sequence[str]) -> Iterator[dict[str, Any]]:
        """One row an estimator."""
        given, kept = self.halves(direction)
        timing, other = (self.acquisition.select(volumes) for volumes in (given, kept))
        if not np.array_equal(timing.distinct[0].post_labeling_delay, other.distinct[0].post_labeling_delay):
            raise SystemExit(f"{self.name}: the halves have other delays; expected an even number of repeats of each")
        inside = self.series[self.mask]
        target = other.mean_over_repeats(inside[:, kept])
        for name in estimators:
            if name == "half":
                predicted, estimate = timing.mean_over_repeats(inside[:, given]), None
            else:
                white, method = name == "field-white", name.removesuffix("-white")
                constants = replace(timing.constants, t1_tissue=T1_WHITE) if white else timing.constants
                estimate = fit(
                    self.series[..., given], self.mask, timing.with_constants(constants), estimator=method,
                    voxel_size=self.voxel_size, guide=self.guide if method == "field" else None,
                )  # fmt: skip
                predicted = estimate.fitted[self.mask]
            row = {"held_out": float(np.sqrt(np.mean((predicted - target) ** 2)))}
            yield row | {"direction": direction, "estimator": name} | self.against_truth(estimate)

    def against_truth(self, estimate: Estimate | None) -> dict[str, float]:
        """What a phantom tells beside the held-out error."""
        truth = self.truth
        if truth is None or estimate is None:
            return {}
        found: dict[str, float] = {}
        where = self.regions(truth)
        for name in ("cbf", "att"):
            true, own, sd = (
                getattr(*at)[self.mask] for at in ((truth, name), (estimate, name), (estimate, f"{name}_sd"))
            )
            found[f"{name}_pcc"] = float(np.corrcoef(true, own)[0, 1])
            holds = np.abs(own - true) < LIKELY * sd
            found |= {f"{name}_{region}_held": float(holds[inside].mean()) for region, inside in where.items()}
        return found

    def regions(self, truth: Phantom) -> dict[str, NDArray[np.bool_]]:
        """Voxels (N,) of the mask that are nearly pure gray and white matter, of the lesion, and of its rim."""
        lesion, size = truth.lesion, self.voxel_size
        away = np.where(lesion, distance_transform_edt(lesion, size), distance_transform_edt(~lesion, size))
        found = {"gm": truth.gm > PURE, "wm": truth.wm > PURE, "lesion": lesion, "rim": away <= RIM}
        return {region: inside[self.mask] for region, inside in found.items()}


def main() -> None:
    """Fit what the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=[], metavar="NAME=ASL_FILE", help="BIDS series, and their names")
    parser.add_argument("--only", nargs="*", help="names of phantoms and data")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms")
    parser.add_argument("--voxel-size", type=float, nargs=3, default=(3.0, 3.0, 7.0), help="of the phantoms, mm")
    parser.add_argument("--estimators", nargs="*", default=[*ESTIMATORS, "half"])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"), help="the CSV file")
    arguments = parser.parse_args()
    given = dict(item.split("=", 1) for item in arguments.data)
    there = begin(arguments.out, COLUMNS, COLUMNS[:4])
    for name in arguments.only or [*UNKIND, *given]:
        seed = 0 if name in given else arguments.seed
        wanted = [*arguments.estimators, *(["field-white"] if name == "tissue-t1" else [])]
        lacking = {
            direction: [e for e in wanted if (name, str(seed), str(direction), e) not in there] for direction in (0, 1)
        }
        if not any(lacking.values()):
            continue
        if name in given:
            case = Case(name, load_subject(given[name], motion="off"))
        else:
            case = Case(name, unkind(name, TSNR, seed, lesion=True, voxel_size=tuple(arguments.voxel_size)))
        for direction, estimators in lacking.items():
            for row in case.rows(direction, estimators):
                append(arguments.out, COLUMNS, [row | {"data": name, "seed": seed}], digits=5)
                print(f"{name} {direction} {row['estimator']}: {1e3 * row['held_out']:.4f}e-3", flush=True)


if __name__ == "__main__":
    main()
