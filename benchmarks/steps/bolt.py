"""Lightning: a module with manual optimization, since it trains two networks, and a bare Trainer.

`barebones=True` is Lightning's own mode for measuring speed: no logger, no checkpoints, no progress
bar, no summary. Pictures are made where its documentation wants augmentation on the device
(`on_after_batch_transfer`, outside autocast). A turn is one `fit`; its start and end are not
counted, since the clock lies in the batches.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from steps.turn import Turn
from steps.work import IMAGE, Learner, Work, arrive
from wdtrain.learn.inputs import TrainingInput
from wdtrain.learn.rows import Rows

PRECISIONS = {"bf16": "bf16-mixed", "fp32": "32-true"}


class Module(LightningModule):
    """Steps every network once a batch, over its micro-batches."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.work, self.learners = work, work.learners()
        self.networks = torch.nn.ModuleList(learner.network for learner in self.learners)
        self.losses: dict[str, Tensor] = {}

    def configure_optimizers(self) -> Any:
        return [learner.optimizer for learner in self.learners]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        return batch  # uint8 on the host; each micro-batch travels on its own

    def on_after_batch_transfer(self, batch: Any, index: int) -> Any:
        return [
            [self._prepared(learner, part) for part in self.work.cut(batch)]
            for learner in self.learners
        ]

    def _prepared(self, learner: Learner, part: Rows) -> TrainingInput:
        arrived = arrive(part, learner.target, self.device)
        return self.work.view.prepare(IMAGE, learner.target, arrived, part)

    def training_step(self, batch: list[list[TrainingInput]], index: int) -> None:
        optimizers: Any = self.optimizers()
        if len(self.learners) == 1:
            optimizers = [optimizers]
        for learner, parts, optimizer in zip(self.learners, batch, optimizers, strict=True):
            for part in parts:
                output = learner.network(part.picture).float()
                loss = learner.loss(output, part.target, part.valid).mean() / len(parts)
                self.manual_backward(loss)
                self.losses[learner.target.name] = loss.detach() * len(parts)
            optimizer.step()
            optimizer.zero_grad()


class Lightning:
    """A new Trainer each turn; the module keeps its weights and optimizers."""

    def __init__(self, work: Work) -> None:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        self.module = Module(work)
        settings = work.settings
        self.how: dict[str, Any] = {
            "accelerator": "gpu" if settings.device.type == "cuda" else "cpu",
            "precision": PRECISIONS[settings.precision],
        }

    @property
    def losses(self) -> dict[str, Tensor]:
        return self.module.losses

    def take(self, turn: Turn) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that barebones is on, every time
            trainer = Trainer(barebones=True, devices=1, max_epochs=1, **self.how)
            trainer.fit(self.module, train_dataloaders=turn)
