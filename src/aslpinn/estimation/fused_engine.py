"""The compiled engine on NumPy arrays: training steps in one loop, on the memory of tables and networks.

PyTorch is not needed here; `fused.FusedTrainer` hands over the memory of its modules, `closed_form` arrays of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..fields.fused import LANES, Network, padded
from ..fields.fused_table import rates_of, table_gradient_step
from ..fields.plain import Floats, PlainEncoding, PlainSiren
from ..fields.threads import on_threads, workers
from ..physics.kinetics import Factors
from .config import FitConfig
from .fused_samples import Batch
from .fused_step import CLOSED_FORM, DERIVATIVE, INCREMENTS, ODE, Table, Work, gradients, weights_step

MOST_UNITS = 256  # units of work in a step, each with its own sum of weight gradients


class Engine:
    """AdamW steps on f_ode, ATT's own network where there is one, and f_tissue where the objective needs it.

    Tables are trained in place; weights of the networks in a padded copy, which `sync` writes back.

    Parameters
    ----------
    networks
        f_ode, ATT's own or None, f_tissue or None.
    encodings, index
        Of f_ode (f_tissue shares it) and of ATT's own network; table rows and weights (N, levels, 8) of each.
    batch, physics, config
        The samples, the constants, and the settings: objective, collocation and the losses' weights count here.
    """

    def __init__(
        self,
        networks: Sequence[PlainSiren | None],
        encodings: Sequence[PlainEncoding],
        index: Sequence[tuple[NDArray[np.uint32], Floats]],
        batch: Batch,
        physics: Factors,
        config: FitConfig,
    ) -> None:
        pointwise = ODE if config.reading == "ode" else DERIVATIVE
        self.objective = {"closed-form": CLOSED_FORM, "increments": INCREMENTS}.get(config.objective, pointwise)
        self.collocation = 0 if config.objective == "closed-form" else config.collocation
        self.config, self.batch, self.physics, self.steps = config, batch, physics, 0
        self.threads = workers()
        self.packed = Packed(networks)
        self.tables = [TableState(encoding, self.threads) for encoding in encodings]
        self.index = [Table(state.table, *pair) for state, pair in zip(self.tables, index, strict=True)]
        sums = batch.weight.sum(axis=1, dtype=np.float64)
        self.weight_sums = np.broadcast_to(sums, (len(batch.signal),))
        self._work = _workspace(self.packed.nets, self.threads)
        self._room: dict[int, tuple[Any, ...]] = {}

    def gradients(self, points: NDArray[np.int64], drawn: Floats | None = None) -> dict[str, float]:
        """The losses of a batch of voxels; gradients are left for `update`.

        drawn (n, collocation) in [0, 1): where the collocation times fall, for objectives that have them.
        """
        n, times = len(points), self.batch.signal.shape[1] + self.collocation
        if drawn is None:
            drawn = np.empty((n, 0), np.float32)
        pairs = n * (times - 1 if self.config.objective == "increments" else times)
        weight = max(float(self.weight_sums[points].sum()), 1e-12)
        shares = (self.config.alpha / weight, self.config.lambda_physics / pairs) if self.objective else (1 / weight, 0)
        self.points = points
        self.partial, self.g_codes, sums = self._buffers(n)
        factors = np.array(shares, np.float32)
        on_threads(
            self.threads, gradients, self.packed.theta, self.packed.nets, self.index[0], self.index[-1], self.batch,
            points, drawn, self.physics, self.objective, factors, self._work, self.partial,
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
                state.table.ravel(), state.m, state.v, state.scratch, rates,
            )  # fmt: skip

    def sync(self) -> None:
        """Write the networks' weights back into their arrays."""
        self.packed.write_back(self.packed.theta)

    def _buffers(self, n: int) -> tuple[Any, ...]:
        """Sums of units and gradients of codes for a batch of n voxels; kept, as an epoch has one or two sizes."""
        if n not in self._room:
            units = min(MOST_UNITS, -(-n // LANES))
            codes = [np.empty((n, state.width), np.float32) for state in self.tables]
            partial = np.empty((units, self.packed.theta.size), np.float32)
            self._room[n] = (partial, codes, np.empty((units, 2)))
        return self._room[n]


class TableState:
    """A table, shared with its encoding, and AdamW's moments of it."""

    def __init__(self, encoding: PlainEncoding, threads: int) -> None:
        self.table, self.width = encoding.table, encoding.width
        self.offsets = np.array([level.offset for level in encoding.levels] + [len(self.table)])
        self.m, self.v = np.zeros(self.table.size, np.float32), np.zeros(self.table.size, np.float32)
        largest = max(level.rows for level in encoding.levels) * self.table.shape[1]
        self.scratch = np.empty((threads, largest), np.float32)


class Packed:
    """Weights of up to three networks in one flat array, padded as `fields.fused` wants, with AdamW's moments."""

    def __init__(self, networks: Sequence[PlainSiren | None]) -> None:
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

    def _place(self, network: PlainSiren, base: int, nets: list[Network], timed: bool) -> int:
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
