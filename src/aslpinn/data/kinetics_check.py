"""Does a decoded series agree with the kinetics? Order and sign of the sub-boli, read off the mean brain curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..physics import Constants, delta_m, hadamard
from .encoded import Encoding

Float = NDArray[np.float64]

#: Another order counts as found only where it leaves less than this share of what the given one leaves unexplained, ...
BETTER = 0.4
#: ... the given one leaves more than this share of the curve's energy unexplained, ...
UNEXPLAINED = 0.04
#: ... and the difference is this many times what the curve's noise makes likely (a chi-square difference).
EVIDENCE = 30.0


@dataclass(frozen=True)
class KineticsCheck:
    """What the mean curve says.

    curve: (K,) mean delta-M in the order of the columns; best: the hypothesis that explains it best ("as given" where
    nothing contradicts it); unexplained: share of the curve's energy that each hypothesis leaves; att: s, of the best.
    """

    curve: Float
    best: str
    unexplained: dict[str, float]
    att: float
    problem: str | None

    @property
    def agrees(self) -> bool:
        """True where order and sign are as the sidecar says, or the curve is too noisy to contradict it."""
        return self.problem is None


_ADVICE = {
    "columns reversed": "the columns (sub-boli) are in reverse order; expected the first column to be labeled first",
    "durations reversed": "LabelingDuration is in reverse order; expected the first entry to be labeled first",
    "both reversed": "columns and LabelingDuration are both in reverse order; expected the first to be labeled first",
}


def check_kinetics(
    decoded: ArrayLike,
    mask: ArrayLike,
    encoding: Encoding,
    constants: Constants | None = None,
    file: object = "sidecar",
    force: bool = False,
) -> KineticsCheck:
    """Compare the mean brain curve with Buxton's model under the order and sign given, and under the usual mistakes.

    Mistakes tried: control and label exchanged; columns, durations or both in reverse order; the other named matrix.
    A curve with no signal above its noise contradicts nothing.

    Parameters
    ----------
    decoded : (X, Y, Z, K) array
        Decoded series, mean over repeats, any unit.
    mask : (X, Y, Z) array
        Brain.
    force : bool
        Return the finding instead of raising it.

    Raises
    ------
    InputError
        Where another reading explains the curve and the given one does not: says which.
    """
    inside = np.asarray(decoded, dtype=float)[np.asarray(mask, dtype=bool)]
    if inside.size == 0:
        raise InputError("the mask is empty: order and sign of the sub-boli cannot be checked")
    curve = inside.mean(axis=0)
    noise = float(np.median(inside.var(axis=0))) / inside.shape[0]
    energy = float(curve @ curve)
    left: dict[str, float] = {}
    att: dict[str, float] = {}
    for name, candidate in _hypotheses(encoding).items():
        for sign, suffix in ((1.0, ""), (-1.0, ", sign flipped")):
            residual, at = _fit(sign * curve, *candidate, constants or Constants())
            left[name + suffix], att[name + suffix] = residual / energy if energy > 0 else 0.0, at
    best = min(left, key=lambda name: (left[name], name != "as given"))
    given = left["as given"]
    evidence = (given - left[best]) * energy / noise if noise > 0 else np.inf
    clear = given > UNEXPLAINED and left[best] < BETTER * given and evidence > EVIDENCE
    problem = _message(best, left, encoding, file) if clear else None
    if problem and not force:
        raise InputError(problem)
    return KineticsCheck(curve, best if clear else "as given", left, att[best if clear else "as given"], problem)


def _hypotheses(encoding: Encoding) -> dict[str, tuple[Float, Float]]:
    """Readings of the same decoded volumes, by name: (tau, PLD) of each column."""
    tau, pld = encoding.labeling_duration, encoding.post_labeling_delay
    backwards = hadamard.effective_delays(tau[::-1], encoding.final_delay)
    readings = {
        "as given": (tau, pld),
        "columns reversed": (tau[::-1], pld[::-1]),
        "durations reversed": (tau[::-1], backwards),
        "both reversed": (tau, backwards[::-1]),
    }
    if encoding.kind in ("Hadamard", "Walsh"):
        other = "Walsh" if encoding.kind == "Hadamard" else "Hadamard"
        # Both names share their columns: column k of the given matrix is column order[k] of the other.
        agreement = encoding.matrix.T.astype(int) @ hadamard.matrix(other, encoding.size).astype(int)
        order = np.argmax(agreement, axis=1)
        readings[f"{other} matrix"] = (tau[order], pld[order])
        readings[f"{other} matrix, columns reversed"] = (tau[::-1][order], pld[::-1][order])
    return readings


def _fit(curve: Float, tau: Float, pld: Float, constants: Constants) -> tuple[float, float]:
    """Squared error and ATT in s of the best mean-brain model with CBF of 0 or more.

    The brain's transit times are taken as normal about a mean on a grid, with an SD of 0.1 to 0.5 s; at a fixed T1'
    (that of 50 ml/100g/min) the signal is linear in CBF.
    """
    centers = np.arange(0.3, 2.51, 0.05)
    offsets = np.linspace(-2.0, 2.0, 9)
    best = (float(curve @ curve), float("nan"))
    for spread in (0.1, 0.25, 0.5):
        transit = np.maximum(centers[:, None] + spread * offsets, 0.05)[..., None]  # (centers, offsets, 1)
        model = delta_m(50.0, transit, pld, tau, constants)
        shapes = np.einsum("cok,o->ck", model, np.exp(-(offsets**2) / 2.0))
        norms = np.einsum("ck,ck->c", shapes, shapes)
        fitted = np.maximum(shapes @ curve, 0.0) ** 2 / np.where(norms > 0, norms, np.inf)
        top = int(np.argmax(fitted))
        if curve @ curve - fitted[top] < best[0]:
            best = (float(curve @ curve - fitted[top]), float(centers[top]))
    return best


def _message(best: str, left: dict[str, float], encoding: Encoding, file: object) -> str:
    order, flipped, _ = best.partition(", sign flipped")
    said = []
    if flipped:
        said.append("the sign is wrong: delta-M is negative in the brain; expected +1 for control and -1 for label")
    if order.startswith(("Walsh", "Hadamard")):
        backwards = ", last sub-bolus first" if order.endswith("reversed") else ""
        said.append(f"TimeEncodedMatrixType is {encoding.kind} but the data follow {order.split()[0]}{backwards}")
    elif order != "as given":
        said.append(_ADVICE[order])
    field = "TimeEncodedMatrix" if encoding.kind == "explicit" else "TimeEncodedMatrixType"
    return (
        f"{file}: {field} or LabelingDuration contradicts the kinetics: {'; '.join(said)} "
        f"(the mean brain curve leaves {100 * left['as given']:.0f} % unexplained as given, "
        f"{100 * left[best]:.0f} % so). Correct the field, or go on with --force"
    )
