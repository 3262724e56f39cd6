"""The labeling duration at any delay of an acquisition, and where collocation times are drawn; no PyTorch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...physics import Acquisition
from ..problem import Floats


class Durations:
    """The acquired times and tau(PLD) between them, as the acquisition's fifth-order spline tabulated, float32.

    With `initial` t = 0, where labeling began, is one more time, the last, and times fall from there on: tau is that of
    the shortest PLD until then.

    Attributes
    ----------
    nominal, tau, slope : (1, D)
        Acquired delays, slice time not added, and labeling durations in s; d tau/dt there.
    table : (points, 2)
        tau and its slope at delays from `first` to `last`, in s.
    """

    def __init__(self, acquisition: Acquisition, initial: bool = False, points: int = 1025) -> None:
        pld, tau = acquisition.post_labeling_delay, acquisition.labeling_duration
        slope, shortest = acquisition.duration_at(pld)[1], int(np.argmin(pld))
        earliest, held = pld[shortest], tau[shortest]
        if initial:
            pld, tau, slope = np.append(pld, -held), np.append(tau, held), np.append(slope, 0.0)
        self.first, self.last = float(pld.min()), float(pld.max())
        grid = np.linspace(self.first, self.last, points)
        table = np.where(grid < earliest, [[held], [0.0]], acquisition.duration_at(np.maximum(grid, earliest)))
        self.table: Floats = np.ascontiguousarray(table.T, np.float32)
        self.nominal, self.tau, self.slope = (np.array(values, np.float32)[None] for values in (pld, tau, slope))
        self.knots = (np.unique(pld) - self.first) / max(self.last - self.first, 1e-9)

    def draw(self, n: int, count: int, rng: np.random.Generator, at: str = "uniform") -> NDArray[np.float32]:
        """Random delays (n, count) as shares of the way from the first to the last PLD.

        "uniform" is the paper's choice. "between" draws them towards the middle of the interval between two acquired
        delays, into two fifths of it, "near" towards its ends, where the samples are.
        """
        drawn = rng.random((n, count), np.float32)
        if at == "uniform" or len(self.knots) < 2:
            return drawn
        above = np.searchsorted(self.knots, drawn, side="right").clip(1, len(self.knots) - 1)
        low, width = self.knots[above - 1], self.knots[above] - self.knots[above - 1]
        place = (drawn - low) / width - 0.5
        place = 0.4 * place if at == "between" else np.sign(place) * (0.5 - 0.4 * (0.5 - np.abs(place)))
        return (low + width * (0.5 + place)).astype(np.float32)
