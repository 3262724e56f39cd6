"""The compiled engine: training steps in one loop on NumPy arrays, several times faster than autograd on a CPU.

PyTorch's autograd is the reference; losses and gradients agree with it to float32's rounding (tests/test_fused.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...fields.arrays import Layers, Table, decay_rates
from ...fields.compiled import LANES, Network, padded, rates_of, table_gradient_step
from ...threads import on_threads, workers
from ..problem import Floats
from .compiled_physics import physics_of
from .compiled_step import CLOSED_FORM, DERIVATIVE, INCREMENTS, ODE, Batch, Lookup, Task, Work, gradients, weights_step
from .config import PinnOptions
from .train import Points, Samples, held_out_error

MOST_UNITS = 256  # units of work in a step, each with its own sum of weight gradients


EVALUATION_CHUNK = 16384  # voxels evaluated at a time


def unsupported(samples: Samples, config: PinnOptions) -> str:
    """Why this engine cannot do what the config asks, or an empty string."""
    if samples.problem.acquisition.constants.disperses:
        return "the bolus is dispersed, and the compiled step has Buxton's solution only"
    if config.activation != "sine":
        return f"the activation is {config.activation}, not sine"
    times = samples.signal.shape[-1] + (config.collocation if config.objective != "closed-form" else 0)
    if config.objective != "closed-form" and times > LANES:
        return f"a voxel has {times} times, more than {LANES}"
    return ""


class CompiledEngine:
    """AdamW steps of one network (`train.Engine`), with the same start, losses and steps as by autograd.

    Tables are trained in place; weights of the networks in a padded copy, which `sync` writes back.
    """

    name = "fused"

    def __init__(self, samples: Samples, config: PinnOptions, seed: int) -> None:
        pointwise = ODE if config.reading == "ode" else DERIVATIVE
        self.objective = {"closed-form": CLOSED_FORM, "increments": INCREMENTS}.get(config.objective, pointwise)
        self.collocation = 0 if config.objective == "closed-form" else config.collocation
        self.samples, self.config, self.steps, self.threads = samples, config, 0, workers()
        self.batch = batch_of(samples, config)
        self.encodings, self.networks = start(config, seed, samples.lines)
        self.packed = Packed(self.networks)
        self.tables = [TableState(encoding, self.threads, config.level_decay or 0.0) for encoding in self.encodings]
        self.positions = [samples.index(encoding) for encoding in self.encodings]
        self.index = [Lookup(state.table, *pair) for state, pair in zip(self.tables, self.positions, strict=True)]
        physics = physics_of(samples.problem.acquisition.constants, samples.scale)
        self.task = Task(self.packed.nets, self.index[0], self.index[-1], self.batch, physics, self.objective)
        sums = self.batch.weight.sum(axis=1, dtype=np.float64)
        self.weight_sums = np.broadcast_to(sums, (len(self.batch.signal),))
        self._work = _workspace(self.packed.nets, self.threads)
        self._room: dict[int, tuple[Any, ...]] = {}

    def load(self, batches: list[tuple[Points, Floats]]) -> list[tuple[Points, Floats]]:
        """The batches as they are."""
        return batches

    def step(self, points: Points, drawn: Floats, lr: float) -> dict[str, float]:
        """Losses on a batch of voxels, their gradients, and an AdamW step; the losses before the step."""
        losses = self.gradients(points, drawn)
        self.update(lr)
        return losses

    def gradients(self, points: Points, drawn: Floats) -> dict[str, float]:
        """The losses of a batch of voxels; gradients are left for `update`.

        drawn (n, collocation) in [0, 1): where the collocation times fall, for objectives that have them.
        """
        n, times = len(points), self.batch.signal.shape[1] + self.collocation
        pairs = n * (times - 1 if self.config.objective == "increments" else times)
        weight = max(float(self.weight_sums[points].sum()), 1e-12)
        shares = (self.config.alpha / weight, self.config.lambda_physics / pairs) if self.objective else (1 / weight, 0)
        self.points = points
        self.partial, self.g_codes, sums = self._buffers(n)
        factors = np.array(shares, np.float32)
        on_threads(
            self.threads, gradients, self.packed.theta, self.task, points, drawn, factors, self._work, self.partial,
            self.g_codes[0], self.g_codes[-1], sums,
        )  # fmt: skip
        data, physics = (float(x) for x in sums.sum(axis=0))
        if not self.objective:
            return {"data": data / weight, "total": data / weight}
        total = shares[0] * data + shares[1] * physics
        return {"data": data / weight, "physics": physics / pairs, "total": total}

    def update(self, lr: float) -> None:
        """Take an AdamW step with the gradients of the last batch."""
        self.steps += 1
        rates = rates_of(lr, self.config.weight_decay, self.steps)
        packed = self.packed
        weights_step(self.partial, packed.total, packed.theta, packed.m, packed.v, rates)
        for state, index, g_code in zip(self.tables, self.index, self.g_codes, strict=True):
            on_threads(
                self.threads, table_gradient_step, g_code, index.rows, index.weights, self.points, state.offsets,
                state.table.ravel(), state.m, state.v, state.scratch, rates, state.keeps(lr, rates[0]),
            )  # fmt: skip

    def sync(self) -> None:
        """Write the networks' weights back into their arrays."""
        self.packed.write_back(self.packed.theta)

    def maps(self) -> tuple[Floats, Floats]:
        """CBF in ml/100g/min and ATT in s of all voxels, as the networks are now: (1, N)."""
        self.sync()
        parts = []
        for first in range(0, len(self.batch.signal), EVALUATION_CHUNK):
            chosen = slice(first, first + EVALUATION_CHUNK)
            codes = [
                encoding.codes(rows[chosen], weights[chosen])
                for encoding, (rows, weights) in zip(self.encodings, self.positions, strict=True)
            ]
            found = [network(code) for network, code in zip(self.networks, codes, strict=False) if network is not None]
            parts.append(np.stack([found[0][:, 0], found[-1][:, 1]]))
        log_cbf, log_att = np.concatenate(parts, axis=1)[:, None]
        return np.float32(self.config.cbf_scale) * np.exp(log_cbf), np.float32(self.config.att_scale) * np.exp(log_att)

    def held_out_error(self) -> Any:
        """`train.held_out_error` of the network as it is now."""
        (cbf,), (att,) = self.maps()
        return held_out_error(self.samples.kept, cbf, att, self.samples.problem.acquisition.constants)

    def _buffers(self, n: int) -> tuple[Any, ...]:
        """Sums of units and gradients of codes for a batch of n voxels; kept, as an epoch has one or two sizes."""
        if n not in self._room:
            units = min(MOST_UNITS, -(-n // LANES))
            codes = [np.empty((n, state.width), np.float32) for state in self.tables]
            partial = np.empty((units, self.packed.theta.size), np.float32)
            self._room[n] = (partial, codes, np.empty((units, 2)))
        return self._room[n]


def start(config: PinnOptions, seed: int, lines: Sequence[int] = ()) -> tuple[list[Table], list[Layers | None]]:
    """Encodings of f_ode and of ATT's own network where it has one; f_ode, ATT's own or None, f_tissue or None.

    Drawn in the order of `autograd.Fields`, so that a seed gives the same networks on every engine.
    """
    rng = np.random.default_rng(seed)
    hidden = [config.hidden] * config.layers

    def parameters(levels: int, base: int, finest: int) -> tuple[Table, Layers]:
        table = Table.start(rng, levels, config.features, config.log2_table, base, finest, lines)
        omegas = (config.omega_parameters_first, config.omega_parameters)
        return table, Layers.start(rng, (table.width, *hidden, 2), *omegas)

    made = [parameters(config.levels, config.base, config.finest)]
    if config.att_levels:
        made.append(parameters(config.att_levels, config.att_base, config.att_finest))
    tissue = None
    if config.objective != "closed-form":
        omegas = (config.omega_signal_first, config.omega_signal)
        tissue = Layers.start(rng, (made[0][0].width + 1, *hidden, 1), *omegas)
    own = made[1][1] if config.att_levels else None
    return [table for table, _ in made], [made[0][1], own, tissue]


def batch_of(samples: Samples, config: PinnOptions) -> Batch:
    """The samples as the compiled loops want them; what only f_tissue needs is left empty for the closed form."""
    problem = samples.problem
    timing: dict[str, Any] = {
        "tau": problem.tau, "slope": np.zeros_like(problem.tau), "durations": np.zeros((2, 2), np.float32),
        "first": 0.0, "last": 0.0, "nominal": 0.0,
    }  # fmt: skip
    if config.objective != "closed-form":
        durations = samples.durations
        timing = {
            "tau": durations.tau.ravel(), "slope": durations.slope.ravel(), "durations": durations.table,
            "first": durations.first, "last": durations.last, "nominal": float(durations.nominal[0, 0]),
        }  # fmt: skip
    return Batch(
        signal=np.ascontiguousarray(samples.signal, np.float32),
        weight=np.ascontiguousarray(samples.weight, np.float32),
        pld=np.ascontiguousarray(samples.pld),
        cbf_scale=config.cbf_scale,
        att_scale=config.att_scale,
        time_scale=config.time_scale,
        edge_width=samples.edge_width,
        **timing,
    )


class TableState:
    """A table, shared with its encoding, and AdamW's moments of it."""

    def __init__(self, encoding: Table, threads: int, level_decay: float) -> None:
        self.table, self.width = encoding.table, encoding.width
        self.offsets = np.array([level.offset for level in encoding.levels] + [len(self.table)])
        self.m, self.v = np.zeros(self.table.size, np.float32), np.zeros(self.table.size, np.float32)
        largest = max(level.rows for level in encoding.levels) * self.table.shape[1]
        self.scratch = np.empty((threads, largest), np.float32)
        self.decay = decay_rates(encoding.levels, level_decay)

    def keeps(self, lr: float, all_levels: float) -> Floats:
        """What is left of each level's rows after a step's weight decay, where `all_levels` is that of AdamW."""
        return (all_levels * np.exp(-lr * self.decay)).astype(np.float32)


class Packed:
    """Weights of up to three networks in one flat array, padded as `fields.compiled` wants, with AdamW's moments."""

    def __init__(self, networks: Sequence[Layers | None]) -> None:
        base, nets = 0, []
        self.slots: list[tuple[Floats, slice, tuple[int, int], slice]] = []
        for number, network in enumerate(networks):
            if network is None:
                nets.append(Network(base, 0, 0, 0, 0, 1.0, 1.0))
                continue
            base = self._place(network, base, nets, timed=number == 2)
        self.nets = tuple(nets)
        self.theta = np.zeros(base, np.float32)
        for array, where, shape, columns in self.slots:
            values = array.reshape(len(array), -1)[:, columns]
            self.theta[where].reshape(shape)[: len(values), : values.shape[1]] = values
        self.total, self.m, self.v = (np.zeros_like(self.theta) for _ in range(3))

    def _place(self, network: Layers, base: int, nets: list[Network], timed: bool) -> int:
        """Note where the parameters of a network go, from `base`; the first place after them."""
        weights, biases = network.weights, network.biases
        inputs = weights[0].shape[1] - timed
        hidden, layers, outputs = padded(len(biases[0])), len(weights) - 1, len(biases[-1])
        wide = padded(inputs)
        nets.append(Network(base, wide, hidden, layers, outputs, network.omega_first, network.omega_hidden))

        def put(array: Floats, rows: int, width: int, columns: slice) -> None:
            nonlocal base
            self.slots.append((array, slice(base, base + rows * width), (rows, width), columns))
            base += rows * width

        put(weights[0], hidden, wide, slice(0, inputs))
        put(biases[0], hidden, 1, slice(None))
        if timed:
            put(weights[0], hidden, 1, slice(inputs, None))
        else:
            base += hidden  # no column for time
        for layer in range(1, layers):
            put(weights[layer], hidden, hidden, slice(None))
            put(biases[layer], hidden, 1, slice(None))
        put(weights[-1], outputs, hidden, slice(None))
        put(biases[-1], outputs, 1, slice(None))
        return base

    def write_back(self, flat: Floats, targets: Sequence[Floats] | None = None) -> None:
        """Copy flat values into the networks' arrays, or into `targets`: one for each of `slots`, of the same shape."""
        into = [array for array, *_ in self.slots] if targets is None else targets
        for target, (_, where, shape, columns) in zip(into, self.slots, strict=True):
            rows = target.reshape(len(target), -1)
            rows[:, columns] = flat[where].reshape(shape)[: len(rows), : rows[:, columns].shape[1]]


def _workspace(nets: tuple[Network, ...], threads: int) -> Any:
    """Buffers for every thread."""
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
        model=room(4 * LANES),
        lane=room(12 * LANES),
        order=np.zeros((threads, LANES), np.int64),
    )
