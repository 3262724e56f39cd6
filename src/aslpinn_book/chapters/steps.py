"""One training step of the paper's preset by several ways of computing the same gradients, for timing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .speed import PHANTOM_VOXELS, synthetic


class Steps:
    """One training step of the paper preset on random voxels of `synthetic`, by three ways to the same gradients."""

    def __init__(self, levels: int = 16, delays: int = 11, batch: int = 1000, objective: str = "pointwise") -> None:
        import torch

        from aslpinn.estimation.config import PRESETS
        from aslpinn.estimation.fitting import AutogradTrainer, Fields, training_data
        from aslpinn.estimation.fused import FusedTrainer
        from aslpinn.estimation.problem import Request, prepare

        self.torch = torch
        series, mask, timing = synthetic(PHANTOM_VOXELS, delays)
        config = PRESETS["paper"].with_overrides(levels=levels, batch=batch, objective=objective)
        data = training_data(prepare(series, mask, timing), Request(), config)
        self.config, self.data, self.voxels = config, data, int(mask.sum())
        self.generator = np.random.default_rng(0)
        indices = Fields(config, 0).precompute(data.positions)  # the same for every way
        ways: dict[str, Callable[[Any], object]] = {}
        for name, trainer in (("torch", AutogradTrainer), ("fused", FusedTrainer)):
            ways[name] = self._step(trainer(Fields(config, 0), indices, data, config))
        if objective == "pointwise":
            ways = {"naive": self._naive(Fields(config, 0), indices[0]), **ways}
        self.ways = ways

    def _step(self, trainer: Any) -> Callable[[Any], object]:
        return lambda subset: trainer.step(subset, 1e-3, self.generator)

    def _naive(self, fields: Any, index: Any) -> Callable[[Any], object]:
        """Everything through autograd: a voxel encoded at each of its times, d/dt by a second pass, plain AdamW."""
        torch, data, config = self.torch, self.data, self.config
        from aslpinn.estimation import objectives

        optimizer = torch.optim.AdamW(fields.parameters(), lr=config.lr)

        def codes(points: Any) -> Any:
            return fields.parameter_field.encoding.lookup(index, points)

        def step(subset: Any) -> float:
            optimizer.zero_grad()
            times = data.durations.collocated(data.pld, len(subset), config.collocation, self.generator)
            t = times.t.clone().requires_grad_()
            samples = codes(subset.repeat_interleave(t.shape[1]))
            fitted = fields.signal_field.network(torch.cat([samples, t.reshape(-1, 1)], dim=1)).view_as(t)
            (rate,) = torch.autograd.grad(fitted.sum(), t, create_graph=True)
            cbf, att = fields.parameter_field(codes(subset))
            losses = objectives.pointwise(
                data.signal[subset], data.weight, fitted, rate, cbf, att, times, data.constants, data.scale
            )
            losses["total"].backward()
            optimizer.step()
            return float(losses["total"].detach())

        return step

    def seconds(self, rounds: int, names: tuple[str, ...] | None = None) -> dict[str, float]:
        """Smallest time of each way over `rounds` steps, taken in turns so that all see the same machine."""
        best: dict[str, float] = {}
        for turn in range(rounds + 1):
            subset = self.torch.from_numpy(self.generator.permutation(self.voxels)[: self.config.batch])
            for name, way in self.ways.items():
                if names is not None and name not in names:
                    continue
                began = time.perf_counter()
                way(subset)
                if turn:  # the first compiles
                    best[name] = min(best.get(name, np.inf), time.perf_counter() - began)
        return best
