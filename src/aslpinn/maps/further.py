"""Maps beside CBF, ATT and their SDs, of every subject: as they are written by `aslpinn fit` and by a study alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.atlases import find_transform
from .coverage import coverage_maps
from .partial_volume import corrected

if TYPE_CHECKING:
    from ..data.derivatives import Estimate
    from ..data.series import Subject


def further_maps(
    subject: Subject, estimate: Estimate, pvc: str = "off", transform: Path | None = None
) -> dict[str, tuple[Any, ...]]:
    """Coverage, CBF by tissue where asked for, and maps in MNI space where a transform is given or found.

    By the ends of their names: data, what is said of them, and the affine where it is another grid. Raises as those do.
    """
    found: dict[str, tuple[Any, ...]] = dict(coverage_maps(subject, estimate))
    found |= corrected(subject, estimate, pvc)
    transform = transform or find_transform(subject)
    if transform is not None:
        from .template import template_maps

        found |= template_maps(subject, estimate, transform)
    return found
