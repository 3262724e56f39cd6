"""Hadamard time encoding: the matrices, encoding, decoding, and the timing of what is decoded.

One labeling train is cut into N - 1 sub-boli. In volume v sub-bolus k is either control (+1: its blood stays
relaxed) or label (-1: its blood is inverted and subtracts its delta-M from the image); H is the (N, N - 1) matrix of
these signs (Gunther 2007; von Samson-Himmelstjerna et al. 2016, doi:10.1002/mrm.26078). Its columns are
orthogonal to each other and to the constant, so that

    I_v = static - sum_k (1 - H[v, k]) / 2 m_k        encoding
    m_k = (2 / N) sum_v H[v, k] I_v                   decoding: control minus label, positive in gray matter
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError

Float = NDArray[np.float64]
Signs = NDArray[np.int8]

#: Orders that `matrix` makes by name.
ORDERS = (4, 8, 12, 16, 20, 24)
KINDS = ("Hadamard", "Walsh", "Paley")


def matrix(kind: str | ArrayLike, size: int | None = None) -> Signs:
    """The encoding matrix H: N rows (volumes) by N - 1 columns (sub-boli), +1 control and -1 label.

    Parameters
    ----------
    kind : str or (N, N - 1) array
        "Hadamard": Sylvester's construction for N = 4, 8, 16 and Paley's for 12, 20, 24, first row and first column
        all +1, the constant first column left out. "Walsh": the same columns in order of sequency, fewest changes
        of sign from volume to volume first. "Paley": Paley's first construction over the integers modulo N - 1,
        for 4, 8, 12, 20, 24. An array is validated and returned.
    size : int
        N; one of 4, 8, 12, 16, 20, 24 for a name, optional for an array.

    Raises
    ------
    InputError
        For an unknown name or order, or an array that cannot be decoded.

    Source: Sylvester 1867, Paley 1933 (doi:10.1002/sapm1933121311).
    """
    if not isinstance(kind, str):
        return validate(kind, size)
    name = {known.lower(): known for known in KINDS}.get(kind.strip().lower())
    if name is None:
        raise InputError(f"Hadamard matrix type {kind!r} is not known; expected one of {', '.join(KINDS)}")
    if isinstance(size, bool) or size not in ORDERS:
        raise InputError(f"Hadamard matrix size is {size!r}; expected one of {', '.join(map(str, ORDERS))}")
    if name == "Paley":
        return _paley(int(size))[:, 1:]
    full = _paley(int(size)) if size in (12, 20, 24) else _sylvester(int(size))
    columns = full[:, 1:]
    if name == "Walsh":
        columns = columns[:, np.argsort(sequency(columns), kind="stable")]
    return columns


def sequency(columns: ArrayLike) -> NDArray[np.intp]:
    """Number of changes of sign from volume to volume in each column of an (N, N - 1) matrix: (N - 1,)."""
    return np.count_nonzero(np.diff(np.asarray(columns), axis=0), axis=0)


def validate(entries: ArrayLike, size: int | None = None) -> Signs:
    """An explicit matrix as (N, N - 1) signs, after checking that it can be decoded.

    Raises
    ------
    InputError
        Where the shape is not (N, N - 1), an entry is not +1 or -1, a column does not hold as many controls as
        labels, or two columns are not orthogonal.
    """
    try:
        given = np.asarray(entries, dtype=float)
    except (TypeError, ValueError, OverflowError) as problem:
        raise InputError(
            "Hadamard matrix: its rows differ in length or hold something that is not a number, or too large a one"
        ) from problem
    if given.ndim != 2 or given.shape[0] != given.shape[1] + 1 or given.shape[0] < 2:
        hint = "; leave out the constant column" if given.ndim == 2 and given.shape[0] == given.shape[1] else ""
        raise InputError(
            f"Hadamard matrix has shape {given.shape}; expected N rows (volumes) by N - 1 columns (sub-boli){hint}"
        )
    if size is not None and given.shape[0] != size:
        raise InputError(f"Hadamard matrix has {given.shape[0]} rows; expected {size}, the size given beside it")
    if not np.all(np.abs(given) == 1):
        wrong = given[np.abs(given) != 1][0]
        raise InputError(f"Hadamard matrix holds {wrong:g}; expected +1 (control) and -1 (label) only")
    rows, columns = given.shape
    unbalanced = np.flatnonzero(given.sum(axis=0))
    if unbalanced.size:
        k = int(unbalanced[0])
        raise InputError(
            f"Hadamard matrix: column {k + 1} holds {int((given[:, k] > 0).sum())} controls in {rows} volumes; "
            f"expected as many controls as labels ({rows / 2:g}), or the static tissue does not cancel"
        )
    gram = given.T @ given - rows * np.eye(columns)
    if np.any(gram):
        first, second = (int(index) + 1 for index in np.argwhere(gram)[0])
        raise InputError(f"Hadamard matrix: columns {first} and {second} are not orthogonal; it cannot be decoded")
    return given.astype(np.int8)


def encode(subbolus_signals: ArrayLike, matrix: ArrayLike, static: ArrayLike = 0.0) -> Float:
    """Volumes I_v = static - sum_k (1 - H[v, k]) / 2 m_k that a scanner would measure without noise.

    Parameters
    ----------
    subbolus_signals : (..., N - 1) array
        delta-M of each sub-bolus, control minus label, in the order of labeling; any unit.
    matrix : (N, N - 1) array
        +1 control, -1 label.
    static : (...) array
        Signal of an all-control volume, same unit.

    Returns
    -------
    (..., N) array
    """
    signs = np.asarray(matrix, dtype=float)
    signals = _last_axis(subbolus_signals, signs.shape[1], "sub-bolus signals", "columns")
    return np.asarray(static, dtype=float)[..., None] - signals @ ((1.0 - signs.T) / 2.0)


def decode(volumes: ArrayLike, matrix: ArrayLike) -> Float:
    """delta-M of each sub-bolus, m_k = (2 / N) sum_v H[v, k] S_v: the inverse of `encode`, whatever the static signal.

    Parameters
    ----------
    volumes : (..., N) array
        Encoded volumes of one repeat in the order of the matrix's rows.
    matrix : (N, N - 1) array
        +1 control, -1 label.

    Returns
    -------
    (..., N - 1) array
        In the order of the matrix's columns (that of labeling), in the unit of the volumes.
    """
    signs = np.asarray(matrix, dtype=float)
    return _last_axis(volumes, signs.shape[0], "encoded volumes", "rows") @ (signs * (2.0 / signs.shape[0]))


def static_signal(volumes: ArrayLike, matrix: ArrayLike) -> Float:
    """Signal of an all-control volume, mean_v S_v + sum_k m_k / 2: (..., N) encoded volumes -> (...)."""
    return np.asarray(volumes, dtype=float).mean(axis=-1) + decode(volumes, matrix).sum(axis=-1) / 2.0


def effective_delays(labeling_duration: ArrayLike, final_delay: float) -> Float:
    """PLD in s of each decoded sub-bolus: the one delay after the last, plus the sub-boli labeled later.

    labeling_duration : (N - 1,) durations in s in the order of labeling; final_delay in s. Returns (N - 1,).
    """
    durations = np.asarray(labeling_duration, dtype=float)
    return final_delay + durations.sum() - np.cumsum(durations)


def _last_axis(values: ArrayLike, expected: int, what: str, which: str) -> Float:
    array = np.asarray(values, dtype=float)
    found = array.shape[-1] if array.ndim else 0
    if found != expected:
        raise InputError(f"{found} {what} on the last axis; expected {expected}, the matrix's number of {which}")
    return array


def _sylvester(size: int) -> Signs:
    """H_2n = [[H, H], [H, -H]], from [[1]]."""
    full = np.ones((1, 1), dtype=np.int8)
    while full.shape[0] < size:
        full = np.block([[full, full], [full, -full]])
    return full


def _paley(size: int) -> Signs:
    """Paley's first construction for a prime q = N - 1 with q mod 4 = 3, its first row and column made +1."""
    q = size - 1
    if q not in (3, 7, 11, 19, 23):
        raise InputError(f"Paley's construction needs N - 1 prime; N is {size}: expected 4, 8, 12, 20 or 24")
    squares = {(i * i) % q for i in range(1, q)}
    character = np.array([0] + [1 if i in squares else -1 for i in range(1, q)])
    jacobsthal = character[(np.arange(q)[:, None] - np.arange(q)[None, :]) % q]  # antisymmetric, as q mod 4 = 3
    skew = np.zeros((size, size), dtype=int)
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, jacobsthal
    full = np.eye(size, dtype=int) + skew
    full *= full[:, :1]  # rows: first column +1; the first row already is
    return full.astype(np.int8)
