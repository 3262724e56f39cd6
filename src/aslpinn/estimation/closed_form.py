"""Training of the closed-form objective by the compiled engine alone: no autograd, so PyTorch is not loaded.

The same networks, start, batches and steps as `fitting` with the engine "fused", to float32's rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..fields.plain import PlainEncoding, PlainSiren
from .config import FitConfig
from .problem import Floats, Problem, Request
from .training import BATCHES, OnEpoch, Trained, minibatches, run_epochs, signal_level, unit_positions

if TYPE_CHECKING:
    from .fused_samples import Batch

EVALUATION_CHUNK = 16384  # voxels evaluated at a time after training


def serves(problem: Problem, request: Request, config: FitConfig) -> bool:
    """Whether a fit needs nothing of PyTorch: closed form, CPU, Buxton's solution, sines, no sample held out."""
    plain = config.objective == "closed-form" and config.activation == "sine" and not config.held_out
    disperses = problem.acquisition.constants.disperses
    return plain and not disperses and request.device == "cpu" and request.engine in ("auto", "fused")


class Field:
    """f_ode on a hash encoding: the compiled engine's counterpart of `ParameterField`, for CBF, ATT or both."""

    def __init__(self, config: FitConfig, rng: np.random.Generator, levels: int, base: int, finest: int) -> None:
        self.encoding = PlainEncoding.start(rng, levels, config.features, config.log2_table, base, finest)
        widths = (self.encoding.width, *[config.hidden] * config.layers, 2)
        self.network = PlainSiren.start(rng, widths, config.omega_parameters_first, config.omega_parameters)

    def exponents(self, rows: NDArray[np.uint32], weights: Floats) -> Floats:
        """Return log(CBF / cbf_scale) and log(ATT / att_scale), (n, 2), where the index has these rows and weights."""
        return self.network.forward(self.encoding.codes(rows, weights))


class CompiledMembers:
    """Networks trained by the compiled engine (`training.Members`)."""

    def __init__(self, problem: Problem, request: Request, config: FitConfig) -> None:
        self.problem, self.config = problem, config
        level = signal_level(problem, config)
        self.scale = 1.0 / level
        self.signal = problem.signal / level
        self.positions = unit_positions(problem, request.voxel_size)
        self._index: list[tuple[NDArray[np.uint32], Floats]] = []

    def train(self, seed: int, on_epoch: OnEpoch, added: Floats | None = None) -> Trained:
        """Train the network of a seed, on signals to which `added` (N, D) was added."""
        from .fused_engine import Engine
        from .fused_physics import physics_of

        config, rng = self.config, np.random.default_rng(seed)
        fields = [Field(config, rng, config.levels, config.base, config.finest)]
        if config.att_levels:
            fields.append(Field(config, rng, config.att_levels, config.att_base, config.att_finest))
        if not self._index:  # of the positions, so the same for every member
            self._index = [field.encoding.index(self.positions) for field in fields]
        signal = self.signal if added is None else self.signal + added * self.scale
        networks = [fields[0].network, fields[1].network if config.att_levels else None, None]
        encodings = [field.encoding for field in fields]
        physics = physics_of(self.problem.acquisition.constants, self.scale)
        engine = Engine(networks, encodings, self._index, self._batch(signal), physics, config)
        order, n = np.random.default_rng([config.seed, BATCHES]), len(signal)

        def batches() -> Iterable[NDArray[np.int64]]:
            return minibatches(n, config.batch, order)

        def step(points: NDArray[np.int64], lr: float) -> tuple[int, dict[str, float]]:
            losses = engine.gradients(points)
            engine.update(lr)
            return len(points), losses

        history = run_epochs(config, n, batches, step, engine.sync, lambda: None, on_epoch)
        return Trained(*self._evaluate(fields), history, "fused")

    def _batch(self, signal: Floats) -> Batch:
        """The samples; what only f_tissue needs (times between the samples) is left empty."""
        from .fused_samples import Batch

        counts = self.problem.counts
        return Batch(
            signal=np.ascontiguousarray(signal, np.float32),
            weight=(counts / counts.mean())[None],
            pld=self.problem.pld,
            tau=self.problem.tau,
            slope=np.zeros_like(self.problem.tau),
            durations=np.zeros((2, 2), np.float32),
            first=0.0,
            last=0.0,
            nominal=0.0,
            cbf_scale=self.config.cbf_scale,
            att_scale=self.config.att_scale,
            time_scale=self.config.time_scale,
        )

    def _evaluate(self, fields: list[Field]) -> tuple[Floats, Floats]:
        """CBF in ml/100g/min and ATT in s of every voxel."""
        parts = []
        for start in range(0, len(self.signal), EVALUATION_CHUNK):
            end = start + EVALUATION_CHUNK
            found = [
                field.exponents(rows[start:end], weights[start:end])
                for field, (rows, weights) in zip(fields, self._index, strict=True)
            ]
            parts.append(np.stack([found[0][:, 0], found[-1][:, 1]]))
        log_cbf, log_att = np.concatenate(parts, axis=1)
        return np.float32(self.config.cbf_scale) * np.exp(log_cbf), np.float32(self.config.att_scale) * np.exp(log_att)
