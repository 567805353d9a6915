"""The tasks of a run, built from plain declarations: names, options and where they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wdtrain.learn.task import TaskSet, build_task
from wdtrain.networks import build
from wdtrain.ranks.devices import exact_float32


def build_tasks(
    declared: Mapping[str, Mapping[str, Any]],
    *,
    seed: int,
    device: torch.device,
    weights: Mapping[str, Mapping[str, Tensor]] | None = None,
    **common: Any,
) -> TaskSet:
    """Every declared task, ready to train.

    declared: by name, {"network", "options", "target", "loss", "optimizer", "schedule",
    "max_grad_norm"}; weights: state dicts to start from, by task; common: `build_task`'s precision,
    micro_batch, channels_last, compiled. Raises ValueError naming the task and what is wrong.
    float32 is float32 on CUDA from now on, in all of the process.
    """
    exact_float32()
    tasks = []
    for name, one in declared.items():
        try:
            network = build(one["network"], init_seed=seed, **one["options"])
            if weights and name in weights:
                load_state(network, weights[name])
            kept = {k: v for k, v in one.items() if k not in ("network", "options")}
            target = kept.pop("target")
            tasks.append(
                build_task(name, target, network, seed=seed, device=device, **kept, **common)
            )
        except ValueError as error:
            raise ValueError(f"tasks.{name}: {error}") from error
    return TaskSet(tasks)


def load_state(network: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    """The network has these weights; ValueError naming what does not fit."""
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:3]]
        raise ValueError(
            f"the weights are not of {type(network).__name__}: {' '.join(lines)[:300]}; "
            "name the network that they were saved from"
        ) from error
