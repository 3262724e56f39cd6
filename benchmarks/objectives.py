"""Which objective preset default of pinn should have: the error of samples held out, for each objective and data set.

    OMP_NUM_THREADS=1 python benchmarks/objectives.py                                    # the phantoms
    OMP_NUM_THREADS=1 python benchmarks/objectives.py --data oxford-mpld=PATH_asl.nii.gz # and real series
    OMP_NUM_THREADS=1 python benchmarks/objectives.py --data oxford-mpld=PATH_asl.nii.gz --trainings

Preset default with the closed form, increments, and the pointwise loss in both readings. The strength of the weight
decay by level is chosen as in every fit (`choose_decay`): a tenth of the samples is kept out of the loss of short
trainings, and predicted by Buxton's solution with the maps found. No truth is looked at. The objective is then chosen
once, for all data: rows of benchmarks/objectives.csv have the error of each strength that was tried, in units of the
signals' 99.5th percentile. What the file lacks is trained; the phantoms have 6 x 6 x 7 mm and a seed of their own.

--trainings trains the objectives on the real series, on the phantom that is sampled as it is and on a time-encoded one,
in the ways of TRAININGS, each from several seeds, with one strength of the decay. Rows of
benchmarks/objectives-trainings.csv have the held-out error after the last epoch, that of the best epoch, and the share
of voxels whose ATT lies past the last sample, where Buxton's solution is zero.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from resumable import append, begin

from aslpinn import load_subject, simulate
from aslpinn.estimation import prepare
from aslpinn.estimation.networks.config import PRESETS
from aslpinn.estimation.networks.fit import MEMBER_SEEDS, TRIAL_EPOCHS, TRIAL_HELD_OUT, Members, choose_decay, engine_of
from aslpinn.estimation.networks.train import Samples, train
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
SLOW = {"epochs": 30, "lr": 3e-3}
FIRM = SLOW | {"lambda_physics": 10.0}
#: Ways to train an objective: as in the trials of the decay; longer at a third of the learning rate; and with 20 times
#: the weight of the physics; and with that without decay, without the initial condition, four times as long, or as long
#: with a weight that grows to it.
TRAININGS: dict[str, dict[str, Any]] = {
    "trial": {"epochs": TRIAL_EPOCHS},
    "slower": SLOW,
    "slower, firm physics": FIRM,
    "the same without decay": FIRM | {"level_decay": 0.0},
    "the same from the first sample on": FIRM | {"initial_condition": "off"},
    "the same, four times as long": FIRM | {"epochs": 120},
    "as long, physics growing firm": FIRM | {"epochs": 120, "from": PRESETS["default"].lambda_physics},
}
OF_THE_PHYSICS = {"initial_condition", "from"}  # settings without which the closed form has been trained before
GROWING = 0.8  # share of the epochs in which a weight grows, by the same factor in each
TRAINING_SEEDS, DECAY = (SEED * MEMBER_SEEDS, 1, 2), 3.0  # the first one is that of the trials
TRAINING_PHANTOMS = (("mpld6", 1.5), ("te11-t1adjusted", 1.5))
TRAINING_COLUMNS = ("data", "objective", "training", "seed", "held_out", "best", "past")
DIGITS = 6


def data_sets(real: list[str], phantoms: Iterable[tuple[str, float]]) -> Iterator[tuple[str, Problem, Request]]:
    """Name, problem and request of every data set."""
    for one in real:
        name, path = one.split("=", 1)
        subject = load_subject(path, motion="off")
        request = Request(subject.voxel_size, subject.guide)
        yield name, prepare(subject.series, subject.mask, subject.acquisition), request
    for protocol, tsnr in phantoms:
        made = simulate(protocol, tsnr=tsnr, seed=SEED, voxel_size=VOXEL_SIZE)
        problem = prepare(made.series, made.mask, made.acquisition)
        yield f"phantom, {protocol}, tSNR {tsnr:g}", problem, Request(VOXEL_SIZE)


def trained(problem: Problem, request: Request, settings: dict[str, Any]) -> dict[str, float]:
    """Held-out error after the last epoch and that of the best; share of voxels whose ATT is past the last sample.

    "from" among the settings: the weight of the physics begins there, and has grown after GROWING of the epochs.
    """
    begins = settings.pop("from", None)
    config = PRESETS["default"].changed(**{"level_decay": DECAY, "held_out": TRIAL_HELD_OUT, "members": 1} | settings)
    samples = Samples.of(problem, request.voxel_size, config, request.guide)
    engine: Any = engine_of(samples, config, [config.seed])
    final = config.lambda_physics
    begins = final if begins is None else begins

    def weigh(epoch: int, _: Any = None) -> None:
        share = min((epoch + 1) / (GROWING * config.epochs), 1.0)
        engine.config = config.changed(lambda_physics=begins * (final / begins) ** share)

    weigh(-1)
    (one,) = train(engine, samples, config, weigh)
    errors = one.history.losses["held-out"]
    past = engine.maps()[1][0] > problem.acquisition.time.max()
    return {"held_out": errors[-1], "best": min(errors), "past": float(np.mean(past))}


def write_trainings(real: list[str]) -> None:
    """Train what benchmarks/objectives-trainings.csv lacks."""
    out = OUT.with_name("objectives-trainings.csv")
    known = TRAINING_COLUMNS[:4]
    done = begin(out, TRAINING_COLUMNS, known)
    for name, problem, request in data_sets(real, TRAINING_PHANTOMS):
        for seed, (training, way), (objective, loss) in product(TRAINING_SEEDS, TRAININGS.items(), OBJECTIVES.items()):
            row = dict(zip(known, (name, objective, training, str(seed)), strict=True))
            if tuple(row.values()) in done or (objective == "closed form" and way.keys() & OF_THE_PHYSICS):
                continue
            found = trained(problem, request, {"seed": seed} | loss | way)
            append(out, TRAINING_COLUMNS, [row | found], DIGITS)
            print(row, {key: round(value, 4) for key, value in found.items()}, flush=True)


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[], metavar="NAME=ASL", help="a real series; repeatable")
    parser.add_argument("--trainings", action="store_true", help="train the real series in several ways")
    arguments = parser.parse_args()
    if arguments.trainings:
        write_trainings(arguments.data)
        return
    done = begin(OUT, COLUMNS, COLUMNS[:2])
    for name, problem, request in data_sets(arguments.data, product(PROTOCOLS, TSNR)):
        for objective, settings in OBJECTIVES.items():
            if (name, objective) in done:
                continue
            members = Members(request, PRESETS["default"].changed(seed=SEED, **settings))
            found = sorted(choose_decay(problem, request, members)[1].items())
            rows = [dict(zip(COLUMNS, (name, objective, *pair), strict=True)) for pair in found]
            append(OUT, COLUMNS, rows, DIGITS)
            print(name, objective, {strength: round(error, 5) for strength, error in found}, flush=True)


if __name__ == "__main__":
    main()
