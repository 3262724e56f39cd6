"""T1 of arterial blood from hematocrit: two formulas of the literature, which do not agree.

At a hematocrit of 0.42 and 3 T Lu's gives 1.67 s (bovine blood at 37 degrees, outside of the body) and Hales' 1.77 s
(human blood, with the difference between blood outside of the body and in it). Measured in carotid
arteries it was 1.79 s in men (hematocrit 0.45) and 1.91 s in women (0.39; Li et al. 2017, doi:10.1002/mrm.26325), which
is nearer to Hales'. Lu's is the default nevertheless: the constant that stands in without a hematocrit is from the same
measurement, so that people with and without one can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InputError

#: Hematocrit of a living person: from severe anemia to a newborn's.
HEMATOCRIT = (0.1, 0.7)
OXYGENATION = 0.97  # of arterial blood
HEMOGLOBIN = 5.15  # mmol of tetramer per l in a red cell
IN_VIVO = 0.108  # s by which Hales et al. found T1 in the body to be longer than outside of it


@dataclass(frozen=True)
class Formula:
    """T1 of blood in s of (hematocrit, field in T), the fields in T that it is known for, and where it is from."""

    t1: Callable[[float, float], float]
    tesla: tuple[float, float]
    source: str


def _lu(hematocrit: float, tesla: float) -> float:
    return 1.0 / (0.52 * hematocrit + 0.38)


def _hales(hematocrit: float, tesla: float) -> float:
    """Water of red cells and of plasma, by their shares, each with its own rate."""
    cells = 0.70 * hematocrit
    share = cells / (cells + 0.95 * (1.0 - hematocrit))
    in_cells = 1.099 - 0.057 * tesla + 0.033 * HEMOGLOBIN * (1.0 - OXYGENATION)
    in_plasma = 0.496 - 0.023 * tesla
    return 1.0 / (share * in_cells + (1.0 - share) * in_plasma) + IN_VIVO


FORMULAS = {
    "lu2004": Formula(_lu, (2.8, 3.2), "1/T1 = 0.52 Hct + 0.38 per s at 3 T (Lu et al. 2004, doi:10.1002/mrm.20178)"),
    "hales2016": Formula(
        _hales,
        (1.5, 7.0),
        "water of red cells and plasma, arterial oxygenation 0.97, 0.108 s added for the living "
        "(Hales et al. 2016, doi:10.1177/0271678X15605856)",
    ),
}


def t1_blood(hematocrit: float, tesla: float = 3.0, formula: str = "lu2004") -> float:
    """T1 of arterial blood in s from hematocrit (a share, not percent) at a field strength in T.

    Raises
    ------
    InputError
        A hematocrit that no one has (0.1 to 0.7), a formula that is not one of `FORMULAS`, or a field that the formula
        is not known for.
    """
    low, high = HEMATOCRIT
    if not low <= hematocrit <= high:
        percent = " (is it in percent?)" if 100 * low <= hematocrit <= 100 * high else ""
        raise InputError(
            f"hematocrit is {hematocrit:g}{percent}; expected a share of {low:g} to {high:g}, such as 0.42"
        )
    if formula not in FORMULAS:
        raise InputError(f"the formula for T1 of blood is {formula!r}; expected one of {', '.join(FORMULAS)}")
    chosen = FORMULAS[formula]
    if not chosen.tesla[0] <= tesla <= chosen.tesla[1]:
        others = [name for name, other in FORMULAS.items() if other.tesla[0] <= tesla <= other.tesla[1]]
        instead = f"formula {' or '.join(others)}, or " if others else ""
        raise InputError(
            f"T1 of blood from hematocrit at {tesla:g} T is not known by formula {formula}; expected {instead}T1 of "
            "blood itself (--constant t1_blood, or column t1_blood of participants.tsv)"
        )
    return chosen.t1(hematocrit, tesla)
