"""The LightningModule: a backbone with its loss, optimiser, schedule and metrics."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from alu_defects.data.augment import as_float
from alu_defects.errors import UserError
from alu_defects.models import registry
from alu_defects.training import losses, metrics, optimization, trainer
from alu_defects.training.callbacks import LossWatch

STAGES = ("train", "val", "test")


class Classifier(LightningModule):
    """A classifier of uint8 photographs.

    All arguments are plain (dict, list, str, number): they are stored in the checkpoint, which is loaded with
    `weights_only=True`.

    Args:
        model: `name` and options of `models.registry.create`.
        classes: class names in the order of their ids.
        class_counts: training images of each class, for class weights.
        image_size: side of the input in pixels.
        loss: `name` and options of `losses.create_loss`.
        optimizer: `_target_` and options of a torch optimiser.
        scheduler: `name` and options of `optimization.create_scheduler`.
        compile: train with kernels that torch.compile makes; evaluation, whose last batch has another size, does not.
        on_nonfinite: see `LossWatch`.
        max_nonfinite: likewise.

    Attributes:
        about: what else whoever has only a checkpoint must know, see `checkpoint.describe_model`; it is stored there.

    Raises:
        UserError: an unknown name, an option that does not exist, or an image size that the backbone cannot take.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        model: Mapping[str, Any],
        classes: Sequence[str],
        class_counts: Sequence[int],
        image_size: int,
        loss: Mapping[str, Any],
        optimizer: Mapping[str, Any],
        scheduler: Mapping[str, Any],
        compile: bool = False,
        on_nonfinite: str = "error",
        max_nonfinite: int = 10,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["compile", "on_nonfinite", "max_nonfinite"])
        self.about: dict[str, Any] = {}
        self.loss_watch = LossWatch(on_nonfinite, max_nonfinite)
        self.classes = list(classes)
        self.optimizer_options, self.scheduler_options = dict(optimizer), dict(scheduler)
        backbone = registry.create_backbone(**model, num_classes=len(classes), image_size=image_size, classes=classes)
        if image_size < backbone.min_input_size:
            raise UserError(
                f"data.image_size={image_size} is too small for {model['name']}; give {backbone.min_input_size} or more"
            )
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.compile_training = compile
        self._train_backbone: Callable[[Tensor], Tensor] | None = None
        self.register_buffer("mean", _per_channel(backbone.input_mean), persistent=False)
        self.register_buffer("std", _per_channel(backbone.input_std), persistent=False)
        self.loss = losses.create_loss(class_counts=class_counts, **loss)
        # the suffix: nn.Module has a method of the name train
        self.metrics = nn.ModuleDict(
            {f"{stage}_metrics": metrics.ClassificationMetrics(len(classes)) for stage in STAGES}
        )
        # (index, predicted class, probabilities) of each batch of this evaluation
        self.predictions: list[tuple[Tensor, Tensor, Tensor]] = []
        self.confusion: Tensor | None = None  # int64 (C, C) of the last evaluation; rows are the labels

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W): uint8, or float in [0, 1]."""
        if images.dtype == torch.uint8:
            images = as_float(images)
        images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        backbone = self._train_backbone if self.training and self._train_backbone else self.backbone
        logits: Tensor = backbone(images)
        return logits

    def setup(self, stage: str) -> None:
        """Prepare the process: this is called in each of several, which do not inherit what was set in the first."""
        trainer.allow_tf32(self.trainer.strategy.root_device)

    def on_fit_start(self) -> None:
        """Compile here and not before: several processes could not be given compiled code."""
        if self.compile_training:
            self._train_backbone = torch.compile(self.backbone.forward, dynamic=False)

    def on_fit_end(self) -> None:
        """Forget the compiled code."""
        self._train_backbone = None

    def _logits(self, batch: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self(batch["image"]).float()
        return logits

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """One batch forward; Lightning does the rest, and no step where there is no loss."""
        buffers = [buffer.clone() for buffer in self.backbone.buffers()] if self.loss_watch.skip else []
        logits, labels = self._logits(batch), batch["label"]
        loss: Tensor = self.loss(logits, labels)
        if not self.loss_watch.usable(loss.detach(), batch["index"], self.trainer, batch_idx):
            for buffer, before in zip(self.backbone.buffers(), buffers, strict=True):
                buffer.copy_(before)  # of batch normalisation: it has seen what must not be seen
            return None
        weight = self.loss.total_weight(labels)
        self._summary("train").update(logits.detach(), labels, loss.detach() * weight, weight)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure one batch and keep its probabilities."""
        self._evaluation_step(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Measure one batch and keep its probabilities."""
        self._evaluation_step(batch, "test")

    def _evaluation_step(self, batch: dict[str, Tensor], stage: str) -> None:
        if filler := batch.get("filler", 0):
            batch = {name: batch[name][:-filler] for name in ("image", "label", "index")}
            if not len(batch["label"]):
                self.predictions.append((batch["index"], batch["label"], self.mean.new_empty(0, len(self.classes))))
                return
        logits, labels = self._logits(batch), batch["label"]
        self._summary(stage).update(logits, labels, self.loss.total(logits, labels), self.loss.total_weight(labels))
        # the class by the logits, as the metrics have it: sigmoids of large ones are all 1
        self.predictions.append((batch["index"], logits.argmax(dim=1), self.loss.probabilities(logits)))

    def on_validation_epoch_start(self) -> None:
        """Forget the predictions of the previous evaluation."""
        self.predictions.clear()
        self.loss_watch.look(self.trainer)

    on_test_epoch_start = on_validation_epoch_start

    def on_train_epoch_end(self) -> None:
        """Log loss, accuracy and the learning rate that the epoch ended with."""
        self.loss_watch.look(self.trainer)
        values = self._end_epoch("train")
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        shown = {name: values[name] for name in ("train/loss", "train/accuracy")}
        if self.loss_watch.skip:
            shown["train/skipped_steps"] = torch.tensor(float(self.loss_watch.skipped))
        # an entry "step" puts the epoch, not the batch number, on TensorBoard's axis
        self.log_dict(shown | {"train/lr": lr, "step": float(self.current_epoch)})

    def on_validation_epoch_end(self) -> None:
        """Log loss and metrics, overall and for each class, and gather the predictions of all processes.

        Raises:
            UserError: the loss is not finite while the network is trained: it is broken, and must not be saved.
        """
        loss = self._log_evaluation("val")["val/loss"].item()
        if self.trainer.state.fn == "fit" and not math.isfinite(loss):
            raise UserError(
                f"the validation loss is {loss} in epoch {self.current_epoch + 1}; the checkpoints are as they were. "
                "Lower optimizer.lr or cut large gradients with trainer.gradient_clip_val=1"
            )
        if self.trainer.world_size > 1:
            gathered = [gather_all_tensors(torch.cat(parts)) for parts in zip(*self.predictions, strict=True)]
            self.predictions = [tuple(parts) for parts in zip(*gathered, strict=True)]

    def on_test_epoch_end(self) -> None:
        """Log loss and metrics, overall and for each class."""
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> dict[str, Tensor]:
        values = self._end_epoch(stage)
        self.log_dict(values | {"step": float(self.current_epoch)})
        return values

    def _end_epoch(self, stage: str) -> dict[str, Tensor]:
        summary = self._summary(stage)
        computed = summary.compute()
        summary.reset()
        if stage != "train":
            self.confusion = computed["confusion"].cpu()
        return metrics.flat_names(computed, self.classes, stage)

    def _summary(self, stage: str) -> metrics.ClassificationMetrics:
        return cast(metrics.ClassificationMetrics, self.metrics[f"{stage}_metrics"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what Lightning does not, and what it logs only after the last checkpoint of the epoch was written."""
        logged = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        checkpoint |= {"about": self.about, "skipped_steps": self.loss_watch.skipped, "logged": logged}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        self.loss_watch.skipped = checkpoint.get("skipped_steps", 0)  # older ones have none

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser and, stepped after every batch, the schedule."""
        options = self.optimizer_options
        if self.trainer.gradient_clip_val and options.get("fused"):
            options = {**options, "fused": False}  # Lightning refuses to clip for it, also where nothing is scaled
        optimizer = optimization.create_optimizer(options, self.parameters())
        total_steps = int(self.trainer.estimated_stepping_batches)
        if total_steps < 1:
            raise UserError("fewer training images than a batch of every process; lower data.batch_size")
        scheduler = optimization.create_scheduler(
            optimizer=optimizer, total_steps=total_steps, epochs=self.trainer.max_epochs or 1, **self.scheduler_options
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)
