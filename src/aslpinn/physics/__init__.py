"""What the scanner measures: timing, decoding, kinetics. No network, no file."""

from . import hadamard
from .acquisition import Acquisition, AcquisitionError
from .constants import ATT_BOUNDS, CBF_BOUNDS, CBF_PER_FLOW, Constants
from .kinetics import apparent_t1, arterial, delta_m, delta_m_ode, delta_m_rate, increment

__all__ = [
    "ATT_BOUNDS",
    "CBF_BOUNDS",
    "CBF_PER_FLOW",
    "Acquisition",
    "AcquisitionError",
    "Constants",
    "apparent_t1",
    "arterial",
    "delta_m",
    "delta_m_ode",
    "delta_m_rate",
    "hadamard",
    "increment",
]
