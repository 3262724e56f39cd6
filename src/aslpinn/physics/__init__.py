"""What the scanner measures: timing, decoding, kinetics. No network, no file."""

from . import hadamard
from .acquisition import Acquisition, AcquisitionError
from .constants import ATT_BOUNDS, CBF_BOUNDS, CBF_PER_FLOW, Constants
from .information import cramer_rao, fisher_information
from .kinetics import (
    apparent_t1,
    arterial,
    delta_m,
    delta_m_ode,
    delta_m_rate,
    increment,
    sensitivities,
    single_delay_cbf,
)

__all__ = [
    "ATT_BOUNDS",
    "CBF_BOUNDS",
    "CBF_PER_FLOW",
    "Acquisition",
    "AcquisitionError",
    "Constants",
    "apparent_t1",
    "arterial",
    "cramer_rao",
    "delta_m",
    "delta_m_ode",
    "delta_m_rate",
    "fisher_information",
    "hadamard",
    "increment",
    "sensitivities",
    "single_delay_cbf",
]
