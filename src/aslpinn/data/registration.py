"""What every registration with SimpleITK has in common."""

from __future__ import annotations

from typing import Any

from ..errors import InputError


def run(method: Any, fixed: Any, moving: Any, what: str) -> None:
    """Run a SimpleITK registration method on two of its images; its transform is changed in place.

    Raises
    ------
    InputError
        Where it fails, as for a mask of a handful of voxels: `what`, with SimpleITK's reason.
    """
    try:
        method.Execute(fixed, moving)
    except RuntimeError as error:
        said = (str(error).strip().splitlines() or [""])[-1][:100]
        raise InputError(f"{what} ({said})") from error
