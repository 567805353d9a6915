"""On the device: networks, augmentation, losses, optimizers and the step that moves them.

What the training loop needs of the room; everything else is private to it.
"""

from wdtrain.learn.augment import Augmentation
from wdtrain.learn.build import build_tasks
from wdtrain.learn.collective import Collective, open_collective
from wdtrain.learn.evaluate import Answered, evaluate_batches
from wdtrain.learn.launch import StopRequest, register, start_accelerator
from wdtrain.learn.rows import rows_of
from wdtrain.learn.step import train_step
from wdtrain.learn.task import TaskSet
from wdtrain.learn.view import View, plain_view

__all__ = [
    "Answered",
    "Augmentation",
    "Collective",
    "StopRequest",
    "TaskSet",
    "View",
    "build_tasks",
    "evaluate_batches",
    "open_collective",
    "plain_view",
    "register",
    "rows_of",
    "start_accelerator",
    "train_step",
]
