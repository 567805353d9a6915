"""On the device: networks, augmentation, losses, optimizers and the step that moves them.

What the training loop needs of the room; everything else is private to it.
"""

from wdtrain.learn.augment import Augmentation
from wdtrain.learn.build import build_tasks
from wdtrain.learn.evaluate import Answered, evaluate_batches
from wdtrain.learn.out_of_memory import DoesNotFit, is_out_of_memory
from wdtrain.learn.rows import rows_of
from wdtrain.learn.step import train_step
from wdtrain.learn.task import TaskSet
from wdtrain.learn.view import View, plain_view
from wdtrain.memory.fitting import CudaGauge, Fitting, budget_bytes
from wdtrain.memory.planner import explain_choices
from wdtrain.memory.refusal import estimate_lines, explain_refusal
from wdtrain.ranks.collective import Alone, Collective, open_collective
from wdtrain.ranks.launch import StopRequest, register_tasks, set_up, start_accelerator
from wdtrain.ranks.stopping import RunStopped, StopTogether, check_stop, no_sudden_collection

__all__ = [
    "Alone",
    "Answered",
    "Augmentation",
    "Collective",
    "CudaGauge",
    "DoesNotFit",
    "Fitting",
    "StopRequest",
    "Stopped",
    "TaskSet",
    "Together",
    "View",
    "budget_bytes",
    "build_tasks",
    "check_stop",
    "estimate_lines",
    "evaluate_batches",
    "explain",
    "explain_refusal",
    "is_out_of_memory",
    "no_sudden_collection",
    "open_collective",
    "plain_view",
    "register",
    "rows_of",
    "set_up",
    "start_accelerator",
    "train_step",
]
