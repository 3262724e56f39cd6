"""Every number that a network fit depends on and its meaning: the paper's Table 2 and what the paper leaves unsaid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from ...errors import InputError
from ..options import Options, option


@dataclass(frozen=True)
class PinnOptions(Options):
    """Estimator pinn: networks on hash encodings, trained with the paper's loss or another one.

    Defaults are those of preset "default"; `PRESETS` has the others.
    """

    objective: str = option(
        "closed-form", "the loss; pointwise is the paper's", choices=("pointwise", "increments", "closed-form")
    )
    reading: str = option(
        "derivative", "pointwise: P is the derivative of Buxton's solution, or its ode", choices=("ode", "derivative")
    )
    edge_width: float | None = option(
        None, "pointwise: width in s of the bolus's edges in P; 0: steps; None: from the sampling", low=0
    )
    alpha: float = option(1.0, "weight of the data term", low=0)
    lambda_physics: float = option(0.5, "weight of the physics term", low=0)
    collocation: int = option(4, "random times a voxel, between first and last PLD", low=0)
    collocation_at: str = option(
        "uniform",
        "between: drawn towards the middle between samples; near: near them",
        choices=("uniform", "between", "near"),
    )
    initial_condition: str = option(
        "on",
        "f_tissue(t = 0) = 0 as a sample, collocation from there; auto: if the first sample is later than 1 s",
        choices=("auto", "on", "off"),
    )

    levels: int = option(
        5, "grids of the hash encoding (of CBF, where ATT has its own)", low=1, table2="Number of levels"
    )
    features: int = option(2, "values in a row of the table", low=1, table2="Features per level")
    log2_table: int = option(15, "a grid has at most 2 to this power rows", low=1, table2="log2 hashmap size")
    base: int = option(8, "vertices along an axis of the coarsest grid", low=1, table2="Base resolution")
    finest: int = option(48, "vertices along an axis of the finest grid", low=1, table2="Finest resolution")
    att_levels: int = option(4, "grids of ATT's own encoding and network; 0: ATT shares those of CBF", low=0)
    att_base: int = option(4, "as base, for ATT", low=1)
    att_finest: int = option(24, "as finest, for ATT", low=1)

    anatomy: str = option(
        "on",
        "ranks of the guide, or else of depth in the mask, as more coordinates of the encodings",
        choices=("on", "off"),
    )

    hidden: int = option(16, "units in a hidden layer", low=1, table2="Neurons per layer")
    layers: int = option(3, "hidden layers", low=1, table2="Number of layers")
    activation: str = option("sine", "sine is SIREN's", choices=("sine", "relu"), table2="Activation function")
    omega_signal_first: float = option(
        15.0, "frequency of f_tissue's first layer", above=0, table2="f_tissue: Siren omega_0"
    )
    omega_signal: float = option(15.0, "frequency of f_tissue's other layers", above=0, table2="f_tissue: Siren omega")
    omega_parameters_first: float = option(
        25.0, "frequency of f_ode's first layer", above=0, table2="f_ode: Siren omega_0"
    )
    omega_parameters: float = option(5.0, "frequency of f_ode's other layers", above=0, table2="f_ode: Siren omega")

    epochs: int = option(20, "passes over all voxels", low=1, table2="Annealing period (T_max)")
    batch: int = option(1000, "voxels in a step", low=1, table2="Batch size")
    schedule: str = option(
        "one-cycle",
        "of the learning rate: cosine by epoch, one-cycle by step",
        choices=("cosine", "one-cycle", "constant"),
        table2="Learning rate schedule",
    )
    lr: float = option(1e-2, "largest learning rate of AdamW", above=0, table2="Base learning rate")
    final_lr: float = option(1e-6, "learning rate at the end", low=0, table2="Final learning rate")
    t_max: int = option(0, "cosine: epochs until final_lr; 0: all epochs", low=0, table2="Annealing period (T_max)")
    warmup: float = option(0.3, "one-cycle: share of the steps in which the rate rises", low=0, high=1)
    weight_decay: float = option(0.01, "AdamW's weight decay", low=0)
    level_decay: float | None = option(
        None,
        "weight decay of the tables that grows with a grid's resolution R, by (R/8)^1.5; None: by samples held out",
        low=0,
    )
    members: int = option(3, "networks from different seeds whose maps are averaged", low=1)
    held_out: float = option(
        0.0, "share of voxel-times kept from the loss to choose the epoch; 0: the last epoch", low=0, high=0.9
    )

    arterial: str = option(
        "auto", "arteries in single voxels, after the networks; auto: by evidence", choices=("auto", "on", "off")
    )

    device: str = option("cpu", "torch's device: cpu, cuda")
    engine: str = option(
        "auto",
        "what computes the steps: fused on a CPU, cuda or tinycudann on a GPU; torch everywhere",
        choices=("auto", "torch", "fused", "cuda", "tinycudann"),
    )

    time_scale: float = option(1.0, "seconds in the unit of t that f_tissue sees and the rate is per", above=0)
    signal_percentile: float = option(
        99.5, "this percentile of the series is scaled to signal_scale", above=0, high=100
    )
    signal_scale: float = option(1.0, "size of the signals that f_tissue is fitted to", above=0)
    cbf_scale: float = option(40.0, "CBF in ml/100g/min where f_ode gives 0", above=0)
    att_scale: float = option(1.2, "ATT in s where f_ode gives 0", above=0)

    uses_guide = True
    uses_voxel_size = True

    @property
    def takes_guide(self) -> bool:
        """Not without anatomy."""
        return self.anatomy == "on"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.edge_width is not None and self.objective != "pointwise":
            raise InputError(f"edge_width is {self.edge_width}, and objective {self.objective!r}; expected pointwise")

    def changed(self, **settings: Any) -> Self:
        """A copy with some options changed; where epochs change and t_max does not, t_max follows the epochs.

        Raises InputError also for a reading of P where the objective has no P.
        """
        if self.t_max and "epochs" in settings:
            settings = {"t_max": settings["epochs"]} | settings
        found = super().changed(**settings)
        if "reading" in settings and found.objective != "pointwise":
            raise InputError(f"reading is {found.reading!r}, and objective {found.objective!r}; expected pointwise")
        return found


#: "paper" is the paper's Table 2 and text to the letter; what they leave unsaid keeps the defaults above. P is read as
#: the ODE: the outputs of f_ode "serve as inputs to the ODE" (appendix A.4), which finds CBF and ATT as well or better.
PRESETS: dict[str, PinnOptions] = {
    "default": PinnOptions(),
    "paper": PinnOptions(
        objective="pointwise",
        reading="ode",
        alpha=1.0,
        lambda_physics=0.5,
        collocation=4,
        initial_condition="auto",
        levels=16,
        features=2,
        log2_table=15,
        base=16,
        finest=4096,
        att_levels=0,
        anatomy="off",
        hidden=16,
        layers=3,
        epochs=5000,
        batch=1000,
        schedule="cosine",
        lr=1e-3,
        final_lr=1e-10,
        t_max=5000,
        level_decay=0.0,
        members=1,
        arterial="off",
    ),
}
