"""Estimator "pinn": networks, trained for any objective, one or an ensemble."""

from __future__ import annotations

import time

import numpy as np

from ...errors import InputError
from ..estimate import Estimate
from ..grid import gauss_newton_sd
from ..problem import Floats, Problem, Request
from .config import PinnOptions
from .train import Engine, Samples, Trained, train

MEMBER_SEEDS = 1009  # seeds of the members: seed * MEMBER_SEEDS + k, so that runs with other seeds share none


def fit_pinn(problem: Problem, request: Request, config: PinnOptions) -> Estimate:
    """Mean over an ensemble of trained networks; one more is trained for the SDs.

    See `standard_deviations` for what they mean. Raises FitError where a loss is not finite.
    """
    began = time.perf_counter()
    samples = Samples.of(problem, request.voxel_size, config)
    members = Members(request, config)
    trained = members.train(samples, [config.seed * MEMBER_SEEDS + k for k in range(config.members)])
    cbf, att = np.stack([one.cbf for one in trained]), np.stack([one.att for one in trained])
    mean_cbf, mean_att = cbf.mean(axis=0), att.mean(axis=0)
    noise_sd = problem.noise_sd(problem.model(mean_cbf, mean_att), parameters=0)
    share = 1.0
    if config.members > 1:
        probe = np.random.default_rng(config.seed).standard_normal(problem.signal.shape).astype(np.float32)
        probe *= noise_sd / np.sqrt(problem.counts)
        (probed,) = members.train(samples.plus(probe), [config.seed * MEMBER_SEEDS])
        share = leverage(problem, probe, (cbf[0], att[0]), (probed.cbf, probed.att), noise_sd)
    cbf_sd, att_sd = standard_deviations(problem, cbf, att, noise_sd, share)
    info = {
        "history": [{"best_epoch": one.history.best, **one.history.losses} for one in trained],
        "member_seconds": members.seconds[: config.members],
        "seconds": time.perf_counter() - began,
        "noise_sd": noise_sd,
        "noise_leverage": share,
        "signal_scale": samples.scale,
        "engine": trained[0].engine,
    }
    settings = config.as_dict() | {"initial_condition": "on" if samples.initial else "off"}
    if config.objective == "pointwise":
        settings["edge_width"] = samples.edge_width
    return problem.estimate("pinn", mean_cbf, mean_att, cbf_sd, att_sd, settings, info)


class Members:
    """Trains networks on the engine that the options name: one after the other, on a CUDA device all side by side."""

    def __init__(self, request: Request, config: PinnOptions) -> None:
        self.request, self.config = request, config
        self.seconds: list[float] = []

    def train(self, samples: Samples, seeds: list[int]) -> list[Trained]:
        """Train the networks of these seeds on the same samples."""
        together = self.config.device != "cpu" and self.config.engine in ("auto", "cuda")
        return [
            one for part in ([seeds] if together else [[seed] for seed in seeds]) for one in self._run(samples, part)
        ]

    def _run(self, samples: Samples, seeds: list[int]) -> list[Trained]:
        config, before, count = self.config, len(self.seconds), len(seeds)
        label = f"network {before + 1} of {config.members}" if count == 1 else f"{count} networks"
        label = "network for the SDs" if before >= config.members else label
        total = (config.members + (config.members > 1)) * config.epochs
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


def leverage(
    problem: Problem, probe: Floats, before: tuple[Floats, Floats], after: tuple[Floats, Floats], noise_sd: float
) -> float:
    """Share of the voxelwise noise that a fit passes on: its degrees of freedom a voxel, over 2.

    The fit was repeated, same seed, on signals to which `probe` (N, D) was added; how much of the probe comes back in
    the fitted signals is the trace of the fit's Jacobian (Ramani et al. 2008, doi:10.1109/TIP.2008.2001404).
    """
    response = problem.model(*after) - problem.model(*before)
    freedom = float((problem.counts * probe * response).sum()) / (noise_sd**2 * len(probe))
    return float(np.clip(freedom / 2, 0.01, 1.0))


def standard_deviations(
    problem: Problem, cbf: Floats, att: Floats, noise_sd: float, share: float
) -> tuple[Floats, Floats]:
    """SDs (N,) of the mean of (K, N) maps: SD^2 = variance over the K members + share * Gauss-Newton variance.

    The first term says how far the data leave the networks free; the second how the noise that is common to all members
    passes into the maps: a network that ties voxels together passes on only a share of the voxelwise variance
    (`leverage`, an average over the brain). With one member the share is 1, that of a fit in every voxel by itself: on
    the safe side. The bias of a fit that is smoother than the truth is in neither term.
    """
    gauss_cbf, gauss_att = gauss_newton_sd(problem, cbf.mean(axis=0), att.mean(axis=0), noise_sd)
    spread = (cbf.var(axis=0, ddof=1), att.var(axis=0, ddof=1)) if len(cbf) > 1 else (0.0, 0.0)
    cbf_sd = np.sqrt(share * gauss_cbf**2 + spread[0])
    return cbf_sd.astype(np.float32), np.sqrt(share * gauss_att**2 + spread[1]).astype(np.float32)
