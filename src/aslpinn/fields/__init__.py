"""What is fitted: the hash encoding of positions and the networks on top of it. No physics."""

from .encoding import ENGINES, HashIndex, Level, MultiresHashEncoding, grid_levels
from .networks import ParameterField, SignalField, Siren
from .threads import get_threads, set_threads

__all__ = [
    "ENGINES",
    "HashIndex",
    "Level",
    "MultiresHashEncoding",
    "ParameterField",
    "SignalField",
    "Siren",
    "get_threads",
    "grid_levels",
    "set_threads",
]
