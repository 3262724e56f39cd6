"""Sidecar fields on when slices are read and how the background is suppressed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .images import Image
from .sidecar import Sidecar


def read_slice_timing(
    sidecar: Sidecar, image: Image, notes: list[str], steps: list[str]
) -> tuple[NDArray[np.float64] | None, int]:
    """Time in s by which each slice is read after the first, and the array axis of slices; None for a 3D readout."""
    kind = sidecar.text("MRAcquisitionType", ("2D", "3D"), default="unknown")
    direction = sidecar.text("SliceEncodingDirection", ("i", "j", "k", "i-", "j-", "k-"), default="k")
    axis = "ijk".index(direction[0])
    if "SliceTiming" not in sidecar:
        if kind == "2D":
            notes.append("a 2D readout without SliceTiming: every slice is given the delay of the first")
        if kind == "unknown":
            notes.append("MRAcquisitionType is missing: a 3D readout is assumed, one delay for all slices")
        return None, axis
    times = np.array(sidecar.seconds("SliceTiming", image.data.shape[axis], f"slices along {direction}"))
    if kind == "3D":
        if times.any():
            notes.append("SliceTiming is not used: the readout is 3D, all slices have one delay")
        return None, axis
    longest = sidecar.seconds_or_none("RepetitionTimePreparation")
    if longest and times.max() > longest:
        raise sidecar.error("SliceTiming", f"seconds below RepetitionTimePreparation, {longest:g} s")
    if direction.endswith("-"):
        times = times[::-1]
    times = times - times.min()
    if times.any():
        steps.append(f"slice timing: up to {times.max():g} s added to the delays (axis {direction[0]})")
    return times, axis


def read_suppression(sidecar: Sidecar, notes: list[str]) -> int:
    """Number of background-suppression pulses between labeling and readout; 0 where there is no suppression."""
    suppressed = sidecar.flag("BackgroundSuppression")
    name = "BackgroundSuppressionNumberPulses"
    if name not in sidecar:
        if suppressed:
            notes.append(f"background suppression without {name}: no loss of labeling efficiency is assumed")
        elif suppressed is None:
            notes.append("BackgroundSuppression is missing: none is assumed")
        return 0
    pulses = sidecar.number(name, "a whole number of pulses, 0 to 20", low=0, high=20)
    if pulses != int(pulses):
        raise sidecar.error(name, "a whole number of pulses, 0 to 20")
    if pulses and suppressed is False:
        raise sidecar.error(name, "0, as BackgroundSuppression is false; or BackgroundSuppression true")
    return int(pulses)
