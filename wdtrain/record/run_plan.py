"""The plan of a run, and what `--plan` prints: what is read, and how a batch is cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch import nn

from wdtrain.record.console_base import RunPlan, TaskPlan

__all__ = ["RunPlan", "plan_tasks", "plan_text"]


class PlannedTask(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def network(self) -> nn.Module: ...
    @property
    def micro_batch(self) -> int: ...


def plan_tasks(tasks: Iterable[PlannedTask], networks: Mapping[str, str]) -> tuple[TaskPlan, ...]:
    """What is planned for each task; networks: what each one's is called."""
    return tuple(
        TaskPlan(
            name=task.name,
            network=networks[task.name],
            parameters=sum(parameter.numel() for parameter in task.network.parameters()),
            micro_batch=task.micro_batch,
        )
        for task in tasks
    )


def plan_text(plan: RunPlan, *, balance: float, advice: str) -> str:
    """Lines of text; one "micro-batch N" a task. balance: mean over largest share of the ranks;
    advice: what would even it, or ""."""
    epochs = plan.steps * plan.batch_size / max(plan.samples, 1)
    lines = [
        f"{plan.title} on {plan.device}",
        f"data        {plan.samples:,} training samples, {epochs:.2f} epochs",
        f"steps       {plan.steps:,}",
        *(f"batch       {line.removeprefix('batch ')}" for line in plan.batch_lines("x")),
        *(
            f"micro-batch {task.micro_batch} for {task.name}: {task.network}, "
            f"{task.parameters:,} parameters"
            for task in plan.tasks
        ),
        f"balance     {balance:.2f} over {plan.ranks} rank{'s' * (plan.ranks != 1)}",
    ]
    if advice:
        lines.append(f"            {advice}")
    return "\n".join(lines)
