"""Virtual volunteers: by how much each differs from the template in anatomy, perfusion and arrival."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import InputError

#: Seed of the template's own smooth variation, so that it is the same phantom for everyone.
_TEMPLATE_SEED = 1998


@dataclass(frozen=True)
class Volunteer:
    """How one virtual person is made from the template.

    Attributes
    ----------
    number : int or None
        None is the template itself.
    cbf_gm, cbf_wm : float
        Mean CBF of pure gray and pure white matter in ml/100g/min.
    att : float
        Offset of all arrival times in s.
    territory_att : (7,) tuple
        Offset of each territory's arrival in s, in the order of anatomy.TERRITORIES.
    displacement : float
        SD in mm of each component of the smooth displacement field; 0 for the template.
    scale : (3,) tuple
        Size of the head along x, y and z, relative to the template.
    seed : tuple of int
        Seeds the smooth random fields of anatomy, CBF, ATT and M0.
    """

    number: int | None
    cbf_gm: float
    cbf_wm: float
    att: float
    territory_att: tuple[float, ...]
    displacement: float
    scale: tuple[float, float, float]
    seed: tuple[int, ...]


def get_volunteer(number: int | None) -> Volunteer:
    """Virtual volunteer `number` (0 or more), or the template for None; the same number is always the same person.

    Between persons GM perfusion varies by about 15 % (SD) and arrival by 0.1 s, as in healthy adults
    (Parkes et al. 2004, doi:10.1002/mrm.20023; MacIntosh et al. 2010, doi:10.1002/mrm.22256).
    """
    if number is None:
        return Volunteer(None, 62.0, 22.0, 0.0, (0.0,) * 7, 0.0, (1.0, 1.0, 1.0), (_TEMPLATE_SEED,))
    if number < 0:
        raise InputError(f"volunteer is {number}; expected 0 or more, or None for the template")
    rng = np.random.default_rng([_TEMPLATE_SEED, 7, number])
    level = float(np.clip(rng.normal(1.0, 0.15), 0.65, 1.4))
    return Volunteer(
        number=number,
        cbf_gm=62.0 * level,
        cbf_wm=22.0 * level * float(np.clip(rng.normal(1.0, 0.06), 0.85, 1.15)),
        att=float(np.clip(rng.normal(0.0, 0.1), -0.2, 0.25)),
        territory_att=tuple(float(v) for v in rng.normal(0.0, 0.05, 7)),
        displacement=2.5,
        scale=tuple(float(v) for v in np.clip(rng.normal(1.0, 0.025, 3), 0.95, 1.05)),  # type: ignore[arg-type]
        seed=(_TEMPLATE_SEED, number),
    )
