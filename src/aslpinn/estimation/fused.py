"""The fused CPU engine for PyTorch's modules: training steps in one compiled loop, on the memory of their parameters.

PyTorch's autograd is the reference; losses and gradients agree with it to float32's rounding (tests/test_fused.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..fields import HashIndex
from ..fields.fused import LANES
from ..fields.plain import PlainEncoding, PlainSiren
from .config import FitConfig
from .fused_engine import Engine
from .fused_physics import physics_of
from .fused_samples import Batch

if TYPE_CHECKING:
    from .fitting import Fields, TrainingData


def unsupported(data: TrainingData, config: FitConfig) -> str:
    """Why this engine cannot do what the config asks, or an empty string."""
    if data.signal.device.type != "cpu" or data.signal.dtype != torch.float32:
        return f"the series is {data.signal.dtype} on {data.signal.device.type}, not float32 on the CPU"
    if data.constants.disperses:
        return "the bolus is dispersed, and the compiled step has Buxton's solution only"
    if config.activation != "sine":
        return f"the activation is {config.activation}, not sine"
    times = data.signal.shape[1] + (config.collocation if config.objective != "closed-form" else 0)
    if config.objective != "closed-form" and times > LANES:
        return f"a voxel has {times} times, more than {LANES}"
    return ""


class FusedTrainer:
    """AdamW steps on the fields' parameters, with the same losses, schedule and random numbers as autograd."""

    def __init__(self, fields: Fields, indices: list[HashIndex], data: TrainingData, config: FitConfig) -> None:
        own = fields.att_field
        parts = (fields.parameter_field, own, fields.signal_field)
        encodings = [fields.parameter_field.encoding, *([own.encoding] if own is not None else [])]
        self.config, self.durations = config, data.durations
        self.engine = Engine(
            [None if part is None else PlainSiren.of(part.network) for part in parts],
            [PlainEncoding.of(encoding) for encoding in encodings],
            [(index.rows.numpy().view(np.uint32), index.weights.numpy()) for index in indices],
            self._batch(fields, data),
            physics_of(data.constants, data.scale),
            config,
        )

    def _batch(self, fields: Fields, data: TrainingData) -> Batch:
        durations = data.durations
        return Batch(
            signal=np.ascontiguousarray(data.signal.numpy()),
            weight=np.ascontiguousarray(data.weight.numpy()),
            pld=np.ascontiguousarray(data.pld.numpy()),
            tau=durations.tau.numpy().ravel(),
            slope=durations.slope.numpy().ravel(),
            durations=durations.table.numpy(),
            first=durations.first,
            last=durations.last,
            nominal=float(durations.nominal[0, 0]),
            cbf_scale=fields.parameter_field.cbf_scale,
            att_scale=(fields.att_field or fields.parameter_field).att_scale,
            time_scale=self.config.time_scale,
        )

    def gradients(self, subset: Tensor, rng: np.random.Generator) -> dict[str, float]:
        """The losses of a batch of voxels; gradients are left for the engine's update."""
        drawn = None
        if self.engine.objective:
            count = self.engine.collocation
            drawn = self.durations.draw(len(subset), count, rng, self.config.collocation_at).numpy()
        return self.engine.gradients(subset.numpy(), drawn)

    def step(self, subset: Tensor, lr: float, rng: np.random.Generator) -> dict[str, float]:
        """One training step on a batch of voxels; its losses, those before the step."""
        losses = self.gradients(subset, rng)
        self.engine.update(lr)
        return losses

    def sync(self) -> None:
        """Write the networks' weights back into the fields."""
        self.engine.sync()
