"""Named pCASL protocols: what the phantom, the tests and the book are simulated with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from ...physics import Acquisition, Constants


@dataclass(frozen=True)
class Protocol:
    """Timing of a protocol; one entry a delay, times in s.

    Attributes
    ----------
    name, description : str
    labeling_duration, post_labeling_delay : tuple of float
        In the order of labeling for a time-encoded protocol: the block labeled first has the longest delay.
    repeats : int
        How often the whole set of delays is measured.
    encoded : bool
        Whether the delays are the sub-boli of one Hadamard-encoded labeling.
    """

    name: str
    description: str
    labeling_duration: tuple[float, ...]
    post_labeling_delay: tuple[float, ...]
    repeats: int = 1
    encoded: bool = False

    @property
    def final_delay(self) -> float:
        """Delay in s after the last sub-bolus of an encoded protocol; the shortest delay of any other."""
        return self.post_labeling_delay[-1] if self.encoded else min(self.post_labeling_delay)

    def acquisition(self, repeats: int | None = None, constants: Constants | None = None) -> Acquisition:
        """The acquisition of `repeats` repeats, one after the other: T = repeats x delays volumes."""
        n = self.repeats if repeats is None else repeats
        if n < 1:
            raise InputError(f"repeats is {n}; expected 1 or more")
        return Acquisition(
            np.tile(self.labeling_duration, n), np.tile(self.post_labeling_delay, n), constants=constants
        )


def time_encoded(name: str, description: str, blocks: list[float], final_delay: float) -> Protocol:
    """A protocol of sub-boli in the order of labeling: each waits for the later ones and for the last delay."""
    durations = np.asarray(blocks, dtype=float)
    delays = durations[::-1].cumsum()[::-1] - durations + final_delay
    tau, pld = (tuple(round(float(v), 9) for v in values) for values in (durations, delays))
    return Protocol(name, description, tau, pld, encoded=True)


_T1_ADJUSTED_MS = [890, 575, 426, 338, 280, 240, 209, 186, 167, 151, 139]

PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        time_encoded("te11", "Hadamard-12, 11 equal sub-boli, 3.6 s in all", [3.6 / 11] * 11, 0.049),
        time_encoded(
            "te11-t1adjusted",
            "Hadamard-12, 11 sub-boli of equal magnetization after decay",
            [ms / 1000 for ms in _T1_ADJUSTED_MS],
            0.049,
        ),
        time_encoded(
            "te11-freelunch", "Hadamard-12, one sub-bolus of 1.8 s, then ten short", [1.8] + [0.18] * 10, 0.049
        ),
        time_encoded("te7", "Hadamard-8, 7 sub-boli of 1.8 to 0.1 s", [1.8, 0.8, 0.4, 0.15, 0.15, 0.1, 0.1], 0.17),
        Protocol(
            "mpld6",
            "pCASL of 1.4 s, 6 delays, 8 repeats",
            (1.4,) * 6,
            (0.25, 0.5, 0.75, 1.0, 1.25, 1.5),
            repeats=8,
        ),
    )
}


def get_protocol(name: str) -> Protocol:
    """The protocol of that name; InputError with the known names otherwise."""
    if name not in PROTOCOLS:
        raise InputError(f"there is no protocol {name!r}; expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
