"""What each volume of a raw series is, and how volumes become control minus label: pairs, deltam, Hadamard decoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, Problems
from ..physics import Acquisition, Constants, hadamard
from .encoded import TimeEncoding, decode_series, encoded_volumes, read_encoding
from .sidecar import Sidecar

Volume = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Layout:
    """The volumes of a series.

    types: their words in the aslcontext; context: that file; time_encoding: how they were Hadamard-encoded, or None;
    index: volumes that each delta-M volume is made from, (P, 2) control and label, (P,) deltam, or (P,) the first
    encoded volume of its repeat; tau, pld: (P,) s.
    """

    types: list[str]
    context: Path
    time_encoding: TimeEncoding | None
    index: NDArray[np.intp]
    tau: NDArray[np.float64]
    pld: NDArray[np.float64]

    @property
    def raw(self) -> bool:
        """Whether the volumes show the head, so that motion between them can be found; deltam does not."""
        return self.time_encoding is not None or self.index.ndim == 2

    @property
    def labeling(self) -> float:
        """How long the longest labeling takes in s; of encoded volumes, all sub-boli together."""
        return (
            float(self.tau.max()) if self.time_encoding is None else float(self.time_encoding.labeling_duration.sum())
        )

    @property
    def encoded(self) -> NDArray[np.intp]:
        """The encoded volumes, in whole repeats."""
        return np.flatnonzero(np.array(self.types) == "n/a")

    def acquisition(
        self,
        offset: NDArray[np.float64] | None = None,
        axis: int = 2,
        constants: Constants | None = None,
        crushed: bool = False,
    ) -> Acquisition:
        """Timing of the delta-M volumes."""
        return Acquisition(self.tau, self.pld, offset, axis, constants, crushed)

    def difference(self, data: Volume) -> Volume:
        """Control minus label of pairs, deltam volumes, or decoded sub-boli, repeats kept: (X, Y, Z, P)."""
        if self.time_encoding is not None:
            return decode_series(data[..., self.encoded], self.time_encoding, average=False).astype(np.float32)
        if self.index.ndim == 1:
            return data[..., self.index]
        return data[..., self.index[:, 0]] - data[..., self.index[:, 1]]

    def static(self, data: Volume) -> Volume | None:
        """The mean control image, measured or of an all-control encoding; None of a deltam series."""
        if self.time_encoding is not None:
            blocks = data[..., self.encoded].reshape(*data.shape[:3], -1, self.time_encoding.size)
            return hadamard.static_signal(blocks, self.time_encoding.matrix).mean(axis=-1).astype(np.float32)
        if self.index.ndim == 1:
            return None
        return np.asarray(data[..., self.index[:, 0]].mean(axis=3), dtype=np.float32)

    def contrasts(self) -> list[str]:
        """A word for each volume: those of one word show the same static image."""
        if self.time_encoding is not None:
            return ["m0scan" if word == "m0scan" else "encoded" for word in self.types]
        words = ["m0scan" if word == "m0scan" else word for word in self.types]
        for tau, pld, volumes in zip(self.tau, self.pld, self.index, strict=True):
            for volume in np.atleast_1d(volumes):
                words[volume] = f"pld-{pld:g}-tau-{tau:g}"
        return words

    def blocks(self) -> list[list[int]]:
        """Raw volumes that are combined with each other: control and label of each pair, or each repeat of the rows."""
        if self.time_encoding is not None:
            return np.asarray(self.encoded.reshape(-1, self.time_encoding.size)).tolist()
        return np.asarray(self.index).tolist() if self.index.ndim == 2 else []

    def conditions(self) -> list[str]:
        """A word for each volume: what it was measured as, alike only for repeats of the same measurement."""
        words = [f"{contrast} {word}" for contrast, word in zip(self.contrasts(), self.types, strict=True)]
        if self.time_encoding is not None:
            for number, volume in enumerate(self.encoded):
                words[volume] = f"row {number % self.time_encoding.size}"
        return words


def read_layout(
    types: list[str], context: Path, sidecar: Sidecar, notes: list[str], steps: list[str], problems: Problems
) -> Layout | None:
    """The layout of a series from its volume types and sidecar; None where what `problems` gathered prevents it."""
    before = len(problems.found)
    encoding = None
    with problems.gather():
        encoding = read_encoding(sidecar, problems)
    if len(problems.found) > before:
        return None
    if encoding is not None:
        with problems.gather():
            volumes = encoded_volumes(types, encoding, context)
            repeats, boli = volumes.size // encoding.size, encoding.matrix.shape[1]
            steps.append(f"{volumes.size} Hadamard-encoded volumes: decoded to {boli} sub-boli, {repeats} repeats")
            index = np.repeat(volumes[:: encoding.size], boli)
            timing = encoding.acquisition(repeats)
            return Layout(types, context, encoding, index, timing.labeling_duration, timing.post_labeling_delay)
        return None
    tau: list[float] = []
    pld: list[float] = []
    with problems.gather():
        _check_types(types, context)
    with problems.gather():
        tau = sidecar.seconds("LabelingDuration", len(types), "volumes")
    with problems.gather():
        pld = sidecar.seconds("PostLabelingDelay", len(types), "volumes")
    if len(problems.found) > before:
        return None
    with problems.gather():
        index = _pairs(types, context, tau, pld, sidecar, notes, steps)
        first = index if index.ndim == 1 else index[:, 0]
        for volume in first:
            if tau[volume] <= 0:
                raise sidecar.error("LabelingDuration", f"more than 0 s for volume {volume}, a {types[volume]} volume")
        timing_of = (np.array([values[v] for v in first]) for values in (tau, pld))
        return Layout(types, context, None, index, *timing_of)
    return None


def check_labeling(sidecar: Sidecar) -> None:
    """InputError unless the labeling is pseudo-continuous or continuous."""
    kind = sidecar.values.get("ArterialSpinLabelingType")
    if isinstance(kind, str) and kind.strip().upper() == "PASL":
        raise sidecar.error("ArterialSpinLabelingType", "PCASL or CASL; the kinetic model here is not that of PASL")
    sidecar.text("ArterialSpinLabelingType", ("PCASL", "CASL"))


def _check_types(types: list[str], context: Path) -> None:
    pairs = {"control", "label"} & set(types)
    if pairs and "deltam" in types:
        raise InputError(
            f"{context}: has deltam beside {' and '.join(sorted(pairs))}; expected pairs or deltam, not both"
        )
    if not pairs and "deltam" not in types and "cbf" in types:
        raise InputError(
            f"{context}: row {types.index('cbf') + 1} of volume_type is cbf; expected control, label or deltam: "
            "CBF maps that the scanner made cannot be fitted"
        )
    if not pairs and "deltam" not in types:
        encoded = " (n/a volumes are Hadamard-encoded ones: they need the TimeEncoded fields in the sidecar)"
        raise InputError(
            f"{context}: has {', '.join(dict.fromkeys(types)) or 'no rows'}; "
            f"expected control and label, or deltam volumes{encoded if 'n/a' in types else ''}"
        )


def _pairs(
    types: list[str],
    context: Path,
    tau: list[float],
    pld: list[float],
    sidecar: Sidecar,
    notes: list[str],
    steps: list[str],
) -> NDArray[np.intp]:
    """The volumes (control, label) of every pair, or the deltam volumes."""
    used = {"control", "label", "deltam", "m0scan"}
    if set(types) - used:
        notes.append(f"volumes of type {', '.join(sorted(set(types) - used))} are not used")
    if "deltam" in types:
        index = np.flatnonzero(np.array(types) == "deltam")
        steps.append(f"{index.size} deltam volumes: taken as control minus label")
        return index
    pairs, lone = form_pairs(types, tau, pld, context)
    for volume in lone:
        notes.append(f"volume {volume} ({types[volume]}) has no partner among those of its delay: left out")
    if "TotalAcquiredPairs" in sidecar:
        total = int(sidecar.number("TotalAcquiredPairs", "the number of control-label pairs", low=1))
        delays = len({(tau[volume], pld[volume]) for volume in pairs[:, 0]})
        # Some converters count the pairs of one delay; that is not taken for a contradiction.
        if total < len(pairs) and total * delays != len(pairs):
            raise sidecar.error("TotalAcquiredPairs", f"at least {len(pairs)}, the pairs in the aslcontext")
        if total > len(pairs):
            notes.append(f"TotalAcquiredPairs is {total}, the series has {len(pairs)}: the others were left out before")
    steps.append(f"{len(pairs)} control-label pairs: control minus label")
    return pairs


def form_pairs(
    types: list[str], tau: list[float], pld: list[float], file: object = "aslcontext.tsv"
) -> tuple[NDArray[np.intp], list[int]]:
    """Volume numbers (control, label) of every pair, in order of acquisition: (P, 2); and those without a partner.

    Among the volumes of one (tau, PLD) the n-th control belongs to the n-th label, whichever comes first, so that
    alternation in either order, blocks and repeats are all understood. Where a delay has one of a kind too many (a
    scan that was stopped), the one is left out that leaves the pairs closest together in time.

    Raises
    ------
    InputError
        Where some (tau, PLD) lacks more than one control or label, or has none of a kind.
    """
    groups: dict[tuple[float, float], dict[str, list[int]]] = {}
    for volume, word in enumerate(types):
        if word in ("control", "label"):
            key = (round(tau[volume], 6), round(pld[volume], 6))
            groups.setdefault(key, {"control": [], "label": []})[word].append(volume)
    pairs: list[tuple[int, int]] = []
    lone: list[int] = []
    for (duration, delay), members in groups.items():
        control, label = members["control"], members["label"]
        if abs(len(control) - len(label)) > 1 or not control or not label:
            raise InputError(
                f"{file}: {len(control)} control and {len(label)} label volumes have LabelingDuration "
                f"{duration:g} s and PostLabelingDelay {delay:g} s; expected as many of one as of the other"
            )
        more, fewer = (control, label) if len(control) > len(label) else (label, control)
        if len(more) > len(fewer):
            apart = [
                sum(abs(a - b) for a, b in zip(more[:k] + more[k + 1 :], fewer, strict=True)) for k in range(len(more))
            ]
            # Of equally good ones the last: a scan that was stopped lacks its last volume.
            lone.append(more.pop(len(apart) - 1 - int(np.argmin(apart[::-1]))))
        pairs += list(zip(control, label, strict=True))
    return np.array(sorted(pairs, key=min), dtype=np.intp).reshape(-1, 2), sorted(lone)
