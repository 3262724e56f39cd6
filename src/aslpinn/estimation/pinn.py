"""Estimator "pinn": networks, trained for any objective, one or an ensemble."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from .closed_form import CompiledMembers, serves
from .config import FitConfig
from .estimate import Estimate
from .grid import gauss_newton_sd
from .problem import Floats, Problem, Request
from .training import Members, Trained, configure

MEMBER_SEEDS = 1009  # seeds of the members: seed * MEMBER_SEEDS + k, so that runs with other seeds share none


def fit_pinn(problem: Problem, request: Request, **overrides: Any) -> Estimate:
    """Mean over an ensemble of trained networks; any field of FitConfig by name, see `fit_networks`.

    See `standard_deviations` for what the SDs mean. Raises InputError for a setting that does not
    exist, FitError where a loss is not finite.
    """
    return fit_networks(problem, request, configure(request, **overrides))


def fit_networks(problem: Problem, request: Request, config: FitConfig) -> Estimate:
    """Train config.members networks one after the other, and one more for the SDs; combine their maps."""
    began = time.perf_counter()
    networks = members_of(problem, request, config)
    cbf, att, histories, seconds, engine = [], [], [], [], ""
    trainings = config.members + (config.members > 1)

    def member(number: int, label: str, seed: int, added: Floats | None = None) -> Trained:
        def on_epoch(epoch: int, losses: dict[str, float]) -> None:
            done = number * config.epochs + epoch + 1
            request.report(done, trainings * config.epochs, f"{label}, loss {losses['total']:.4g}")

        return networks.train(seed, on_epoch, added)

    seeds = [config.seed * MEMBER_SEEDS + k for k in range(config.members)]
    for k, seed in enumerate(seeds):
        started = time.perf_counter()
        one_cbf, one_att, history, engine = member(k, f"network {k + 1} of {config.members}", seed)
        cbf.append(one_cbf)
        att.append(one_att)
        histories.append({"best_epoch": history.best, **history.losses})
        seconds.append(time.perf_counter() - started)
    mean_cbf, mean_att = np.mean(cbf, axis=0), np.mean(att, axis=0)
    noise_sd = problem.noise_sd(problem.model(mean_cbf, mean_att), parameters=0)
    share = 1.0
    if config.members > 1:
        probe = np.random.default_rng(config.seed).standard_normal(problem.signal.shape).astype(np.float32)
        probe *= noise_sd / np.sqrt(problem.counts)
        probed = member(config.members, "network for the SDs", seeds[0], probe)
        share = leverage(problem, probe, (cbf[0], att[0]), probed[:2], noise_sd)
    cbf_sd, att_sd = standard_deviations(problem, np.stack(cbf), np.stack(att), noise_sd, share)
    info = {
        "history": histories,
        "member_seconds": seconds,
        "seconds": time.perf_counter() - began,
        "noise_sd": noise_sd,
        "noise_leverage": share,
        "signal_scale": networks.scale,
        "engine": engine,
    }
    settings = config.as_dict() | {"preset": request.preset, "device": request.device, "engine": request.engine}
    return problem.estimate("pinn", mean_cbf, mean_att, cbf_sd, att_sd, settings, info)


def members_of(problem: Problem, request: Request, config: FitConfig) -> Members:
    """What trains the networks: the compiled engine by itself where it serves, which spares loading PyTorch."""
    if serves(problem, request, config):
        return CompiledMembers(problem, request, config)
    from .fitting import TorchMembers

    return TorchMembers(problem, request, config)


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
