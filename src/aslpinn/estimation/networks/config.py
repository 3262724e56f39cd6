"""Every number that a network fit depends on and its meaning: the paper's Table 2 and what the paper leaves unsaid."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ...errors import InputError
from ..problem import Request

ENGINES = ("auto", "torch", "fused", "cuda", "tinycudann")
OBJECTIVES = ("closed-form", "increments", "pointwise")
READINGS = ("derivative", "ode")
SCHEDULES = ("cosine", "one-cycle", "constant")
ACTIVATIONS = ("sine", "relu")
PLACES = ("uniform", "between", "near")
INITIAL = ("auto", "on", "off")


def _setting(default: Any, meaning: str, table2: str = "") -> Any:
    """A field with its meaning, and the name of its row in the paper's Table 2 where it has one."""
    return field(default=default, metadata={"meaning": meaning, "table2": table2})


@dataclass(frozen=True)
class FitConfig:
    """Settings of a fit by networks; each field's metadata say what it means and which row of Table 2 it is.

    Field defaults are those of preset "default"; `PRESETS` has the others.
    """

    objective: str = _setting("closed-form", "closed-form, increments or pointwise (the paper's)")
    reading: str = _setting("derivative", "pointwise: P is the derivative of Buxton's solution, or its ode")
    edge_width: float | None = _setting(
        None, "pointwise: width in s of the bolus's edges in P; 0: steps; none: from the sampling"
    )
    alpha: float = _setting(1.0, "weight of the data term")
    lambda_physics: float = _setting(0.5, "weight of the physics term")
    collocation: int = _setting(4, "random times a voxel, between first and last PLD")
    collocation_at: str = _setting("uniform", "uniform; or drawn towards the middle between samples, or near them")
    initial_condition: str = _setting(
        "auto", "f_tissue(t = 0) = 0 as a sample, collocation from there: on, off; auto: if the first is later than 1 s"
    )

    levels: int = _setting(6, "grids of the hash encoding (of CBF, where ATT has its own)", "Number of levels")
    features: int = _setting(2, "values in a row of the table", "Features per level")
    log2_table: int = _setting(15, "a grid has at most 2 to this power rows", "log2 hashmap size")
    base: int = _setting(8, "vertices along an axis of the coarsest grid", "Base resolution")
    finest: int = _setting(64, "vertices along an axis of the finest grid", "Finest resolution")
    att_levels: int = _setting(4, "grids of ATT's own encoding and network; 0: ATT shares those of CBF")
    att_base: int = _setting(4, "as base, for ATT")
    att_finest: int = _setting(24, "as finest, for ATT")

    hidden: int = _setting(16, "units in a hidden layer", "Neurons per layer")
    layers: int = _setting(3, "hidden layers", "Number of layers")
    activation: str = _setting("sine", "sine (SIREN) or relu", "Activation function")
    omega_signal_first: float = _setting(15.0, "frequency of f_tissue's first layer", "f_tissue: Siren omega_0")
    omega_signal: float = _setting(15.0, "frequency of f_tissue's other layers", "f_tissue: Siren omega")
    omega_parameters_first: float = _setting(25.0, "frequency of f_ode's first layer", "f_ode: Siren omega_0")
    omega_parameters: float = _setting(5.0, "frequency of f_ode's other layers", "f_ode: Siren omega")

    epochs: int = _setting(10, "passes over all voxels", "Annealing period (T_max)")
    batch: int = _setting(3000, "voxels in a step", "Batch size")
    schedule: str = _setting(
        "one-cycle", "cosine (by epoch), one-cycle (by step) or constant", "Learning rate schedule"
    )
    lr: float = _setting(1e-2, "largest learning rate of AdamW", "Base learning rate")
    final_lr: float = _setting(1e-6, "learning rate at the end", "Final learning rate")
    t_max: int = _setting(0, "cosine: epochs until final_lr; 0: all epochs", "Annealing period (T_max)")
    warmup: float = _setting(0.3, "one-cycle: share of the steps in which the rate rises")
    weight_decay: float = _setting(0.01, "AdamW's weight decay")
    level_decay: float = _setting(0.0, "weight decay of the tables that grows with a grid's resolution R, by (R/8)^1.5")
    members: int = _setting(8, "networks from different seeds whose maps are averaged")
    seed: int = _setting(0, "of start values, batches and collocation times")
    held_out: float = _setting(0.0, "share of voxel-times kept from the loss to choose the epoch; 0: the last epoch")

    time_scale: float = _setting(1.0, "seconds in the unit of t that f_tissue sees and the rate is per")
    signal_percentile: float = _setting(99.5, "this percentile of the series is scaled to signal_scale")
    signal_scale: float = _setting(1.0, "size of the signals that f_tissue is fitted to")
    cbf_scale: float = _setting(40.0, "CBF in ml/100g/min where f_ode gives 0")
    att_scale: float = _setting(1.2, "ATT in s where f_ode gives 0")

    def __post_init__(self) -> None:
        for name, choices in (
            ("objective", OBJECTIVES),
            ("reading", READINGS),
            ("schedule", SCHEDULES),
            ("activation", ACTIVATIONS),
            ("collocation_at", PLACES),
            ("initial_condition", INITIAL),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}")
        zero_is_fine = {
            "alpha",
            "lambda_physics",
            "collocation",
            "att_levels",
            "t_max",
            "warmup",
            "weight_decay",
            "level_decay",
            "seed",
        }
        zero_is_fine |= {"held_out", "final_lr", "edge_width"}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(item.default, str) or (value is None and item.default is None):
                continue
            whole = isinstance(item.default, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise InputError(f"{item.name} is {value!r}; expected {'a whole number' if whole else 'a number'}")
            if not (value >= 0 if item.name in zero_is_fine else value > 0) or value == float("inf"):
                low = "0 or more" if item.name in zero_is_fine else "above 0"
                raise InputError(f"{item.name} is {value!r}; expected a finite number, {low}")
        if self.edge_width is not None and self.objective != "pointwise":
            raise InputError(f"edge_width is {self.edge_width}, and objective {self.objective!r}; expected pointwise")
        for name, high in (("held_out", 0.9), ("warmup", 1.0), ("signal_percentile", 100.0)):
            if getattr(self, name) > high:
                raise InputError(f"{name} is {getattr(self, name)}; expected at most {high:g}")

    def with_overrides(self, **overrides: Any) -> FitConfig:
        """A copy with some fields changed; InputError names the valid ones where a name is unknown."""
        valid = [item.name for item in fields(self)]
        unknown = sorted(set(overrides) - set(valid))
        if unknown:
            raise InputError(f"there is no setting {', '.join(unknown)}; expected some of {', '.join(valid)}")
        return replace(self, **overrides)

    def as_dict(self) -> dict[str, Any]:
        """The settings, ready for JSON."""
        return asdict(self)


#: "paper" is the paper's Table 2 and text to the letter; what they leave unsaid keeps the defaults above. P is read as
#: the ODE: the outputs of f_ode "serve as inputs to the ODE" (appendix A.4), which finds CBF and ATT as well or better.
PRESETS: dict[str, FitConfig] = {
    "default": FitConfig(),
    "paper": FitConfig(
        objective="pointwise",
        reading="ode",
        alpha=1.0,
        lambda_physics=0.5,
        collocation=4,
        levels=16,
        features=2,
        log2_table=15,
        base=16,
        finest=4096,
        att_levels=0,
        hidden=16,
        layers=3,
        epochs=5000,
        batch=1000,
        schedule="cosine",
        lr=1e-3,
        final_lr=1e-10,
        t_max=5000,
        members=1,
    ),
}


def configure(request: Request, **overrides: object) -> FitConfig:
    """The preset with the request's members, epochs and seed, and any field by name.

    Where epochs change and t_max is not given, the annealing period follows the epochs.
    """
    config = PRESETS[request.preset]
    changes: dict[str, object] = {"seed": request.seed}
    if request.members is not None:
        changes["members"] = request.members
    if request.epochs is not None:
        changes["epochs"] = request.epochs
        if config.t_max:
            changes["t_max"] = request.epochs
    return config.with_overrides(**(changes | overrides))
