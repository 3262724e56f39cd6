"""The fused CPU engine: training steps in one compiled loop, on the memory of the fields' own parameters.

PyTorch's autograd is the reference; losses and gradients agree with it to float32's rounding (tests/test_fused.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..fields import HashIndex, MultiresHashEncoding, Siren
from ..fields.fused import LANES, Network, padded
from ..fields.threads import on_threads
from .config import FitConfig
from .fused_physics import physics_of

if TYPE_CHECKING:
    from .fitting import Fields, TrainingData

MOST_UNITS = 256  # units of work in a step, each with its own sum of weight gradients


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
    """AdamW steps on the fields' parameters, with the same losses, schedule and random numbers as autograd.

    Tables are trained in place; weights of the networks in a padded copy, which `sync` writes back.
    """

    def __init__(self, fields: Fields, indices: list[HashIndex], data: TrainingData, config: FitConfig) -> None:
        from .fused_samples import Batch
        from .fused_step import CLOSED_FORM, DERIVATIVE, INCREMENTS, ODE, Table

        self.fields, self.config, self.steps = fields, config, 0
        pointwise = ODE if config.reading == "ode" else DERIVATIVE
        self.objective = {"closed-form": CLOSED_FORM, "increments": INCREMENTS}.get(config.objective, pointwise)
        own = fields.att_field
        parts = (fields.parameter_field, own, fields.signal_field)
        self.packed = _Packed([None if part is None else part.network for part in parts])
        encodings = [fields.parameter_field.encoding, *([own.encoding] if own is not None else [])]
        self.tables = [_TableState(encoding) for encoding in encodings]
        self.index = [
            Table(state.table, index.rows.numpy().view(np.uint32), index.weights.numpy())
            for state, index in zip(self.tables, indices, strict=True)
        ]
        durations = self.durations = data.durations
        self.batch = Batch(
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
            att_scale=(own or fields.parameter_field).att_scale,
            time_scale=config.time_scale,
        )
        self.weight_sums = np.broadcast_to(self.batch.weight.sum(axis=1, dtype=np.float64), (len(data.signal),))
        self.physics = physics_of(data.constants, data.scale)
        self.collocation = 0 if config.objective == "closed-form" else config.collocation
        self._work = _workspace(self.packed.nets)
        self._room: dict[int, tuple[Any, ...]] = {}

    def gradients(self, subset: Tensor, generator: torch.Generator) -> dict[str, float]:
        """The losses of a batch of voxels; gradients are left for `update`."""
        from .fused_step import gradients

        points, n = subset.numpy(), len(subset)
        drawn = np.empty((n, 0), np.float32)
        if self.objective:
            drawn = self.durations.draw(n, self.collocation, generator, self.config.collocation_at).numpy()
        times = self.batch.signal.shape[1] + self.collocation
        pairs = n * (times - 1 if self.config.objective == "increments" else times)
        weight = max(float(self.weight_sums[points].sum()), 1e-12)
        shares = (self.config.alpha / weight, self.config.lambda_physics / pairs) if self.objective else (1 / weight, 0)
        self.points = points
        self.partial, self.g_codes, sums = self._buffers(n)
        factors = np.array(shares, np.float32)
        on_threads(
            gradients, self.packed.theta, self.packed.nets, self.index[0], self.index[-1], self.batch, points, drawn,
            self.physics, self.objective, factors, self._work, self.partial, self.g_codes[0], self.g_codes[-1], sums,
        )  # fmt: skip
        data, physics = (float(x) for x in sums.sum(axis=0))
        if not self.objective:
            return {"data": data / weight, "total": data / weight}
        total = shares[0] * data + shares[1] * physics
        return {"data": data / weight, "physics": physics / pairs, "total": total}

    def update(self, lr: float) -> None:
        """Take an AdamW step with the gradients of the last batch."""
        from ..fields.fused_table import rates_of, table_gradient_step
        from .fused_step import weights_step

        self.steps += 1
        rates = rates_of(lr, self.config.weight_decay, self.steps)
        packed = self.packed
        weights_step(self.partial, packed.total, packed.theta, packed.m, packed.v, rates)
        for state, index, g_code in zip(self.tables, self.index, self.g_codes, strict=True):
            on_threads(
                table_gradient_step, g_code, index.rows, index.weights, self.points, state.offsets,
                state.table.ravel(), state.m, state.v, state.scratch, rates,
            )  # fmt: skip

    def step(self, subset: Tensor, lr: float, generator: torch.Generator) -> dict[str, float]:
        """One training step on a batch of voxels; its losses, those before the step."""
        losses = self.gradients(subset, generator)
        self.update(lr)
        return losses

    def sync(self) -> None:
        """Write the networks' weights back into the fields."""
        self.packed.write_back(self.packed.theta)

    def _buffers(self, n: int) -> tuple[Any, ...]:
        """Sums of units and gradients of codes for a batch of n voxels; kept, as an epoch has one or two sizes."""
        if n not in self._room:
            units = min(MOST_UNITS, -(-n // LANES))
            codes = [np.empty((n, state.width), np.float32) for state in self.tables]
            partial = np.empty((units, self.packed.theta.size), np.float32)
            self._room[n] = (partial, codes, np.empty((units, 2)))
        return self._room[n]


class _TableState:
    """A table, shared with its encoding's parameter, and AdamW's moments of it."""

    def __init__(self, encoding: MultiresHashEncoding) -> None:
        import numba

        self.table = encoding.table.detach().numpy()
        self.offsets = np.array([level.offset for level in encoding.levels] + [len(self.table)])
        self.width = encoding.width
        self.m, self.v = np.zeros(self.table.size, np.float32), np.zeros(self.table.size, np.float32)
        largest = max(level.rows for level in encoding.levels) * encoding.features
        threads = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
        self.scratch = np.empty((threads, largest), np.float32)


class _Packed:
    """Weights of up to three networks in one flat array, padded as `fields.fused` wants, with AdamW's moments."""

    def __init__(self, sirens: list[Siren | None]) -> None:
        base, nets = 0, []
        self.slots: list[tuple[torch.nn.Parameter, slice, tuple[int, int], slice]] = []
        for number, siren in enumerate(sirens):
            if siren is None:
                nets.append(Network(base, 0, 0, 0, 0, 1.0, 1.0))
                continue
            base = self._place(siren, base, nets, timed=number == 2)
        self.nets = tuple(nets)
        self.theta = np.zeros(base, np.float32)
        for parameter, where, shape, columns in self.slots:
            values = parameter.detach().numpy().reshape(len(parameter), -1)[:, columns]
            self.theta[where].reshape(shape)[: len(values), : values.shape[1]] = values
        self.total, self.m, self.v = (np.zeros_like(self.theta) for _ in range(3))

    def _place(self, siren: Siren, base: int, nets: list[Network], timed: bool) -> int:
        """Note where the parameters of a network go, from `base`; the first place after them."""
        inputs = siren.weights[0].shape[1] - timed
        hidden, layers, outputs = padded(len(siren.biases[0])), len(siren.weights) - 1, len(siren.biases[-1])
        wide = padded(inputs)
        nets.append(Network(base, wide, hidden, layers, outputs, siren.omega(0), siren.omega(1)))

        def put(parameter: torch.nn.Parameter, rows: int, width: int, columns: slice) -> None:
            nonlocal base
            self.slots.append((parameter, slice(base, base + rows * width), (rows, width), columns))
            base += rows * width

        put(siren.weights[0], hidden, wide, slice(0, inputs))
        put(siren.biases[0], hidden, 1, slice(None))
        if timed:
            put(siren.weights[0], hidden, 1, slice(inputs, None))
        else:
            base += hidden  # no column for time
        for layer in range(1, layers):
            put(siren.weights[layer], hidden, hidden, slice(None))
            put(siren.biases[layer], hidden, 1, slice(None))
        put(siren.weights[-1], outputs, hidden, slice(None))
        put(siren.biases[-1], outputs, 1, slice(None))
        return base

    def write_back(self, flat: Any, gradient: bool = False) -> None:
        """Copy flat values into the parameters, or into their .grad."""
        for parameter, where, shape, columns in self.slots:
            if gradient and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            target = (parameter.grad if gradient else parameter.detach()).numpy()  # type: ignore[union-attr]
            target = target.reshape(len(target), -1)
            target[:, columns] = flat[where].reshape(shape)[: len(target), : target[:, columns].shape[1]]


def _workspace(nets: tuple[Network, ...]) -> Any:
    """Buffers for every thread that Numba may run."""
    import numba

    from .fused_step import Work

    threads = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    inputs = max(net.inputs for net in nets)
    hidden, layers = max(net.hidden for net in nets), max(net.layers for net in nets)

    def room(*shape: int) -> Any:
        return np.zeros((threads, *shape), np.float32)

    return Work(
        code=room(2, 3, inputs * LANES),
        place=room(2, hidden * LANES),
        buffers=room(3, 4, layers * hidden * LANES),
        gradient=room(3, hidden * LANES),
        out=room(3, 4, 2 * LANES),
        at=room(4, LANES),
        model=room(7 * LANES),
        lane=room(12 * LANES),
        order=np.zeros((threads, LANES), np.int64),
    )
