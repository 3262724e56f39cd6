"""The network estimators: "pinn" (any objective, an ensemble) and "closed-form" (one network, no f_tissue)."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..errors import InputError
from .config import PRESETS, FitConfig
from .estimate import Estimate
from .fitting import Fields, check_device, configure, evaluate, train, training_data
from .grid import gauss_newton_sd
from .problem import Floats, Problem, Request

MEMBER_SEEDS = 1009  # seeds of the members: seed * MEMBER_SEEDS + k, so that runs with other seeds share none


def fit_pinn(problem: Problem, request: Request, **overrides: Any) -> Estimate:
    """Mean over an ensemble of networks trained on the series; any field of FitConfig by name.

    See `combine` for what the SDs mean. Raises InputError for a setting that does not exist, FitError where a loss is
    not finite.
    """
    return fit_networks(problem, request, configure(request, **overrides), "pinn")


def fit_closed_form(problem: Problem, request: Request, **overrides: Any) -> Estimate:
    """f_ode -> Buxton -> data: the closed-form objective, by default with one member."""
    if overrides.get("objective", "closed-form") != "closed-form":
        raise InputError(
            f"objective is {overrides['objective']!r}; estimator closed-form has its own: use estimator pinn"
        )
    base = PRESETS[request.preset].with_overrides(objective="closed-form", members=1)
    return fit_networks(problem, request, configure(request, base, **overrides), "closed-form")


def fit_networks(problem: Problem, request: Request, config: FitConfig, name: str) -> Estimate:
    """Train config.members networks one after the other and combine their maps."""
    began = time.perf_counter()
    check_device(request.device)
    data = training_data(problem, request, config)
    cbf, att, histories, seconds = [], [], [], []
    total = config.members * config.epochs
    for member in range(config.members):
        started = time.perf_counter()
        seed = config.seed * MEMBER_SEEDS + member
        fields = Fields(config, seed, request.engine, request.device)

        def on_epoch(epoch: int, losses: dict[str, float], member: int = member) -> None:
            message = f"network {member + 1} of {config.members}, loss {losses['total']:.4g}"
            request.report(member * config.epochs + epoch + 1, total, message)

        indices, history = train(fields, data, config, seed, on_epoch)
        maps = evaluate(fields, indices)
        cbf.append(maps[0])
        att.append(maps[1])
        histories.append({"best_epoch": history.best, **history.losses})
        seconds.append(time.perf_counter() - started)
    mean_cbf, mean_att, cbf_sd, att_sd, noise_sd = combine(problem, np.stack(cbf), np.stack(att))
    info = {
        "history": histories,
        "member_seconds": seconds,
        "seconds": time.perf_counter() - began,
        "noise_sd": noise_sd,
        "signal_scale": data.scale,
        "engine": fields.parameter_field.encoding.engine_in_use(),
    }
    settings = config.as_dict() | {"preset": request.preset, "device": request.device, "engine": request.engine}
    return problem.estimate(name, mean_cbf, mean_att, cbf_sd, att_sd, settings, info)


def combine(problem: Problem, cbf: Floats, att: Floats) -> tuple[Floats, Floats, Floats, Floats, float]:
    """Mean CBF and ATT of (K, N) maps, their SDs, and the noise SD of one volume.

    SD^2 = variance over the K members + leverage * Gauss-Newton variance. The first says how far the data leave the
    networks free; the second how the noise common to all members passes into the maps. A network that shares strength
    between voxels passes on a share of the voxelwise (Gauss-Newton) variance, the leverage: estimated as the share of
    the fit's two degrees of freedom a voxel that the residuals show to be used up. It is an average over the brain, and
    the bias of a fit that is too smooth is in neither term.
    """
    mean_cbf, mean_att = cbf.mean(axis=0), att.mean(axis=0)
    noise_sd = problem.noise_sd(problem.model(mean_cbf, mean_att), parameters=0)
    leverage = 0.25
    gauss_cbf, gauss_att = gauss_newton_sd(problem, mean_cbf, mean_att, noise_sd)
    cbf_sd = np.sqrt(leverage * gauss_cbf**2 + (cbf.var(axis=0, ddof=1) if len(cbf) > 1 else 0))
    att_sd = np.sqrt(leverage * gauss_att**2 + (att.var(axis=0, ddof=1) if len(att) > 1 else 0))
    return mean_cbf, mean_att, cbf_sd.astype(np.float32), att_sd.astype(np.float32), noise_sd
