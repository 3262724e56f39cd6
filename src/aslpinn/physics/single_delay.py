"""CBF from one delay: the formula of the ASL consensus paper, and what it assumes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .constants import CBF_PER_FLOW, Constants
from .kinetics import DEFAULT


def single_delay_cbf(
    signal: ArrayLike, pld: ArrayLike, tau: ArrayLike, constants: Constants = DEFAULT
) -> NDArray[np.float64]:
    """CBF in ml/100g/min from delta-M / M0b at one delay (Alsop et al. 2015, equation for pCASL).

    signal, pld, tau broadcast; s. It assumes that all label has arrived (ATT < pld), that it decays with T1 of blood
    throughout, and that none leaves the voxel: where ATT is longer than pld the CBF comes out too low. With
    M0b = M0t / lambda, lambda is in the signal already.
    """
    label = 2.0 * constants.efficiency * constants.t1_blood * (1.0 - np.exp(-np.asarray(tau) / constants.t1_blood))
    return CBF_PER_FLOW * np.asarray(signal) * np.exp(np.asarray(pld) / constants.t1_blood) / label
