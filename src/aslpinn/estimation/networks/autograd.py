"""Training by PyTorch's autograd and AdamW: the reference, on any device, of one network or of several side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError
from ...fields import HashIndex, MultiresHashEncoding, ParameterField, SignalField
from ...fields.arrays import decay_rates
from ..problem import Floats
from . import objectives
from .config import PinnOptions
from .objectives import Losses, TorchDurations
from .train import Points, Samples, held_out_error

EVALUATION_CHUNK = 65536  # voxels evaluated at a time


class Fields(nn.Module):
    """The networks of one member: f_ode, and f_tissue where the objective needs it, on hash encodings.

    CBF and ATT share one encoding and one network (the paper), or ATT has its own (att_levels > 0). f_tissue uses the
    first encoding; `lines` are those of the encodings (`Samples.lines`). With several seeds the parameters of all
    members are stacked: tables side by side in each row, weights on a first axis, which codes and outputs then have,
    too.
    """

    def __init__(
        self, config: PinnOptions, seeds: int | Sequence[int], engine: str = "torch", lines: Sequence[int] = ()
    ) -> None:
        super().__init__()
        first, *others = [seeds] if isinstance(seeds, int) else seeds
        self._start(config, first, engine, lines)
        if others:
            members = [dict(self.named_parameters())]
            members += [dict(Fields(config, seed, engine, lines).named_parameters()) for seed in others]
            for name, parameter in members[0].items():
                several = [member[name].detach() for member in members]
                table = name.endswith("table")
                parameter.data = torch.stack(several, 1).flatten(1) if table else torch.stack(several)

    def _start(self, config: PinnOptions, seed: int, engine: str, lines: Sequence[int]) -> None:
        rng = np.random.default_rng(seed)
        shape = (config.hidden, config.layers)

        def parameters(levels: int, base: int, finest: int) -> ParameterField:
            of = MultiresHashEncoding(levels, config.features, config.log2_table, base, finest, engine, rng, lines)
            omegas = (config.omega_parameters_first, config.omega_parameters)
            return ParameterField(of, *shape, *omegas, config.activation, rng, config.cbf_scale, config.att_scale)

        self.parameter_field = parameters(config.levels, config.base, config.finest)
        self.att_field: ParameterField | None = None
        if config.att_levels:
            self.att_field = parameters(config.att_levels, config.att_base, config.att_finest)
        self.signal_field: SignalField | None = None
        if config.objective != "closed-form":
            omegas = (config.omega_signal_first, config.omega_signal)
            self.signal_field = SignalField(self.parameter_field.encoding, *shape, *omegas, config.activation, rng)

    def encodings(self) -> list[MultiresHashEncoding]:
        """That of f_ode and f_tissue, and ATT's own where it has one."""
        own = [] if self.att_field is None else [self.att_field.encoding]
        return [self.parameter_field.encoding, *own]

    def precompute(self, at: Tensor) -> list[HashIndex]:
        """Hash (N, 3) positions once for every encoding."""
        return [encoding.precompute(at) for encoding in self.encodings()]

    def forward(self, indices: list[HashIndex], subset: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Code of the first encoding (n, C), CBF (n,) and ATT (n,) of precomputed positions."""
        code = self.parameter_field.encoding.lookup(indices[0], subset)
        cbf, att = self.parameter_field(code)
        if self.att_field is not None:
            _, att = self.att_field(self.att_field.encoding.lookup(indices[1], subset))
        return code, cbf, att


class AutogradEngine:
    """AdamW steps by autograd (`train.Engine`): one network, or one for each of several seeds side by side.

    On a CUDA device the batches of an epoch are copied there at once, and every step is a CUDA graph, recorded once for
    each size of a batch (with recorded False its kernels are started one by one). All its operations are deterministic:
    the same seeds give the same maps on the same device. Raises InputError for a device that torch cannot use.
    """

    def __init__(
        self,
        samples: Samples,
        config: PinnOptions,
        seeds: int | Sequence[int],
        device: str = "cpu",
        name: str = "torch",
        recorded: bool = True,
    ) -> None:
        self.config, self.device, self.name = config, check_device(device), name
        encoding = "tinycudann" if name == "tinycudann" else "torch"
        self.fields = Fields(config, seeds, encoding, samples.lines).to(device)
        self.indices = self.fields.precompute(self._tensor(samples.positions))
        self.signal, self.weight, self.pld = (
            self._tensor(values) for values in (samples.signal, samples.weight, samples.pld)
        )
        self.scale: Any = self._tensor(samples.scale) if isinstance(samples.scale, np.ndarray) else samples.scale
        self.constants = samples.problem.acquisition.constants
        self.durations = TorchDurations(samples.durations, device)
        self.edge_width = samples.edge_width
        self.kept = [] if samples.held_out is None else [self._tensor(values) for values in samples.kept]
        self.recorded = recorded and device.startswith("cuda") and name != "tinycudann"
        lr: Any = torch.tensor(config.lr, device=device) if self.recorded else config.lr
        self.optimizer = torch.optim.AdamW(
            self.fields.parameters(), lr, weight_decay=config.weight_decay, fused=True, capturable=self.recorded
        )
        self._decay = [
            (encoding.table, self._rows(encoding)) for encoding in self.fields.encodings() if config.level_decay
        ]
        self._graphs: dict[int, Recorded] = {}
        if device.startswith("cuda"):
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic products ask for
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def _tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(values)).to(self.device)

    def _rows(self, encoding: MultiresHashEncoding) -> Tensor:
        """Weight decay of every row of a table, (rows, 1)."""
        rates = decay_rates(encoding.levels, self.config.level_decay or 0.0)
        rows = np.repeat(rates, [level.rows for level in encoding.levels])
        return self._tensor(rows.astype(np.float32))[:, None]

    def load(self, batches: list[tuple[Points, Floats]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches as tensors; those of an epoch are copied to the device together."""
        sizes = [len(points) for points, _ in batches]
        points, drawn = (self._tensor(np.concatenate(values)) for values in zip(*batches, strict=True))
        return zip(points.split(sizes), drawn.split(sizes), strict=True)

    def step(self, points: Tensor, drawn: Tensor, lr: float) -> Losses:
        """Losses on a batch of voxels, their gradients, and an AdamW step; the losses before the step."""
        rate = self.optimizer.param_groups[0]["lr"]
        if not self.recorded:
            self.optimizer.param_groups[0]["lr"] = lr
            return self._step(points, drawn)
        if len(points) not in self._graphs:
            self._graphs[len(points)] = Recorded(self, points, drawn)
        rate.fill_(lr)
        return self._graphs[len(points)](points, drawn)

    def _step(self, points: Tensor, drawn: Tensor) -> Losses:
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.losses(points, drawn)
        losses["total"].sum().backward()
        with torch.no_grad():
            for table, decay in self._decay:
                table.mul_(torch.exp(decay * -self.optimizer.param_groups[0]["lr"]))
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def losses(self, points: Tensor, drawn: Tensor) -> Losses:
        """The config's objective on a batch of voxels, differentiable in the fields' parameters."""
        config, fields = self.config, self.fields
        measured = self.signal[..., points, :]
        weight = self.weight if self.weight.shape[-2] == 1 else self.weight[..., points, :]
        pld = self.pld if len(self.pld) == 1 else self.pld[points]
        code, cbf, att = fields(self.indices, points)
        if fields.signal_field is None:
            times = self.durations.acquired(pld)
            return objectives.closed_form(measured, weight, cbf, att, times, self.constants, self.scale)
        times = self.durations.collocated(pld, drawn)
        t = times.t / config.time_scale
        common = (self.constants, self.scale, config.alpha, config.lambda_physics)
        if config.objective == "increments":
            return objectives.increments(measured, weight, fields.signal_field(code, t), cbf, att, times, *common)
        fitted, rate = fields.signal_field.with_rate(code, t)
        return objectives.pointwise(
            measured, weight, fitted, rate, cbf, att, times, *common, config.time_scale, config.reading, self.edge_width
        )

    def maps(self) -> tuple[Floats, Floats]:
        """CBF in ml/100g/min and ATT in s of all voxels, as the networks are now: (K, N)."""
        cbf, att = self._maps().cpu().numpy()
        return np.atleast_2d(cbf), np.atleast_2d(att)

    def held_out_error(self) -> list[float] | float:
        """`train.held_out_error` of the networks as they are now."""
        cbf, att = self._maps()
        errors: list[float] | float = held_out_error(self.kept, cbf, att, self.constants).tolist()
        return errors

    @torch.no_grad()
    def _maps(self) -> Tensor:
        """CBF and ATT of all voxels: (2, N), of several networks (2, K, N)."""
        chosen = torch.arange(self.signal.shape[-2], device=self.device).split(EVALUATION_CHUNK)
        return torch.cat([torch.stack(self.fields(self.indices, points)[1:]) for points in chosen], dim=-1)


class Recorded:
    """A step on batches of one size as a CUDA graph: hundreds of small kernels, started at once."""

    def __init__(self, engine: AutogradEngine, points: Tensor, drawn: Tensor) -> None:
        self.points, self.drawn = points.clone(), drawn.clone()
        parameters, moments = list(engine.fields.parameters()), engine.optimizer.state
        before = [p.detach().clone() for p in parameters]
        states = {p: {name: value.clone() for name, value in moments[p].items()} for p in parameters if p in moments}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # what is set up at a first call must not be recorded
                engine._step(self.points, self.drawn)
        torch.cuda.current_stream().wait_stream(side)
        with torch.no_grad():  # as if those steps had not been
            for p, old in zip(parameters, before, strict=True):
                p.copy_(old)
                for name, value in moments[p].items():
                    value.copy_(states[p][name]) if p in states else value.zero_()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.losses = engine._step(self.points, self.drawn)

    def __call__(self, points: Tensor, drawn: Tensor) -> Losses:
        """Take the step on other voxels; the losses are overwritten by the next step."""
        self.points.copy_(points)
        self.drawn.copy_(drawn)
        self.graph.replay()
        return self.losses


def check_device(device: str) -> str:
    """The device's name if torch can use it; InputError otherwise."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device is {device!r}, which torch {torch.__version__} cannot use here; expected cpu"
        ) from error
    return device
