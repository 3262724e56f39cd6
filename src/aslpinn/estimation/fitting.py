"""Training of the fields: sampling, schedule, stopping, ensemble. Each piece can be used by itself."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import InputError
from ..fields import HashIndex, MultiresHashEncoding, ParameterField, SignalField
from ..physics import Constants
from . import objectives
from .config import PRESETS, FitConfig
from .objectives import Durations, Losses
from .problem import Floats, Problem, Request
from .training import (
    BATCHES,
    ENGINES,
    HELD_OUT,
    History,
    OnEpoch,
    Trained,
    configure,
    learning_rate,
    minibatches,
    run_epochs,
    signal_level,
    unit_positions,
)

__all__ = [
    "PRESETS",
    "AutogradTrainer",
    "Fields",
    "FitConfig",
    "History",
    "TorchMembers",
    "TrainingData",
    "configure",
    "evaluate",
    "learning_rate",
    "make_trainer",
    "minibatches",
    "positions",
    "train",
    "training_data",
]

EVALUATION_CHUNK = 65536  # voxels evaluated at a time after training


class Fields(nn.Module):
    """The networks of one member: f_ode, and f_tissue where the objective needs it, on hash encodings.

    CBF and ATT share one encoding and one network (the paper), or ATT has its own (att_levels > 0). f_tissue uses the
    first encoding.
    """

    def __init__(self, config: FitConfig, seed: int, engine: str = "auto", device: str = "cpu") -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.engine = "fused" if engine == "auto" and device == "cpu" else engine.replace("auto", "torch")
        lookup = "tinycudann" if engine == "tinycudann" else "torch"

        def encoding(levels: int, base: int, finest: int) -> MultiresHashEncoding:
            return MultiresHashEncoding(levels, config.features, config.log2_table, base, finest, lookup, rng)

        def parameters(of: MultiresHashEncoding) -> ParameterField:
            return ParameterField(
                of,
                config.hidden,
                config.layers,
                config.omega_parameters_first,
                config.omega_parameters,
                config.activation,
                rng,
                config.cbf_scale,
                config.att_scale,
            )

        first = encoding(config.levels, config.base, config.finest)
        self.parameter_field = parameters(first)
        self.att_field: ParameterField | None = None
        if config.att_levels:
            self.att_field = parameters(encoding(config.att_levels, config.att_base, config.att_finest))
        self.signal_field: SignalField | None = None
        if config.objective != "closed-form":
            self.signal_field = SignalField(
                first,
                config.hidden,
                config.layers,
                config.omega_signal_first,
                config.omega_signal,
                config.activation,
                rng,
            )
        self.to(device)

    def precompute(self, at: Tensor) -> list[HashIndex]:
        """Hash (N, 3) positions once for every encoding."""
        own = [] if self.att_field is None else [self.att_field.encoding.precompute(at)]
        return [self.parameter_field.encoding.precompute(at), *own]

    def forward(self, indices: list[HashIndex], subset: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Code of the first encoding (n, C), CBF (n,) and ATT (n,) of precomputed positions."""
        code = self.parameter_field.encoding.lookup(indices[0], subset)
        cbf, att = self.parameter_field(code)
        if self.att_field is not None:
            _, att = self.att_field(self.att_field.encoding.lookup(indices[1], subset))
        return code, cbf, att


@dataclass
class TrainingData:
    """A problem as tensors: scaled signals (N, D), weights (N or 1, D), delays, positions."""

    signal: Tensor
    weight: Tensor
    held_out: Tensor | None
    pld: Tensor
    durations: Durations
    positions: Tensor
    constants: Constants
    scale: float


def check_device(device: str, engine: str) -> str:
    """The device's name if torch and the engine can use it; InputError otherwise."""
    if engine not in ENGINES:
        raise InputError(f"engine: found {engine!r}, expected one of {', '.join(ENGINES)}")
    if engine == "fused" and device != "cpu":
        raise InputError(f"engine: found 'fused' with device {device!r}, expected device cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device is {device!r}, which torch {torch.__version__} cannot use here; expected cpu"
        ) from error
    return device


def positions(problem: Problem, voxel_size: tuple[float, float, float]) -> Tensor:
    """Voxel centers in [0, 1]^3 as `unit_positions`."""
    return torch.as_tensor(unit_positions(problem, voxel_size))


def training_data(problem: Problem, request: Request, config: FitConfig) -> TrainingData:
    """Scale the signals, weigh by repeats, keep back a share of samples where the config asks for it."""
    device = request.device
    level = signal_level(problem, config)
    weight = torch.as_tensor(problem.counts / problem.counts.mean(), device=device)[None]
    held_out = None
    if config.held_out:
        kept = np.random.default_rng([config.seed, HELD_OUT]).random(problem.signal.shape) < config.held_out
        held_out = torch.as_tensor(kept, device=device)
        weight = weight * ~held_out
    return TrainingData(
        signal=torch.as_tensor(problem.signal / level, device=device),
        weight=weight,
        held_out=held_out,
        pld=torch.as_tensor(problem.pld, device=device),
        durations=Durations(problem.acquisition, device),
        positions=positions(problem, request.voxel_size).to(device),
        constants=problem.acquisition.constants,
        scale=1.0 / level,
    )


def batch_losses(
    fields: Fields,
    indices: list[HashIndex],
    data: TrainingData,
    config: FitConfig,
    subset: Tensor,
    rng: np.random.Generator,
) -> Losses:
    """The config's objective on a batch of voxels."""
    measured = data.signal[subset]
    weight = data.weight if data.weight.shape[0] == 1 else data.weight[subset]
    pld = data.pld if data.pld.shape[0] == 1 else data.pld[subset]
    code, cbf, att = fields(indices, subset)
    if fields.signal_field is None:
        times = data.durations.acquired(pld)
        return objectives.closed_form(measured, weight, cbf, att, times, data.constants, data.scale)
    times = data.durations.collocated(pld, len(subset), config.collocation, rng, config.collocation_at)
    t = times.t / config.time_scale
    common = (data.constants, data.scale, config.alpha, config.lambda_physics)
    if config.objective == "increments":
        return objectives.increments(measured, weight, fields.signal_field(code, t), cbf, att, times, *common)
    fitted, rate = fields.signal_field.with_rate(code, t)
    return objectives.pointwise(
        measured, weight, fitted, rate, cbf, att, times, *common, config.time_scale, config.reading
    )


class Trainer(Protocol):
    """An engine that takes training steps."""

    def step(self, subset: Tensor, lr: float, rng: np.random.Generator) -> dict[str, float]:
        """Take an AdamW step on a batch of voxels; its losses before the step."""

    def sync(self) -> None:
        """Bring the fields' parameters up to date."""


class AutogradTrainer:
    """PyTorch's autograd and AdamW: the reference, on any device and for any setting."""

    def __init__(self, fields: Fields, indices: list[HashIndex], data: TrainingData, config: FitConfig) -> None:
        self.fields, self.indices, self.data, self.config = fields, indices, data, config
        fused = data.signal.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(
            fields.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=fused, eps=1e-8
        )

    def step(self, subset: Tensor, lr: float, rng: np.random.Generator) -> dict[str, float]:
        """Take an AdamW step on a batch of voxels; its losses before the step."""
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        subset = subset.to(self.data.signal.device)
        losses = batch_losses(self.fields, self.indices, self.data, self.config, subset, rng)
        losses["total"].backward()
        self.optimizer.step()
        return {name: float(value.detach()) for name, value in losses.items()}

    def sync(self) -> None:
        """Nothing to do: the optimizer works on the fields' parameters."""


def make_trainer(fields: Fields, indices: list[HashIndex], data: TrainingData, config: FitConfig) -> Trainer:
    """The compiled step where the fields' engine is "fused" and can do what the config asks, else autograd."""
    from .fused import FusedTrainer, unsupported

    if fields.engine == "fused" and not unsupported(data, config):
        return FusedTrainer(fields, indices, data, config)
    return AutogradTrainer(fields, indices, data, config)


def train(
    fields: Fields, data: TrainingData, config: FitConfig, on_epoch: OnEpoch | None = None
) -> tuple[list[HashIndex], History]:
    """Fit the fields in place with AdamW; the hashed positions and the losses by epoch.

    With config.held_out, the weights of the epoch with the smallest held-out error are kept. Raises FitError where a
    loss is not finite.
    """
    rng = np.random.default_rng([config.seed, BATCHES])
    indices = fields.precompute(data.positions)
    trainer = make_trainer(fields, indices, data, config)
    n, best = len(data.signal), {}

    def step(points: NDArray[np.int64], lr: float) -> tuple[int, dict[str, float]]:
        return len(points), trainer.step(torch.from_numpy(points), lr, rng)

    def end() -> float | None:
        trainer.sync()
        return None if data.held_out is None else held_out_error(fields, indices, data)

    def keep() -> None:
        best.update(copy.deepcopy(fields.state_dict()))

    history = run_epochs(config, n, lambda: minibatches(n, config.batch, rng), step, end, keep, on_epoch)
    if best:
        fields.load_state_dict(best)
    return indices, history


class TorchMembers:
    """Networks trained with PyTorch: any objective, engine and device (`training.Members`)."""

    def __init__(self, problem: Problem, request: Request, config: FitConfig) -> None:
        check_device(request.device, request.engine)
        self.request, self.config = request, config
        self.data = training_data(problem, request, config)
        self.scale = self.data.scale

    def train(self, seed: int, on_epoch: OnEpoch, added: Floats | None = None) -> Trained:
        """Train the network of a seed, on signals to which `added` (N, D) was added."""
        data = self.data
        if added is not None:
            more = torch.as_tensor(added * data.scale, device=self.request.device)
            data = replace(data, signal=data.signal + more)
        fields = Fields(self.config, seed, self.request.engine, self.request.device)
        indices, history = train(fields, data, self.config, on_epoch)
        return Trained(*evaluate(fields, indices), history, fields.engine)


@torch.no_grad()
def evaluate(fields: Fields, indices: list[HashIndex]) -> tuple[Floats, Floats]:
    """CBF in ml/100g/min and ATT in s at the precomputed positions, (N,) float32."""
    n, device = len(indices[0]), indices[0].rows.device
    parts = [fields(indices, part.to(device))[1:] for part in torch.arange(n).split(EVALUATION_CHUNK)]
    return torch.cat([p[0] for p in parts]).cpu().numpy(), torch.cat([p[1] for p in parts]).cpu().numpy()


@torch.no_grad()
def held_out_error(fields: Fields, indices: list[HashIndex], data: TrainingData) -> float:
    """RMSE of the samples kept from the loss, predicted by Buxton's solution, in scaled units."""
    if data.held_out is None:
        raise InputError("held_out is 0: no sample was kept back")
    device = data.signal.device
    total = 0.0
    for part in torch.arange(len(data.signal), device=device).split(EVALUATION_CHUNK):
        _, cbf, att = fields(indices, part)
        pld = data.pld if data.pld.shape[0] == 1 else data.pld[part]
        times = data.durations.acquired(pld)
        kept = data.held_out[part].float()
        losses = objectives.closed_form(data.signal[part], kept, cbf, att, times, data.constants, data.scale)
        total += float(losses["data"]) * float(kept.sum())
    return math.sqrt(total / max(1.0, float(data.held_out.sum())))
