"""What accelerate gives a run: the device, the process group, the trackers. And what it may not.

Precision and compile are the recipe's, so a launcher's config that says otherwise is refused by
name; so is a launcher that silently started one process where several were asked for, which is
what `accelerate launch --cpu --num_processes 2` does (huggingface/accelerate#2741).
"""

from __future__ import annotations

import os
import re
import signal
import time
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, Self

import psutil
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration
from torch import Tensor, nn

from wdtrain.disk.machine import own_cores
from wdtrain.ranks.collective import Collective, RankLost
from wdtrain.ranks.devices import indexed, warm_up
from wdtrain.ranks.heap import keep_freed_memory
from wdtrain.ranks.join import is_on_cpu, is_one_of_several, join_ranks

_FOREIGN = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
_STARTING_SECONDS = 60.0
GPU_THREADS = 2
"""Threads of arithmetic on the CPU beside a GPU: there are scores of a validation to add up."""


class TrainedTask(Protocol):
    """What accelerate's checkpoints hold of a task."""

    @property
    def network(self) -> nn.Module: ...

    @property
    def optimizer(self) -> torch.optim.Optimizer: ...


def check_launcher(precision: str) -> None:
    """Raises ValueError, naming it, if the launcher's config asks for what a recipe decides."""
    for variable, name in _FOREIGN.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise ValueError(
                f"the launcher's config turns on {name}, which wdtrain's step does not work with: "
                "it reduces gradients itself; remove it from the accelerate config"
            )
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked not in ("no", precision):
        raise ValueError(
            f"the launcher's config says mixed_precision {asked}, the recipe says precision "
            f"{precision}; set mixed_precision to 'no' there: precision is the recipe's"
        )
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend != "no":
        raise ValueError(
            f"the launcher's config says dynamo_backend {backend}; remove it there and set "
            "compile=true in the recipe"
        )
    wanted = processes_asked()
    if wanted > 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise ValueError(
            f"the launcher was asked for {wanted} processes and started one, as accelerate does "
            f"without a GPU; use: accelerate launch --multi_gpu --num_processes {wanted} ... (and "
            "ACCELERATE_USE_CPU=true before it, to train on the CPU where there is a GPU)"
        )


def processes_asked() -> int:
    """How many processes the launcher above us was asked for; 1 if there is none to ask."""
    try:
        parent = psutil.Process().parent()
        words = parent.cmdline() if parent else []
    except psutil.Error:
        return 1
    line = " ".join(words)
    if "accelerate" not in line or "launch" not in line:
        return 1
    given = re.search(r"--num[_-]processes[ =](\d+)", line)
    if given:
        return int(given[1])
    config = re.search(r"--config[_-]file[ =](\S+)", line)
    if config and Path(config[1]).is_file():
        return int((yaml.safe_load(Path(config[1]).read_text()) or {}).get("num_processes") or 1)
    return 1


def start_accelerator(
    *,
    precision: str,
    trackers: list[str],
    folder: str,
    cpu_threads: int | None,
    memory: float,
    timeout_seconds: float = 600.0,
) -> Accelerator:
    """The accelerator of this process, on its device, with its CPU threads and memory limit set.

    memory: what may be used of a GPU, a share (float) or bytes (int); timeout_seconds: how long
    ranks wait for one another. ValueError if not all ranks come in that time, and the minute that
    processes may take to start.
    """
    check_launcher(precision)
    # Longer than the collective's own limit, which can say who is missing and so has to come first.
    join_ranks(timeout_seconds + _STARTING_SECONDS)
    accelerator = Accelerator(
        # Without this, accelerate takes each of several processes without a GPU for the only one.
        cpu=is_one_of_several() and is_on_cpu(),
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=trackers or None,
        project_config=ProjectConfiguration(project_dir=folder, logging_dir=folder),
    )
    device = accelerator.state.device = indexed(accelerator.device)
    torch.set_num_threads(cpu_threads or default_threads(device))
    if device.type == "cuda":
        total_bytes = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(memory_share(memory, total_bytes), device)
    else:
        keep_freed_memory()
    return accelerator


def default_threads(device: torch.device) -> int:
    """Threads of a process's arithmetic on the CPU: its share of the cores, since a launcher would
    leave them idle (OMP_NUM_THREADS=1); two where a GPU computes and the reader needs the cores."""
    return min(own_cores(), GPU_THREADS) if device.type == "cuda" else own_cores()


def register_tasks(accelerator: Accelerator, tasks: Iterable[TrainedTask]) -> None:
    """accelerate's checkpoints hold these networks and optimizers; nothing is wrapped by it."""
    for task in tasks:
        accelerator.prepare_model(task.network, device_placement=False, evaluation_mode=True)
        accelerator.prepare_optimizer(task.optimizer, device_placement=False)


def set_up(device: torch.device, summed: Tensor, collective: Collective) -> None:
    """Device and communicator hold all that they take for themselves, before anybody measures what
    is left: the device by a first small pass, the communicator by the sum that each step makes, of
    `summed`, which holds zeros.

    All ranks call it, at the start. ValueError on all of them where that sum fails: NCCL takes
    hundreds of MB, and where it does not get them, smaller micro-batches cannot help.
    """
    warm_up(device)
    try:
        collective.flat_sum(summed)
    except RankLost as error:
        if error.lost:
            raise
        why = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(
            f"the first sum over all ranks failed ({why}): GPUs cannot exchange gradients here; "
            "see in nvidia-smi what else fills them, and what NCCL_DEBUG=INFO says"
        ) from error
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_share(memory: float, total_bytes: int) -> float:
    """The share of a device of `total_bytes` that `memory` allows: a float is one, an int bytes."""
    return min(1.0, memory / total_bytes) if isinstance(memory, int) else memory


_ONE_PRESS_SECONDS = 0.5
"""One Ctrl-C may come twice, from the terminal and from the launcher, but not so far apart."""


_STARTED_BY = os.getppid()
"""Looked at early, since a launcher may also die while a run is being opened."""


class StopRequest:
    """Set by SIGTERM, SIGHUP, SIGINT (Ctrl-C), or the launcher's death; read at each step's
    agreement. A context manager: signals are taken inside, and given back after.

    A second Ctrl-C interrupts at once, as a person who presses twice expects. SIGHUP is a closed
    terminal; where it is ignored at the start (nohup), it stays so. The launcher's workers live in
    a session of their own and outlive it, so they watch who their parent is.
    """

    def __init__(self) -> None:
        self._reason = ""
        self._signal = 0
        self._asked_at = 0.0
        # Without a launcher the parent is a shell, which may well end before a long training.
        is_launched = bool({"TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION"} & set(os.environ))
        self._launcher = _STARTED_BY if is_launched else None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        taken = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            taken.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._on_signal) for number in taken}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    @property
    def reason(self) -> str:
        """Why to stop; empty as long as there is no reason."""
        if not self._reason and self._launcher not in (None, os.getppid()):
            self._reason = "the launcher is gone"
        return self._reason

    def asked(self) -> bool:
        return bool(self.reason)

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as a shell gives it; 1 where another rank was asked."""
        return 128 + self._signal if self._signal else 1

    def _on_signal(self, number: int, frame: types.FrameType | None) -> None:
        again, self._asked_at = self._asked_at, time.monotonic()
        if number == signal.SIGINT and self._signal and self._asked_at - again > _ONE_PRESS_SECONDS:
            raise KeyboardInterrupt
        self._signal = number
        self._reason = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
