"""Optimizers and learning-rate schedules by name.

A schedule's rate is a pure function of its small state and of the step: nothing accumulates in
floats, so a restored schedule gives the same rates bit for bit. It is given the validation loss
once an evaluation (`observe`) and sets the rate before each step (`step`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from wdtrain.config import OptimizerSettings, ScheduleSettings


def build_optimizer(
    settings: OptimizerSettings, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimizer of a recipe, with all its state. `decay_norms` says whether weight decay also
    draws on what has one axis or none: weights of norms, and biases. Where it does not, and there
    is decay, these are a parameter group of their own."""
    apart = bool(settings.weight_decay) and not settings.decay_norms
    groups = _groups(list(parameters), apart=apart)
    lr, decay = settings.lr, settings.weight_decay
    optimizer: torch.optim.Optimizer
    if settings.name == "sgd":
        optimizer = torch.optim.SGD(
            groups, lr=lr, weight_decay=decay, momentum=settings.momentum, fused=True
        )
    else:
        optimizer = torch.optim.AdamW(
            groups, lr=lr, weight_decay=decay, betas=settings.betas, fused=True
        )
    allocate(optimizer)
    return optimizer


def _groups(parameters: list[nn.Parameter], *, apart: bool) -> list[dict[str, Any]]:
    """One parameter group, or, `apart`, a second one that does not decay, each in their order."""
    if not apart:
        return [{"params": parameters}]
    flat = [parameter for parameter in parameters if parameter.dim() <= 1]
    wide = [parameter for parameter in parameters if parameter.dim() > 1]
    groups: list[dict[str, Any]] = [{"params": wide}, {"params": flat, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def allocate(optimizer: torch.optim.Optimizer) -> None:
    """The optimizer has all its state now, so that memory cannot run out in its first step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if isinstance(optimizer, torch.optim.SGD):
                if group["momentum"]:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                continue
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)


def step_if(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """A step if `finite` (bool, on the device) is true, else nothing: decided on the device, by
    what fused optimizers offer to gradient scalers, so the host need not wait to know."""
    optimizer.found_inf = (~finite).to(torch.float32)  # type: ignore[attr-defined]
    optimizer.step()


@dataclass
class Constant:
    """The optimizer's own rate, unchanged."""

    optimizer: torch.optim.Optimizer = field(repr=False)
    base_lrs: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.base_lrs = self.base_lrs or [group["lr"] for group in self.optimizer.param_groups]

    def share(self, step: int) -> float:
        """Share of the base rate that holds for the step after `step` steps."""
        return 1.0

    def step(self, step: int) -> float:
        """Set the rate for the step after `step` steps; returns that of the first group."""
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * self.share(step)
        return float(self.optimizer.param_groups[0]["lr"])

    def observe(self, validation_loss: float, epoch: float) -> None:
        """Take note of an evaluation's mean loss after `epoch` epochs."""

    def state_dict(self) -> dict[str, Any]:
        return {
            item.name: getattr(self, item.name) for item in fields(self) if item.name != "optimizer"
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        known = self.state_dict()
        if known.keys() != state.keys():
            raise ValueError(
                f"the saved schedule holds {sorted(state)}, {type(self).__name__} needs "
                f"{sorted(known)}; it was saved by another schedule; resume with the recipe it was "
                "saved by"
            )
        for name, value in state.items():
            setattr(self, name, value)


@dataclass
class SeedSchedule(Constant):
    """Constant for the first epochs, then times `factor` when the validation loss stops falling.

    That of ReduceLROnPlateau: after more than `patience` evaluations in a row without a loss below
    the best by `threshold` (relative), the rate is multiplied by `factor`, not below `floor` of the
    base.
    """

    constant_epochs: float = 150.0
    factor: float = 0.1
    patience: int = 5
    threshold: float = 1e-4
    floor: float = 1e-8
    best: float = math.inf
    bad_evaluations: int = 0
    reductions: int = 0

    def share(self, step: int) -> float:
        return max(self.factor**self.reductions, self.floor)

    def observe(self, validation_loss: float, epoch: float) -> None:
        if epoch <= self.constant_epochs:
            return
        if validation_loss < self.best * (1 - self.threshold):
            self.best, self.bad_evaluations = validation_loss, 0
        else:
            self.bad_evaluations += 1
        if self.bad_evaluations > self.patience:
            self.reductions, self.bad_evaluations = self.reductions + 1, 0


@dataclass
class WarmupCosine(Constant):
    """Linear over `warmup_steps`, then half a cosine: the first step after them has the full rate,
    the last of `total_steps` has `floor` (a share). A run of one step has the full rate."""

    total_steps: int = 0
    warmup_steps: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.warmup_steps < self.total_steps or not 0 <= self.floor <= 1:
            raise ValueError(
                f"warmup-cosine has {self.warmup_steps} warm-up steps of {self.total_steps} and a "
                f"floor of {self.floor}; the warm-up must be shorter than the whole, and the floor "
                "a share of the rate, 0 to 1"
            )

    def share(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        last = self.total_steps - 1
        if step >= max(last, 1):
            return self.floor
        done = (step - self.warmup_steps) / max(last - self.warmup_steps, 1)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))


LearningRate = Constant
"""What every schedule is: `step`, `observe`, `state_dict`, `load_state_dict`."""


def build_schedule(
    settings: ScheduleSettings, optimizer: torch.optim.Optimizer, *, total_steps: int
) -> LearningRate:
    """The schedule of a recipe, for a run of so many steps."""
    if settings.name == "seed":
        return SeedSchedule(
            optimizer,
            constant_epochs=settings.constant_epochs,
            factor=settings.factor,
            patience=settings.patience,
        )
    if settings.name == "constant":
        return Constant(optimizer)
    # A run shorter than its warm-up (a trial of ten steps) warms up for half of it.
    warmup = min(settings.warmup_steps, total_steps // 2)
    return WarmupCosine(
        optimizer, total_steps=total_steps, warmup_steps=warmup, floor=settings.floor
    )
