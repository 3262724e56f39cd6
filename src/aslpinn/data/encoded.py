"""Hadamard-encoded series: from sidecar fields and raw volumes to delta-M with its timing, and back.

The sidecar of an encoded series holds TimeEncodedMatrixSize N with TimeEncodedMatrixType ("Hadamard" or "Walsh"), or
TimeEncodedMatrix (N rows, the volumes, by N - 1 columns, the sub-boli in order of labeling; +1 control, -1 label);
LabelingDuration holds the N - 1 sub-bolus durations in order of labeling, PostLabelingDelay the one delay after the
last. In aslcontext.tsv the encoded volumes are n/a, in whole repeats of N.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, Problems
from ..physics import Acquisition, Constants, hadamard
from .sidecar import Sidecar

Float = NDArray[np.float64]

FIELDS = ("TimeEncodedMatrixSize", "TimeEncodedMatrixType", "TimeEncodedMatrix")
NAMES = ("Hadamard", "Walsh")


@dataclass(frozen=True, eq=False)
class TimeEncoding:
    """How a series was encoded.

    matrix: (N, K) signs; labeling_duration: (K,) s in order of labeling; final_delay: s after the last sub-bolus;
    kind: "Hadamard", "Walsh" or "explicit".
    """

    matrix: NDArray[np.int8]
    labeling_duration: Float
    final_delay: float
    kind: str = "explicit"

    @property
    def size(self) -> int:
        """N, the number of volumes in a repeat."""
        return int(self.matrix.shape[0])

    @cached_property
    def post_labeling_delay(self) -> Float:
        """Effective PLD in s of each decoded sub-bolus, (K,)."""
        return hadamard.effective_delays(self.labeling_duration, self.final_delay)

    def acquisition(
        self,
        repeats: int = 1,
        slice_offset: Sequence[float] | None = None,
        slice_axis: int = 2,
        constants: Constants | None = None,
    ) -> Acquisition:
        """Timing of the decoded series, K entries for each repeat."""
        tau, pld = np.tile(self.labeling_duration, repeats), np.tile(self.post_labeling_delay, repeats)
        return Acquisition(tau, pld, slice_offset, slice_axis, constants)


def is_encoded(sidecar: Sidecar | Mapping[str, Any]) -> bool:
    """Whether a sidecar describes Hadamard-encoded volumes."""
    values = sidecar.values if isinstance(sidecar, Sidecar) else sidecar
    return any(values.get(name) not in (None, []) for name in FIELDS)


def read_encoding(sidecar: Sidecar, problems: Problems | None = None) -> TimeEncoding | None:
    """The encoding that a sidecar describes, or None where it describes none, or where `problems` gathered why not.

    Raises
    ------
    InputError
        Where the matrix, its size or type, the durations or the delay are missing, malformed or contradict each other.
    """
    if not is_encoded(sidecar):
        return None
    size = _size(sidecar)
    explicit = sidecar.values.get("TimeEncodedMatrix")
    if explicit not in (None, []):
        kind, file = "explicit", sidecar.origin.get("TimeEncodedMatrix", sidecar.main)
        try:
            signs = hadamard.validate(_rows(sidecar, explicit), size)
        except InputError as error:
            raise InputError(f"{file}: TimeEncodedMatrix: {error}") from None
        if "TimeEncodedMatrixType" in sidecar and len(signs) in hadamard.ORDERS:
            name = sidecar.text("TimeEncodedMatrixType", NAMES)
            if not np.array_equal(signs, hadamard.matrix(name, len(signs))):
                raise sidecar.error(
                    "TimeEncodedMatrixType", f"none beside TimeEncodedMatrix, which is not the {name} matrix"
                )
    else:
        if size is None:
            raise sidecar.error("TimeEncodedMatrixSize", f"one of {', '.join(map(str, hadamard.ORDERS))}")
        if "TimeEncodedMatrixType" not in sidecar:
            raise sidecar.error("TimeEncodedMatrixType", "Hadamard or Walsh (or give TimeEncodedMatrix)")
        kind = sidecar.text("TimeEncodedMatrixType", NAMES)
        if size not in hadamard.ORDERS:
            raise sidecar.error(
                "TimeEncodedMatrixSize", f"one of {', '.join(map(str, hadamard.ORDERS))} (or give TimeEncodedMatrix)"
            )
        signs = hadamard.matrix(kind, size)
    wrong = Problems()
    with wrong.gather():
        durations = _durations(sidecar, signs.shape[1])
    with wrong.gather():
        delay = _final_delay(sidecar)
    if problems is None:
        wrong.stop()
    else:
        problems.found += wrong.found
    return None if wrong.found else TimeEncoding(signs, durations, delay, kind)


def _size(sidecar: Sidecar) -> int | None:
    value = sidecar.values.get("TimeEncodedMatrixSize")
    if value is None:
        return None
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or (isinstance(value, float) and not value.is_integer()) or value < 2:
        raise sidecar.error("TimeEncodedMatrixSize", "a whole number: the encoded volumes in a repeat")
    return int(value)


def _rows(sidecar: Sidecar, explicit: Any) -> list[list[float]]:
    """An explicit matrix as rows of numbers; strings, booleans and ragged rows are refused with the field's name."""
    good = isinstance(explicit, list) and all(isinstance(row, list) for row in explicit)
    if not good or any(isinstance(x, bool) or not isinstance(x, int | float) for row in explicit for x in row):
        raise sidecar.error("TimeEncodedMatrix", "a list of N rows, each a list of N - 1 numbers, +1 or -1")
    return explicit


def _durations(sidecar: Sidecar, boli: int) -> Float:
    what = f"the durations in s of the {boli} sub-boli, in order of labeling"
    value = sidecar.values.get("LabelingDuration")
    if not isinstance(value, list) or len(value) != boli:
        raise sidecar.error("LabelingDuration", f"a list: {what}")
    durations = np.array(sidecar.seconds("LabelingDuration", boli, "sub-boli"))
    if np.any(durations <= 0):
        raise sidecar.error("LabelingDuration", f"{what}, each above 0")
    return durations


def _final_delay(sidecar: Sidecar) -> float:
    value = sidecar.values.get("PostLabelingDelay")
    if isinstance(value, list) and len(value) != 1:
        raise sidecar.error("PostLabelingDelay", "one number: the delay in s after the last sub-bolus")
    return sidecar.seconds("PostLabelingDelay", 1, "series")[0]


def encoded_volumes(types: Sequence[str], encoding: TimeEncoding, file: object = "aslcontext.tsv") -> NDArray[np.intp]:
    """Indices of the encoded volumes (n/a in aslcontext), in whole repeats: (R * N,).

    Raises
    ------
    InputError
        Where a volume is neither n/a nor m0scan, or the n/a volumes are not whole repeats.
    """
    strange = sorted(set(types) - {"n/a", "m0scan"})
    if strange:
        raise InputError(
            f"{file}: volume_type holds {', '.join(strange)} although the sidecar says Hadamard-encoded; expected n/a "
            f"for encoded volumes and m0scan (or remove the TimeEncoded fields from a series that is decoded already)"
        )
    volumes = np.array([index for index, word in enumerate(types) if word == "n/a"], dtype=np.intp)
    if volumes.size == 0 or volumes.size % encoding.size:
        raise InputError(
            f"{file}: {volumes.size} volumes are n/a (encoded); expected a multiple of {encoding.size}, "
            f"the size of the encoding matrix"
        )
    return volumes


def decode_series(volumes: ArrayLike, encoding: TimeEncoding, average: bool = True) -> Float:
    """delta-M of each sub-bolus from encoded volumes.

    Parameters
    ----------
    volumes : (X, Y, Z, R * N) array
        Whole repeats, m0scan volumes left out.
    average : bool
        True: mean over repeats after decoding, (X, Y, Z, K). False: repeats one after another, (X, Y, Z, R * K).
    """
    data = np.asarray(volumes)
    if data.ndim != 4 or data.shape[3] == 0 or data.shape[3] % encoding.size:
        raise InputError(
            f"encoded series has shape {data.shape}; expected four dimensions, the last a multiple of {encoding.size}"
        )
    repeats = data.shape[3] // encoding.size
    decoded = hadamard.decode(data.reshape(*data.shape[:3], repeats, encoding.size), encoding.matrix)
    return decoded.mean(axis=3) if average else decoded.reshape(*data.shape[:3], -1)


def decoded_metadata(
    values: Mapping[str, Any], encoding: TimeEncoding, repeats: int = 1, m0_volumes: int = 0
) -> tuple[dict[str, Any], list[str]]:
    """Sidecar fields and volume types of the decoded series, m0scan volumes (if kept in it) first.

    The TimeEncoded fields go; LabelingDuration and PostLabelingDelay get one entry a volume, 0 for m0scan.
    """
    fields = {name: value for name, value in values.items() if name not in FIELDS}
    zeros = [0.0] * m0_volumes
    fields["LabelingDuration"] = zeros + [round(float(x), 6) for x in encoding.labeling_duration] * repeats
    fields["PostLabelingDelay"] = zeros + [round(float(x), 6) for x in encoding.post_labeling_delay] * repeats
    fields["TotalAcquiredPairs"] = repeats
    return fields, ["m0scan"] * m0_volumes + ["deltam"] * (encoding.matrix.shape[1] * repeats)
