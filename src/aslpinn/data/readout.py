"""Sidecar fields on when slices are read, how the background is suppressed, and what the model here cannot follow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .sidecar import Sidecar


def read_slice_timing(
    sidecar: Sidecar, shape: Sequence[int], notes: list[str], steps: list[str]
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
    times = np.array(sidecar.seconds("SliceTiming", shape[axis], f"slices along {direction}"))
    _check_multiband(sidecar, times, notes, kind)
    if kind == "3D":
        if times.any():
            notes.append("SliceTiming is not used: the readout is 3D, all slices have one delay")
        return None, axis
    repetition = sidecar.seconds_or_none("RepetitionTimePreparation", shape[3], "volumes")
    longest = max(repetition) if repetition else 0.0
    if longest and times.max() > longest:
        raise sidecar.error("SliceTiming", f"seconds below RepetitionTimePreparation, {longest:g} s")
    if direction.endswith("-"):
        times = times[::-1]
    times = times - times.min()
    if times.any():
        steps.append(f"slice timing: up to {times.max():g} s added to the delays (axis {direction[0]})")
    return times, axis


def check_repetition(sidecar: Sidecar, time: NDArray[np.float64], volumes: int, notes: list[str]) -> None:
    """A note where labeling and delay take longer than the whole repetition; time: tau + PLD of volumes in s."""
    repetition = sidecar.seconds_or_none("RepetitionTimePreparation", volumes, "volumes")
    longest = max(repetition) if repetition else 0.0
    if 0 < longest < time.max() - 1e-3:
        notes.append(
            f"LabelingDuration + PostLabelingDelay is {time.max():g} s, more than RepetitionTimePreparation, "
            f"{longest:g} s: one of the three is wrong"
        )


def _check_multiband(sidecar: Sidecar, times: NDArray[np.float64], notes: list[str], kind: str) -> None:
    """InputError where slices are not read as many at a time as the multiband factor says."""
    groups = len(np.unique(np.round(times, 4)))
    if "MultibandAccelerationFactor" not in sidecar:
        if kind == "2D" and 1 < groups < times.size:
            notes.append("SliceTiming has times that several slices share, and MultibandAccelerationFactor is missing")
        return
    factor = sidecar.number("MultibandAccelerationFactor", "a whole number of slices read at once", low=1, high=64)
    expected = -(-times.size // factor)
    if factor != int(factor) or (groups != expected and (kind == "2D" or groups > 1)):
        raise sidecar.error(
            "MultibandAccelerationFactor",
            f"{times.size / groups:g}, as SliceTiming has {groups} different times for {times.size} slices "
            f"(or {expected:g} different times)",
        )


def read_suppression(sidecar: Sidecar, notes: list[str], labeling: float = 0.0) -> int:
    """Number of background-suppression pulses between labeling and readout; 0 where there is no suppression.

    By BackgroundSuppressionNumberPulses, or as many as BackgroundSuppressionPulseTime has times. labeling: s, the
    longest labeling.
    """
    suppressed = sidecar.flag("BackgroundSuppression")
    name, times = "BackgroundSuppressionNumberPulses", "BackgroundSuppressionPulseTime"
    expected = "a whole number of pulses, 0 to 20"
    counted: int | None = None
    if times in sidecar:
        given = sidecar.values[times]
        counted = len(given) if isinstance(given, list) else 1
        if counted > 20:
            raise sidecar.error(times, "the times in s of at most 20 pulses, counted from the start of labeling")
        early = [time for time in sidecar.seconds(times, counted, "pulses") if time < labeling] if counted else []
        if early:
            notes.append(
                f"{len(early)} background-suppression pulses come before labeling ends: counted for all of the label"
            )
    if name not in sidecar and counted is None:
        if suppressed:
            notes.append(f"background suppression without {name}: no loss of labeling efficiency is assumed")
        elif suppressed is None:
            notes.append("BackgroundSuppression is missing: none is assumed")
        return 0
    pulses: float = counted or 0
    if name in sidecar:
        pulses = sidecar.number(name, expected, low=0, high=20)
        if pulses != int(pulses):
            raise sidecar.error(name, expected)
        if counted is not None and counted != pulses:
            raise sidecar.error(name, f"{counted}, the number of times in {times}")
    if pulses and suppressed is False:
        which = name if name in sidecar else times
        raise sidecar.error(which, "none, as BackgroundSuppression is false; or BackgroundSuppression true")
    return int(pulses)


def check_readout(sidecar: Sidecar) -> None:
    """InputError for a readout whose signal the kinetic model here does not describe."""
    if sidecar.flag("LookLocker"):
        raise sidecar.error(
            "LookLocker", "false: each readout of a Look-Locker train takes label away, which the model here leaves out"
        )


def read_crushing(sidecar: Sidecar, notes: list[str]) -> bool:
    """Whether vascular crushing takes the signal of arteries away, so that none is to be fitted."""
    crushed = sidecar.flag("VascularCrushing")
    if crushed is None and "VascularCrushingVENC" in sidecar:
        notes.append("VascularCrushingVENC without VascularCrushing: arteries are taken as crushed")
        crushed = True
    if crushed:
        notes.append("vascular crushing: the arterial component is off")
    return bool(crushed)
