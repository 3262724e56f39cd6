"""What can be asked for of maps; standard library only, since the command line and the study read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError

PVC = ("off", "linear", "field")


def check_constants(given: Mapping[str, float], choice: str, where: str = "--pvc") -> None:
    """InputError where a constant is given that only the correction `field` uses, and it is not asked for."""
    if "t1_white" in given and choice != "field":
        raise InputError(f"constant t1_white is given and {where} is {choice}; expected {where} field, which uses it")


def check_choice(choice: str, tissue: Mapping[str, Any] | None, estimator: str, where: str = "--pvc") -> None:
    """InputError where a correction is asked for that there is not, or what it needs is missing."""
    if choice not in PVC:
        raise InputError(f"{where} is {choice!r}; expected one of {', '.join(PVC)}")
    if choice == "field" and estimator != "field":
        raise InputError(
            f"{where} field needs estimator field, and the estimator is {estimator}; expected {where} linear, "
            "which goes with any"
        )
    if choice != "off" and tissue is None:
        raise InputError(
            f"{where} {choice} needs tissue maps, and none were found; expected label-GM_probseg and label-WM_probseg "
            "of the subject, or --tissue estimate"
        )
