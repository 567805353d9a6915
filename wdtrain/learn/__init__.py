"""The step: networks learn from batches in transactions over all tasks, micro-batches and ranks.

Read `step.py` (the transaction), `task.py` (what takes part in it), `gradient_buffer.py`,
`groups.py` and `norm.py` (BatchNorm by fixed groups), `view.py` and `augment.py` (what a network
sees), `convert.py` and `trial.py` (a network is made fit, and tried out), `optimize.py`,
`evaluate.py`. What the training loop needs of the room is handed on here.
"""

from wdtrain.learn.augment import Augmentation, augmentation_of
from wdtrain.learn.build import (
    build_tasks,
    foreground_for,
    learned_by,
    learned_dict,
    learned_from,
)
from wdtrain.learn.evaluate import Answered, evaluate_batches
from wdtrain.learn.out_of_memory import DoesNotFit, is_out_of_memory
from wdtrain.learn.rows import rows_of
from wdtrain.learn.step import train_step
from wdtrain.learn.task import TaskSet
from wdtrain.learn.view import View, plain_view

__all__ = [
    "Answered",
    "Augmentation",
    "DoesNotFit",
    "TaskSet",
    "View",
    "augmentation_of",
    "build_tasks",
    "evaluate_batches",
    "foreground_for",
    "is_out_of_memory",
    "learned_by",
    "learned_dict",
    "learned_from",
    "plain_view",
    "rows_of",
    "train_step",
]
