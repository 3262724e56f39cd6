"""Where physics and fields meet: fit(series, mask, acquisition) -> Estimate."""

from .estimate import Estimate

__all__ = ["Estimate"]
