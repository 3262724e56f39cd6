"""What the teaching notebooks need besides the core: answers that are checked without stopping a page, and a training
loop whose loss a student writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aslpinn.physics import delta_m, delta_m_rate

if TYPE_CHECKING:
    from torch import Tensor

    from aslpinn.physics import Acquisition

Floats = NDArray[np.floating]


def solved(task: str, mine: Any, reference: Any, arguments: Sequence[Any] = (), rtol: float = 1e-3) -> Any:
    """What a page goes on with: a student's answer where it is right, else the reference; prints which, never raises.

    mine is a value, or a function that is tried on `arguments` (reference then too); None or ... means not written
    yet. Values are compared with a tolerance of rtol, relative to the largest of the reference.
    """
    try:
        found = mine(*arguments) if callable(mine) else mine
        if found is None or found is ...:
            print(f"{task}: not written yet. The page goes on with the book's own answer.")
            return reference
        expected = reference(*arguments) if callable(reference) else reference
        words = _difference(found, expected, rtol)
    except Exception as error:  # whatever a student wrote: said, and the page goes on
        print(f"{task}: stops with {type(error).__name__}: {error}. The page goes on with the book's own answer.")
        return reference
    if words:
        print(f"{task}: not yet right, {words}. The page goes on with the book's own answer.")
        return reference
    print(f"{task}: right.")
    return mine


def _difference(found: Any, expected: Any, rtol: float) -> str:
    """Where two answers differ, in words; an empty string where they agree."""
    a, b = (np.array([_numbers(part) for part in _parts(value)], dtype=object) for value in (found, expected))
    if len(a) != len(b):
        return f"{len(a)} values, expected {len(b)}"
    for one, other in zip(a, b, strict=True):
        one, other = np.asarray(one, float), np.asarray(other, float)
        if one.shape != other.shape:
            return f"shape {one.shape}, expected {other.shape}"
        error = np.abs(one - other)
        if not np.all(error <= rtol * max(float(np.max(np.abs(other))), 1e-30)):
            worst = np.unravel_index(int(np.argmax(np.where(np.isnan(error), np.inf, error))), error.shape)
            return f"found {one[worst]:.4g}, expected {other[worst]:.4g}"
    return ""


def _parts(value: Any) -> Sequence[Any]:
    return value if isinstance(value, tuple) else (value,)


def _numbers(value: Any) -> Floats:
    return np.asarray(value.detach() if hasattr(value, "detach") else value, float)


def sensitivity(cbf: ArrayLike, att: ArrayLike, pld: ArrayLike, tau: ArrayLike) -> tuple[Floats, Floats]:
    """dS/dCBF per ml/100g/min and dS/dATT per s of Buxton's signal, by central differences."""
    c, a = np.asarray(cbf, float), np.asarray(att, float)
    by_cbf = (delta_m(c + 0.5, a, pld, tau) - delta_m(c - 0.5, a, pld, tau)) / 1.0
    by_att = (delta_m(c, a + 0.005, pld, tau) - delta_m(c, a - 0.005, pld, tau)) / 0.01
    return by_cbf, by_att


@dataclass(frozen=True)
class Budget:
    """A scan to plan: label-control pairs at any delays, in a given time.

    scan, tau, readout in s; noise is the SD of one pair's difference (fraction of M0b); atts (K,) s are the transit
    times that have to be served, at cbf ml/100g/min.
    """

    scan: float = 300.0
    tau: float = 1.8
    readout: float = 0.7
    noise: float = 0.002
    cbf: float = 50.0
    atts: tuple[float, ...] = (0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.9)

    def repeats(self, delays: ArrayLike) -> float:
        """How often all delays can be measured."""
        return self.scan / float(np.sum(2 * (self.tau + np.asarray(delays, float) + self.readout)))

    def bounds(self, delays: ArrayLike) -> tuple[float, float]:
        """Smallest SD (Cramer-Rao) of CBF in ml/100g/min and of ATT in s, root mean square over atts."""
        by = np.stack(sensitivity(self.cbf, np.array(self.atts)[:, None], np.asarray(delays, float), self.tau))
        fisher = np.einsum("iat,jat->aij", by, by) * self.repeats(delays) / self.noise**2
        if np.any(np.linalg.cond(fisher) > 1e12):
            return math.inf, math.inf
        variances = np.linalg.inv(fisher)[:, [0, 1], [0, 1]]
        cbf, att = np.sqrt(variances.mean(axis=0))
        return float(cbf), float(att)


def fit_voxel(samples: ArrayLike, pld: ArrayLike, tau: ArrayLike) -> tuple[float, float]:
    """CBF in ml/100g/min and ATT in s of one voxel: a grid over ATT of 0.01 s, CBF as a quotient, T1' at CBF 50."""
    att = np.arange(0.1, 3.0, 0.01)
    unit = delta_m(50.0, att[:, None], np.asarray(pld, float), np.asarray(tau, float)) / 50.0
    cbf = (unit @ np.asarray(samples, float)) / np.maximum((unit**2).sum(axis=1), 1e-30)
    cost = ((np.asarray(samples, float) - cbf[:, None] * unit) ** 2).sum(axis=1)
    best = int(np.argmin(cost))
    return float(cbf[best]), float(att[best])


@dataclass(frozen=True)
class Batch:
    """What a loss may look at, for n voxels: D acquired times, then 4 random ones; signals are scaled to about 1.

    measured (n, D); t, fitted, rate, signal, p (n, D + 4): time in s, f_tissue and its slope, and Buxton's signal S and
    its slope P at the CBF and ATT of f_ode.
    """

    measured: Tensor
    t: Tensor
    fitted: Tensor
    rate: Tensor
    signal: Tensor
    p: Tensor

    @property
    def acquired(self) -> int:
        """D."""
        return int(self.measured.shape[1])


Objective = Callable[[Batch], Any]


def closed_form(batch: Batch) -> Any:
    """Mean square of Buxton's signal minus the measured one."""
    return (batch.signal[:, : batch.acquired] - batch.measured).square().mean()


def pointwise(batch: Batch) -> Any:
    """The paper's loss: f_tissue through the samples, its slope equal to P; the physics weighs a half."""
    data = (batch.fitted[:, : batch.acquired] - batch.measured).square().mean()
    return data + 0.5 * (batch.rate - batch.p).square().mean()


def increments(batch: Batch) -> Any:
    """The same with differences between successive times in place of slopes."""
    data = (batch.fitted[:, : batch.acquired] - batch.measured).square().mean()
    order = batch.t.argsort(dim=1)
    physics = (batch.fitted - batch.signal).gather(1, order).diff(dim=1)
    return data + 0.5 * physics.square().mean()


class Lesson:
    """A series to train on with any loss: the two networks of the paper on one small hash encoding, plain AdamW.

    Parameters
    ----------
    series : (X, Y, Z, T) array, delta-M / M0b; mask : (X, Y, Z) array; acquisition; voxel_size in mm
    seed : int
        Of start values, batches and random times.
    """

    def __init__(
        self, series: Floats, mask: NDArray[Any], acquisition: Acquisition, voxel_size: Any, seed: int = 0
    ) -> None:
        from aslpinn.estimation import prepare
        from aslpinn.estimation.config import FitConfig
        from aslpinn.estimation.fitting import training_data
        from aslpinn.estimation.problem import Request

        self.config = FitConfig(
            objective="pointwise", levels=4, base=8, finest=48, att_levels=0, batch=1000, collocation=4
        )
        self.problem = prepare(series, mask, acquisition)
        self.data = training_data(self.problem, Request(voxel_size=tuple(voxel_size)), self.config)
        self.seed = seed

    def _start(self) -> tuple[Any, Any, Any]:
        import torch

        from aslpinn.estimation.fitting import Fields

        fields = Fields(self.config, self.seed)
        return fields, fields.precompute(self.data.positions), torch.Generator().manual_seed(self.seed)

    def _batch(self, fields: Any, indices: Any, subset: Any, generator: Any) -> Batch:
        data = self.data
        code, cbf, att = fields(indices, subset)
        pld = data.pld if len(data.pld) == 1 else data.pld[subset]
        times = data.durations.collocated(pld, len(subset), self.config.collocation, generator)
        fitted, rate = fields.signal_field.with_rate(code, times.t)
        place = (cbf[:, None], att[:, None], times.pld, times.tau)
        signal = data.scale * delta_m(*place, data.constants)
        p = data.scale * delta_m_rate(*place, times.slope, data.constants)
        return Batch(data.signal[subset], times.t, fitted, rate, signal, p)

    def example(self) -> Batch:
        """The batch of 50 voxels before training, to try a loss on."""
        import torch

        fields, indices, generator = self._start()
        return self._batch(fields, indices, torch.arange(min(50, len(self.data.signal))), generator)

    def train(self, objective: Objective, epochs: int) -> tuple[Floats, Floats, list[float]]:
        """Train new networks: maps of CBF and ATT (X, Y, Z), and the mean loss of every epoch.

        Raises FitError where the loss is not finite.
        """
        import torch

        from aslpinn.errors import FitError
        from aslpinn.estimation.fitting import evaluate, learning_rate, minibatches

        fields, indices, generator = self._start()
        optimizer = torch.optim.AdamW(fields.parameters(), lr=self.config.lr, weight_decay=0.01)
        n = len(self.data.signal)
        per_epoch, step, history = math.ceil(n / self.config.batch), 0, []
        for epoch in range(epochs):
            total = 0.0
            for subset in minibatches(n, self.config.batch, generator):
                rate = learning_rate(self.config, epoch, step, per_epoch * epochs)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                loss = objective(self._batch(fields, indices, subset, generator))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(subset) / n
                step += 1
            if not math.isfinite(total):
                raise FitError(f"the loss is {total} in epoch {epoch + 1}; expected a finite number: check its formula")
            history.append(total)
        cbf, att = evaluate(fields, indices)
        return self.problem.volume(cbf), self.problem.volume(att), history
