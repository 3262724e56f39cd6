"""Which objective preset default of pinn should have: the error of samples held out, for each objective and data set.

    OMP_NUM_THREADS=1 python benchmarks/objectives.py                                    # the phantoms
    OMP_NUM_THREADS=1 python benchmarks/objectives.py --data oxford-mpld=PATH_asl.nii.gz # and real series

Preset default with the closed form, increments, and the pointwise loss in both readings. The strength of the weight
decay by level is chosen as in every fit (`choose_decay`): a tenth of the samples is kept out of the loss of short
trainings, and predicted by Buxton's solution with the maps found. No truth is looked at. The objective is then chosen
once, for all data: rows of benchmarks/objectives.csv have the error of each strength that was tried, in units of the
signals' 99.5th percentile. What the file lacks is trained; the phantoms have 6 x 6 x 7 mm and a seed of their own.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

from aslpinn import load_subject, simulate
from aslpinn.estimation import prepare
from aslpinn.estimation.networks.config import PRESETS
from aslpinn.estimation.networks.fit import Members, choose_decay
from aslpinn.estimation.problem import Problem, Request

OUT = Path(__file__).with_suffix(".csv")
OBJECTIVES = {
    "closed form": {"objective": "closed-form"},
    "increments": {"objective": "increments"},
    "pointwise, ODE": {"objective": "pointwise", "reading": "ode"},
    "pointwise, dS/dt": {"objective": "pointwise", "reading": "derivative"},
}
PROTOCOLS, TSNR, SEED = ("te11-t1adjusted", "mpld6"), (1.5, 0.5), 21
VOXEL_SIZE = (6.0, 6.0, 7.0)
COLUMNS = ("data", "objective", "level_decay", "held_out")


def data_sets(real: list[str]) -> Iterator[tuple[str, Problem, Request]]:
    """Name, problem and request of every data set."""
    for one in real:
        name, path = one.split("=", 1)
        subject = load_subject(path, motion="off")
        request = Request(subject.voxel_size, subject.guide)
        yield name, prepare(subject.series, subject.mask, subject.acquisition), request
    for protocol in PROTOCOLS:
        for tsnr in TSNR:
            made = simulate(protocol, tsnr=tsnr, seed=SEED, voxel_size=VOXEL_SIZE)
            problem = prepare(made.series, made.mask, made.acquisition)
            yield f"phantom, {protocol}, tSNR {tsnr:g}", problem, Request(VOXEL_SIZE)


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[], metavar="NAME=ASL", help="a real series; repeatable")
    arguments = parser.parse_args()
    done = set()
    if OUT.exists():
        with OUT.open(newline="", encoding="utf-8") as stream:
            done = {(row["data"], row["objective"]) for row in csv.DictReader(stream)}
    with OUT.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if not done:
            writer.writeheader()
        for name, problem, request in data_sets(arguments.data):
            for objective, settings in OBJECTIVES.items():
                if (name, objective) in done:
                    continue
                members = Members(request, PRESETS["default"].changed(seed=SEED, **settings))
                for strength, error in sorted(choose_decay(problem, request, members).items()):
                    row = {"data": name, "objective": objective, "level_decay": f"{strength:g}"}
                    writer.writerow(row | {"held_out": f"{error:.6f}"})
                    print(name, objective, strength, round(error, 5), flush=True)
                stream.flush()


if __name__ == "__main__":
    main()
