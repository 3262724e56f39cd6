"""What can be asked for of maps; standard library only, since the command line and the study read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError

PVC = ("off", "linear")


def check_choice(choice: str, tissue: Mapping[str, Any] | None, where: str = "--pvc") -> None:
    """InputError where a correction is asked for that there is not, or tissue maps that it needs are missing."""
    if choice == "field":
        raise InputError(
            f"{where} field: CBF of gray and of white matter as two fields of one model is not part of this version; "
            "expected linear, or off"
        )
    if choice not in PVC:
        raise InputError(f"{where} is {choice!r}; expected one of {', '.join(PVC)}")
    if choice != "off" and tissue is None:
        raise InputError(
            f"{where} {choice} needs tissue maps, and none were found; expected label-GM_probseg and label-WM_probseg "
            "of the subject, or --tissue estimate"
        )
