"""In and out: BIDS series and their metadata, calibration, motion, derivatives, the phantom, public data.

A series: `series` reads it with what stands beside it, by way of `nifti`, `sidecar`, `volumes` and `readout` (what its
volumes are and when they were read), `encoded` (Hadamard) and `blood`. It is prepared by `calibration` (M0),
`brain_mask`, `motion`, `outliers` and `tissue`, and doubted by `plausibility` and `kinetics_check`; `check` says all of
that without a fit, `decode` writes it decoded. Motion and atlases stand on `interpolation` and `icbm_tissue`.

Out: `derivatives` writes maps; `atlases` reads the regions that tables are made of.

Without a scanner: `phantom` makes brains whose CBF and ATT are known, `public` fetches real ones.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "Phantom": "phantom.simulate",
    "Subject": "series",
    "describe": "check",
    "load_subject": "series",
    "simulate": "phantom.simulate",
    "write_estimate": "derivatives",
    "write_phantom": "phantom.bids",
}

__all__ = ["Phantom", "Subject", "describe", "load_subject", "simulate", "write_estimate", "write_phantom"]

if TYPE_CHECKING:
    from .check import describe
    from .derivatives import write_estimate
    from .phantom.bids import write_phantom
    from .phantom.simulate import Phantom, simulate
    from .series import Subject, load_subject


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the phantom brings nilearn with it, reading does not."""
    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
