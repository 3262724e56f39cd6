"""Estimator "pinn": networks, trained for any objective, one or an ensemble."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import FitError, InputError
from ...physics import ATT_BOUNDS, CBF_BOUNDS
from ..estimate import Estimate
from ..field.likelihood import repeat_noise
from ..mixture import VoxelMixture, VoxelPrior
from ..problem import Floats, Problem, Request
from ..voxelwise import gauss_newton_sd
from .config import PinnOptions
from .rehearsal import Rehearsal
from .train import Engine, Samples, Trained, train

MEMBER_SEEDS = 1009  # seeds of the members: seed * MEMBER_SEEDS + k, so that runs with other seeds share none


#: Strengths of the levels' weight decay that samples held out choose among, and the short trainings that they do it by.
DECAYS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
TRIAL_EPOCHS, TRIAL_HELD_OUT = 12, 0.1


def fit_pinn(problem: Problem, request: Request, config: PinnOptions) -> Estimate:
    """Mean over an ensemble of trained networks; one more is trained for the SDs. Then every voxel is weighed alone.

    See `choose_decay` for what the data decide, `rehearsal` for contrast and SDs, `mixture` for arteries.
    Raises FitError where a loss is not finite or label arrives nowhere, InputError for an arterial part on a dispersed
    bolus.
    """
    began = time.perf_counter()
    if config.arterial == "on" and problem.acquisition.constants.disperses:
        raise InputError("arterial is 'on', and the bolus is dispersed; expected arterial off, or no dispersion")
    members = Members(request, config)
    trials: dict[float, float] = {}
    if config.level_decay is None:
        strength, trials = choose_decay(problem, request, members)
        members.config = config = config.changed(level_decay=strength)
    samples = Samples.of(problem, request.voxel_size, config, request.guide)
    trained = members.train(samples, [config.seed * MEMBER_SEEDS + k for k in range(config.members)])
    maps = np.mean([[one.cbf for one in trained], [one.att for one in trained]], axis=1)
    fitted = problem.model(maps[0], maps[1])
    if not fitted.any():
        raise FitError(
            "the training was lost: ATT of every voxel lies past the last sample, "
            f"{problem.acquisition.time.max():.2f} s after labeling began, where Buxton's solution and its gradient "
            "are zero; try another seed, or objective closed-form"
        )
    noise_sd = problem.noise_sd(fitted, parameters=0)
    found: dict[str, Any] = {}
    if config.members > 1:
        rehearsal = Rehearsal(problem, request.voxel_size, maps, noise_sd, config.seed)
        truth = rehearsal.as_varied(members.again(samples.with_signal(rehearsal.signal(maps))))
        again = members.again(samples.with_signal(rehearsal.signal(truth)))
        maps, (cbf_sd, att_sd), found = rehearsal.judge(truth, again, bool(config.level_decay))
        noise_sd = rehearsal.noise_sd
    else:
        cbf_sd, att_sd = gauss_newton_sd(problem, maps[0], maps[1], noise_sd)  # of a voxel by itself: on the safe side
    info = {
        "history": [{"best_epoch": one.history.best, **one.history.losses} for one in trained],
        "member_seconds": members.seconds[: config.members],
        "noise_sd": noise_sd,
        **found,
        "signal_scale": samples.scale,
        "engine": trained[0].engine,
        "level_decay_trials": {f"{strength:g}": error for strength, error in sorted(trials.items())},
    }
    settings = config.as_dict() | {"initial_condition": "on" if samples.initial else "off"}
    if config.objective == "pointwise":
        settings["edge_width"] = samples.edge_width
    estimate = problem.estimate("pinn", maps[0], maps[1], cbf_sd, att_sd, settings, info)
    if config.arterial != "off" and not problem.acquisition.constants.disperses:
        weigh_voxels(problem, request, estimate, noise_sd, config)
    info["seconds"] = time.perf_counter() - began
    return estimate


def choose_decay(problem: Problem, request: Request, members: Members) -> tuple[float, dict[float, float]]:
    """Strength of the levels' weight decay; and the RMSE of samples held out for as many strengths as it takes.

    One network is trained for a few epochs with each. From the two in the middle on, the next one is tried on the side
    where the error falls. No truth is needed: what follows noise predicts samples that it has not seen worse, and so
    does what is too smooth. The weakest is taken of those that predict as well as the best, to one standard error of
    the difference: what a decay leaves of the noise a rehearsal shows, but not all that it takes of the truth.
    """
    config = members.config
    trial = config.changed(
        epochs=min(config.epochs, TRIAL_EPOCHS), held_out=max(config.held_out, TRIAL_HELD_OUT), members=1
    )
    samples = Samples.of(problem, request.voxel_size, trial, request.guide)
    assert samples.held_out is not None
    kept = samples.held_out[:, : len(problem.tau)]
    squares: dict[float, Floats] = {}

    def error(number: int) -> float:
        strength = DECAYS[number]
        if strength not in squares:
            own = trial.changed(level_decay=strength)
            request.report(len(squares), len(squares) + members.trainings * 2, f"trial of level_decay {strength:g}")
            engine = engine_of(samples, own, [config.seed * MEMBER_SEEDS])
            (one,) = train(engine, samples, own)
            last = [maps[0] for maps in engine.maps()]
            cbf, att = (one.cbf, one.att) if config.held_out else last  # of the epoch whose maps the fit would keep
            squares[strength] = np.square(samples.scale * (problem.signal - problem.model(cbf, att))[kept])
        return rms(squares[strength])

    number = len(DECAYS) // 2
    step = 1 if error(number) < error(number - 1) else -1
    number = number if step > 0 else number - 1
    while 0 <= number + step < len(DECAYS) and error(number + step) < error(number):
        number += step
    return weakest_alike(squares), {strength: rms(values) for strength, values in squares.items()}


def weakest_alike(squares: Mapping[float, Floats]) -> float:
    """The smallest key whose squared errors (M,) have the smallest mean, or exceed it by one standard error at most."""
    best = min(squares.values(), key=rms)

    def alike(strength: float) -> bool:
        worse = squares[strength] - best
        return float(worse.mean()) <= float(worse.std()) / len(worse) ** 0.5

    return min(filter(alike, squares))


def rms(squares: Floats) -> float:
    """Root of a mean."""
    return float(squares.mean(dtype=np.float64)) ** 0.5


def weigh_voxels(problem: Problem, request: Request, estimate: Estimate, noise_sd: float, config: PinnOptions) -> None:
    """Put the voxel mixture (`mixture`) into an estimate, with the networks' maps as what is expected of each voxel."""
    assert estimate.cbf_sd is not None
    assert estimate.att_sd is not None
    inside = tuple(problem.voxels.T)
    maps = ((estimate.cbf, estimate.cbf_sd, CBF_BOUNDS), (estimate.att, estimate.att_sd, ATT_BOUNDS))
    own = np.array([values[inside] for values, _, _ in maps], np.float64)
    variance = np.array([sd[inside] for _, sd, _ in maps], np.float64) ** 2
    noise = repeat_noise(problem, request.voxel_size)
    noise = np.full(len(own[0]), noise_sd**2) if noise is None else noise
    prior = VoxelPrior(
        np.clip(own.T, (1.0, 0.1), (150.0, 3.0)), variance.T.copy(), estimate.fitted[inside].astype(np.float64)
    )
    voxels = VoxelMixture(problem.timing, problem.signal.astype(np.float64), noise, prior, config.arterial, config.seed)
    voxels.learn()
    found = voxels.result()
    means = np.array(found.mixed(own[0], own[1]))
    others = ((found.cbf, found.cbf_variance), (found.att, found.att_variance))
    for k, (values, sd, bounds) in enumerate(maps):
        second = found.stay * (variance[k] + own[k] ** 2) + (1 - found.stay) * (others[k][1] + others[k][0] ** 2)
        values[inside] = means[k].clip(*bounds)
        sd[inside] = np.sqrt(np.maximum(second - means[k] ** 2, 1e-12))
    estimate.fitted = problem.volume(found.fitted)
    if found.artery_share > 0 or config.arterial == "on":
        estimate.abv = problem.volume(found.abv)
    estimate.info |= {"artery_share": found.artery_share, "abv_sd": found.abv_sd}


class Members:
    """Trains networks on the engine that the options name: one after the other, on a CUDA device all side by side."""

    def __init__(self, request: Request, config: PinnOptions) -> None:
        self.request, self.config = request, config
        self.trainings = config.members + 2 * (config.members > 1)
        self.seconds: list[float] = []

    def train(self, samples: Samples, seeds: list[int]) -> list[Trained]:
        """Train the networks of these seeds on the same samples."""
        together = self.config.device != "cpu" and self.config.engine in ("auto", "cuda")
        return [
            one for part in ([seeds] if together else [[seed] for seed in seeds]) for one in self._run(samples, part)
        ]

    def again(self, samples: Samples) -> Floats:
        """Maps (2, N) of the first member, trained on other samples."""
        (one,) = self.train(samples, [self.config.seed * MEMBER_SEEDS])
        return np.stack([one.cbf, one.att])

    def _run(self, samples: Samples, seeds: list[int]) -> list[Trained]:
        config, before, count = self.config, len(self.seconds), len(seeds)
        label = f"network {before + 1} of {config.members}" if count == 1 else f"{count} networks"
        label = "network for the SDs" if before >= config.members else label
        total = self.trainings * config.epochs
        began = time.perf_counter()

        def on_epoch(epoch: int, losses: dict[str, float]) -> None:
            done = before * config.epochs + count * (epoch + 1)
            self.request.report(done, total, f"{label}, loss {losses['total']:.4g}")

        trained = train(engine_of(samples, config, seeds), samples, config, on_epoch)
        self.seconds += [(time.perf_counter() - began) / count] * count
        return trained


def engine_of(samples: Samples, config: PinnOptions, seeds: list[int]) -> Engine:
    """The engine that the options name, or the fastest for its device, with the networks of these seeds.

    Raises InputError where engine and device do not fit together.
    """
    device, name = config.device, config.engine
    if name == "fused" and device != "cpu":
        raise InputError(f"engine is 'fused', and device {device!r}; expected device cpu with it")
    if name in ("cuda", "tinycudann") and not device.startswith("cuda"):
        raise InputError(f"engine is {name!r}, and device {device!r}; expected device cuda with it")
    if device == "cpu" and name in ("auto", "fused"):
        from .compiled import CompiledEngine, unsupported

        if not unsupported(samples, config):
            return CompiledEngine(samples, config, seeds[0])
    from .autograd import AutogradEngine

    return AutogradEngine(samples, config, seeds, device, "torch" if device == "cpu" else name.replace("auto", "cuda"))
