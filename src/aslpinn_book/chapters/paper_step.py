"""One training step of the paper's preset by several ways of computing the same gradients, for timing."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from .speed import PHANTOM_VOXELS, synthetic


class Steps:
    """One training step of the paper preset on random voxels of `synthetic`, by three ways to the same gradients."""

    def __init__(self, levels: int = 16, delays: int = 11, batch: int = 1000, objective: str = "pointwise") -> None:
        from aslpinn.estimation import prepare
        from aslpinn.estimation.networks.autograd import AutogradEngine
        from aslpinn.estimation.networks.compiled import CompiledEngine
        from aslpinn.estimation.networks.config import PRESETS
        from aslpinn.estimation.networks.train import Samples

        series, mask, timing = synthetic(PHANTOM_VOXELS, delays)
        self.config = PRESETS["paper"].changed(levels=levels, batch=batch, objective=objective)
        self.samples = Samples.of(prepare(series, mask, timing), (1.0, 1.0, 1.0), self.config)
        self.ways: dict[str, Any] = {} if objective != "pointwise" else {"naive": _naive(self.samples, self.config)}
        self.ways |= {
            "torch": AutogradEngine(self.samples, self.config, 0),
            "fused": CompiledEngine(self.samples, self.config, 0),
        }

    def seconds(self, rounds: int, names: tuple[str, ...] | None = None) -> dict[str, float]:
        """Smallest time of each way over `rounds` steps, taken in turns so that all see the same machine."""
        best: dict[str, float] = {}
        rng = np.random.default_rng(0)
        for turn in range(rounds + 1):
            batch = self.samples.batches(self.config, rng)[:1]
            for name, way in self.ways.items():
                if names is not None and name not in names:
                    continue
                ((points, drawn),) = way.load(batch)
                began = time.perf_counter()
                way.step(points, drawn, 1e-3)
                if turn:  # the first compiles
                    best[name] = min(best.get(name, np.inf), time.perf_counter() - began)
        return best


def _naive(samples: Any, config: Any) -> Any:
    """Everything through autograd: a voxel encoded at each of its times, and d/dt by a second pass."""
    import torch

    from aslpinn.estimation.networks import objectives
    from aslpinn.estimation.networks.autograd import AutogradEngine

    class Naive(AutogradEngine):
        def losses(self, points: Any, drawn: Any) -> Any:
            encoding = self.fields.parameter_field.encoding
            times = self.durations.collocated(self.pld, drawn)
            t = times.t.clone().requires_grad_()
            samples = encoding.lookup(self.indices[0], points.repeat_interleave(t.shape[1]))
            assert self.fields.signal_field is not None
            fitted = self.fields.signal_field.network(torch.cat([samples, t.reshape(-1, 1)], dim=1)).view_as(t)
            (rate,) = torch.autograd.grad(fitted.sum(), t, create_graph=True)
            cbf, att = self.fields.parameter_field(encoding.lookup(self.indices[0], points))
            place = (fitted, rate, cbf, att, times, self.constants, self.scale)
            return objectives.pointwise(self.signal[points], self.weight, *place, reading=self.config.reading)

    return Naive(samples, config, 0)
