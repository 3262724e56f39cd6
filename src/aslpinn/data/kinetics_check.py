"""Does a series agree with the kinetics? Its sign, and the order of what was encoded, read off the mean brain curve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..physics import Acquisition, Constants, delta_m, hadamard
from .encoded import TimeEncoding

Float = NDArray[np.float64]

#: Another reading counts as found only where it leaves less than this share of what the given one leaves, ...
BETTER = 0.4
#: ... the given one leaves more than this share of the curve's energy unexplained, ...
UNEXPLAINED = 0.04
#: ... and the difference is this many times what the curve's noise makes likely (a chi-square difference).
EVIDENCE = 30.0
#: The same for two volumes exchanged, of which there are many to try: a real series in order leaves 1.4 % unexplained,
#: and the best of its exchanges 0.86 times as much.
SWAP_BETTER, SWAP_UNEXPLAINED = 0.25, 0.01
#: Shares of the curve's energy that the model leaves from which a series is doubtful, and from which it is not fitted,
#: where noise does not explain them.
DOUBTFUL, HOPELESS = 0.03, 0.1
#: Distinct delays from which a curve can contradict the model at all, which has three parameters.
ENOUGH = 4


@dataclass(frozen=True)
class KineticsCheck:
    """What the mean curve says.

    curve: (K,) mean delta-M, one entry a distinct delay; best: the hypothesis that explains it best ("as given" where
    nothing contradicts it); unexplained: share of the curve's energy that each hypothesis leaves; att: s, of the best;
    problem: why the series is not to be fitted as it is, or None; doubt: what should be looked at, or None.
    """

    curve: Float
    best: str
    unexplained: dict[str, float]
    att: float
    problem: str | None
    doubt: str | None = None

    @property
    def agrees(self) -> bool:
        """True where order and sign are as the sidecar says, or the curve is too noisy to contradict it."""
        return self.problem is None


@dataclass(frozen=True)
class Reading:
    """A way to read the volumes: the mean curve in that reading, its timing in s, and which mistake it would mend."""

    curve: Float
    tau: Float
    pld: Float
    mistake: str = ""


def check_kinetics(
    decoded: ArrayLike,
    mask: ArrayLike,
    encoding: TimeEncoding,
    constants: Constants | None = None,
    file: object = "sidecar",
    force: bool = False,
    delay: float = 0.0,
) -> KineticsCheck:
    """Compare the mean brain curve with Buxton's model under the order and sign given, and under the usual mistakes.

    Mistakes tried: control and label exchanged; columns, durations or both in reverse order; the other named matrix;
    two encoded volumes exchanged. A curve that none of them explains is a problem too, one that the model follows badly
    a doubt. A curve with no signal above its noise contradicts nothing.

    Parameters
    ----------
    decoded : (X, Y, Z, K) array
        Decoded series, mean over repeats, any unit.
    mask : (X, Y, Z) array
        Brain.
    force : bool
        Return the finding instead of raising it.
    delay : float
        s by which the mask's slices are read later than the first, in the mean.

    Raises
    ------
    InputError
        Where another reading explains the curve and the given one does not, or none does: says which.
    """
    curve, noise = _mean_curve(np.asarray(decoded, dtype=float), np.asarray(mask, dtype=bool))
    readings = _hypotheses(curve, encoding, delay)
    swaps = {}
    if encoding.matrix.shape[1] == encoding.size - 1:  # the decoded curve holds all of the volumes but a constant
        raw = hadamard.encode(curve, encoding.matrix, np.array(0.0))
        for first, second in combinations(range(encoding.size), 2):
            name, order = f"volumes {first} and {second} exchanged", np.arange(encoding.size)
            order[[first, second]] = second, first
            values = hadamard.decode(raw[order], encoding.matrix)
            told = f"encoded {name}; expected the order of the matrix's rows"
            swaps[name] = replace(readings["as given"], curve=values, mistake=told)
    found, mistake = _judged(noise, readings, swaps, constants or Constants())
    if mistake is not None:
        field = "TimeEncodedMatrix" if encoding.kind == "explicit" else "TimeEncodedMatrixType"
        given = 100 * found.unexplained["as given"]
        told = (
            f"{mistake} (the mean brain curve leaves {given:.1f} % unexplained as given, "
            f"{100 * found.unexplained[found.best]:.1f} % so)"
            if mistake
            else f"{given:.0f} % of the mean brain curve stay unexplained; expected the volumes in the rows' order"
        )
        said = f"{file}: {field} or LabelingDuration contradicts the kinetics: {told}. {_WAYS_OUT}"
        found = replace(found, problem=said)
    if found.problem and not force:
        raise InputError(found.problem)
    return found


_WAYS_OUT = "Correct the field, or go on with --force"


def check_sign(
    means: ArrayLike,
    mask: ArrayLike,
    acquisition: Acquisition,
    file: object = "series",
    force: bool = False,
    delay: float = 0.0,
    noise: float = 0.0,
) -> KineticsCheck:
    """The same for a series that was not encoded: is it control minus label, and does its mean curve follow the model?

    Parameters
    ----------
    means : (X, Y, Z, K) array
        Mean delta-M of each distinct delay of the acquisition, any unit.
    noise : float
        Variance of an entry of the mean curve as repeats show it, where there are repeats.

    Raises
    ------
    InputError
        Where the mean curve is negative, or no curve of the model.
    """
    curve, spread = _mean_curve(np.asarray(means, dtype=float), np.asarray(mask, dtype=bool))
    asis = Reading(curve, acquisition.labeling_duration, acquisition.post_labeling_delay + delay)
    negative = (
        "the mean of control minus label is negative in the brain; expected a positive one: are control and label, or "
        "is the sign of deltam volumes, exchanged?"
    )
    readings = {"as given": asis, "as given, sign flipped": replace(asis, curve=-curve, mistake=negative)}
    found, mistake = _judged(max(noise, spread), readings, {}, acquisition.constants)
    if mistake is not None:
        share = f"{100 * found.unexplained['as given']:.0f} % of the mean brain curve stay unexplained by perfusion"
        said = mistake or f"{share}; expected LabelingDuration and PostLabelingDelay in the order of the volumes"
        found = replace(found, problem=f"{file}: {said}" + ("" if mistake else f". {_WAYS_OUT}"))
    if found.problem and not force:
        raise InputError(found.problem)
    return found


def exchanged(deltam: ArrayLike, mask: ArrayLike, condition: ArrayLike) -> list[int]:
    """Volumes that are the negative of the other repeats of their delay: their control and label are exchanged.

    A volume's slope on the mean of all repeats, each with the sign that its own mean has, is -1 where it is exchanged
    and 1 where it is not. deltam: (X, Y, Z, T); condition: (T,), which volumes are repeats.
    """
    values, groups = np.asarray(deltam, dtype=float)[np.asarray(mask, dtype=bool)], np.asarray(condition)
    found: list[int] = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        brain = values[:, members].mean(axis=0)
        if members.size < 2 or not brain.min() < 0 < brain.max() or -brain.min() < 0.5 * brain.max():
            continue
        pattern = (values[:, members] * np.sign(brain)).mean(axis=1)
        energy = float(pattern @ pattern)
        noise = float(np.median(values[:, members].var(axis=1))) * energy
        for volume in members[brain < 0]:
            along = float(values[:, volume] @ pattern)
            if along < -0.5 * energy and along**2 > EVIDENCE * noise:
                found.append(int(volume))
    return sorted(found)


def _mean_curve(values: Float, mask: NDArray[np.bool_]) -> tuple[Float, float]:
    """Mean over the mask, (K,), and the variance of one of its entries, as if what voxels differ by were noise."""
    inside = values[mask]
    if inside.size == 0:
        raise InputError("the mask is empty: order and sign of the sub-boli cannot be checked")
    return inside.mean(axis=0), float(np.median(inside.var(axis=0))) / inside.shape[0]


def _judged(
    noise: float, readings: dict[str, Reading], swaps: dict[str, Reading], constants: Constants
) -> tuple[KineticsCheck, str | None]:
    """What the model says of the readings, "as given" the first of them, and the mistake found.

    The mistake is None where nothing contradicts the given reading, empty where no reading is followed.
    """
    left: dict[str, float] = {}
    att: dict[str, float] = {}
    for name, reading in (readings | swaps).items():
        residual, att[name] = _fit(reading.curve, _shapes(reading.tau, reading.pld, constants))
        total = float(reading.curve @ reading.curve)
        left[name] = residual / total if total > 0 else 0.0
    curve = readings["as given"].curve
    given, energy = left["as given"], float(curve @ curve)
    # What the noise of the curve's entries leaves: chi-square, its mean and six standard deviations.
    likely = curve.size + 6.0 * np.sqrt(2.0 * curve.size)

    def clear(name: str, better: float, unexplained: float) -> bool:
        evidence = (given - left[name]) * energy / noise if noise > 0 else np.inf
        followed = left[name] < max(HOPELESS, likely * noise / energy if energy > 0 else 0.0)
        return followed and given > unexplained and left[name] < better * given and evidence > EVIDENCE

    best = min(readings, key=lambda name: (left[name], name != "as given"))
    swap = min(swaps, key=lambda name: left[name], default="")
    found = best if clear(best, BETTER, UNEXPLAINED) else "as given"
    if swap and clear(swap, SWAP_BETTER, SWAP_UNEXPLAINED) and left[swap] < BETTER * left[best]:
        found = swap
    beyond = curve.size >= ENOUGH and given * energy > likely * noise
    doubt = None
    if found == "as given" and beyond and DOUBTFUL < given <= HOPELESS:
        doubt = (
            f"the model leaves {100 * given:.1f} % of the mean brain curve unexplained, more than its noise: look at "
            "the order of the volumes, the delays and the mask"
        )
    kept = {name: share for name, share in left.items() if name in readings or name == found}
    mistake = (readings | swaps)[found].mistake or ("" if beyond and given > HOPELESS else None)
    return KineticsCheck(curve, found, kept, att[found], None, doubt), mistake


def _hypotheses(curve: Float, encoding: TimeEncoding, delay: float) -> dict[str, Reading]:
    """Readings of the same decoded volumes, by name, of either sign."""
    tau, pld = encoding.labeling_duration, encoding.post_labeling_delay
    backwards = hadamard.effective_delays(tau[::-1], encoding.final_delay)
    first = "expected the first to be labeled first"
    readings = {
        "as given": (tau, pld, ""),
        "columns reversed": (tau[::-1], pld[::-1], f"the columns (sub-boli) are in reverse order; {first}"),
        "durations reversed": (tau[::-1], backwards, f"LabelingDuration is in reverse order; {first}"),
        "both reversed": (tau, backwards[::-1], f"columns and LabelingDuration are both in reverse order; {first}"),
    }
    if encoding.kind in ("Hadamard", "Walsh"):
        other = "Walsh" if encoding.kind == "Hadamard" else "Hadamard"
        # Both names share their columns: column k of the given matrix is column order[k] of the other.
        agreement = encoding.matrix.T.astype(int) @ hadamard.matrix(other, encoding.size).astype(int)
        order = np.argmax(agreement, axis=1)
        told = f"TimeEncodedMatrixType is {encoding.kind} but the data follow {other}"
        readings[f"{other} matrix"] = (tau[order], pld[order], told)
        reverse = (tau[::-1][order], pld[::-1][order], f"{told}, last sub-bolus first")
        readings[f"{other} matrix, columns reversed"] = reverse
    negative = "the sign is wrong: delta-M is negative in the brain; expected +1 for control and -1 for label"
    found = {}
    for name, (durations, delays, mistake) in readings.items():
        found[name] = Reading(curve, durations, delays + delay, mistake)
        both = f"{negative}; {mistake}" if mistake else negative
        found[f"{name}, sign flipped"] = Reading(-curve, durations, delays + delay, both)
    return found


def _shapes(tau: Float, pld: Float, constants: Constants) -> Float:
    """`_curves` of a timing, which many readings share."""
    return _curves(tuple(tau.tolist()), tuple(pld.tolist()), constants)


@lru_cache(maxsize=32)
def _curves(tau: tuple[float, ...], pld: tuple[float, ...], constants: Constants) -> Float:
    """Mean-brain curves of unit CBF for each mean ATT and spread tried: (candidates, K).

    The brain's transit times are taken as normal about a mean on a grid, with an SD of 0.1 to 0.5 s; at a fixed T1'
    (that of 50 ml/100g/min) the signal is linear in CBF.
    """
    offsets = np.linspace(-2.0, 2.0, 9)
    shapes = []
    for spread in _SPREADS:
        transit = np.maximum(_CENTERS[:, None] + spread * offsets, 0.05)[..., None]  # (centers, offsets, 1)
        model = delta_m(50.0, transit, np.array(pld), np.array(tau), constants)
        shapes.append(np.einsum("cok,o->ck", model, np.exp(-(offsets**2) / 2.0)) / 50.0)
    return np.concatenate(shapes) / np.exp(-(offsets**2) / 2.0).sum()


#: Mean and SD in s of the brain's transit times that are tried.
_CENTERS, _SPREADS = np.arange(0.3, 2.51, 0.05), (0.1, 0.25, 0.5)


def _fit(curve: Float, shapes: Float) -> tuple[float, float]:
    """Squared error and ATT in s of the best mean-brain model with CBF of 0 or more."""
    norms = np.einsum("ck,ck->c", shapes, shapes)
    fitted = np.maximum(shapes @ curve, 0.0) ** 2 / np.where(norms > 0, norms, np.inf)
    top = int(np.argmax(fitted))
    if not fitted[top] > 0:
        return float(curve @ curve), float("nan")
    return float(curve @ curve - fitted[top]), float(_CENTERS[top % _CENTERS.size])


def mean_perfusion(means: ArrayLike, mask: ArrayLike, acquisition: Acquisition, delay: float = 0.0) -> float:
    """CBF in ml/100g/min that explains the mean brain curve, were it a fraction of M0b."""
    curve, _ = _mean_curve(np.asarray(means, dtype=float), np.asarray(mask, dtype=bool))
    shapes = _shapes(acquisition.labeling_duration, acquisition.post_labeling_delay + delay, acquisition.constants)
    norms = np.einsum("ck,ck->c", shapes, shapes)
    along = shapes @ curve
    top = int(np.argmax(np.maximum(along, 0.0) ** 2 / np.where(norms > 0, norms, np.inf)))
    return float(along[top] / norms[top]) if norms[top] > 0 else 0.0
