"""The LightningModule: a backbone with its loss, optimizer, schedule and metrics."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from alu_defects.config import read_size
from alu_defects.data.augment import as_float, flipped_views
from alu_defects.errors import UserError
from alu_defects.models import registry
from alu_defects.training import losses, memory, metrics, optimization
from alu_defects.training.callbacks import NonfiniteCheck

Outputs = tuple[Tensor, Tensor]  # catalog rows int64 (B,), logits float32 (B, C)


class Classifier(LightningModule):
    """A classifier of uint8 images.

    All arguments are plain (dict, list, str, number): they are stored in the checkpoint, which is loaded with
    `weights_only=True`. So is `about`, see `checkpoint.describe_model`.

    Args:
        model: `name` and options of `models.registry.create_backbone`.
        classes: class names in the order of their ids.
        class_counts: training images of each class, for class weights.
        image_size: height and width of the input in pixels, or one number for both.
        loss: options of `losses.create_loss`.
        optimizer: options of `optimization.create_optimizer`.
        scheduler: options of `optimization.create_scheduler`.
        compile: train with kernels that torch.compile makes; evaluation, whose last batch has another size, does not.
        on_nonfinite: see `NonfiniteCheck`.
        max_nonfinite: likewise.

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
        image_size: int | Sequence[int],
        loss: Mapping[str, Any],
        optimizer: Mapping[str, Any],
        scheduler: Mapping[str, Any],
        compile: bool = False,
        on_nonfinite: str = "error",
        max_nonfinite: int = 10,
    ) -> None:
        super().__init__()
        image_size = read_size(image_size)  # a pair in every checkpoint
        self.save_hyperparameters(ignore=["compile", "on_nonfinite", "max_nonfinite"])
        self.about: dict[str, Any] = {}
        self.nonfinite_check = NonfiniteCheck(on_nonfinite, max_nonfinite)
        self.classes = list(classes)
        self.optimizer_options, self.scheduler_options = dict(optimizer), dict(scheduler)
        backbone = registry.create_backbone(**model, num_classes=len(classes), image_size=image_size, classes=classes)
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.tta: list[str] = []  # test-time augmentation: flips whose probabilities are averaged with the image's own
        self.compile_training = compile
        self._train_backbone: Callable[[Tensor], Tensor] | None = None
        for name in ("mean", "std"):
            values = torch.tensor(getattr(backbone, f"input_{name}")).view(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self.loss = losses.create_loss(loss, class_counts)
        self.train_metrics = metrics.ClassificationMetrics(len(classes))
        self.val_metrics = metrics.ClassificationMetrics(len(classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W): uint8, or float in [0, 1]."""
        if images.dtype == torch.uint8:
            images = as_float(images)
        images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        backbone = self._train_backbone if self.training and self._train_backbone else self.backbone
        logits: Tensor = backbone(images)
        return logits

    def setup(self, stage: str) -> None:
        """Set up this process: of several, none inherits what was set in the first."""
        if self.trainer.strategy.root_device.type == "cuda":
            # TF32 for float32 matrices; it moves augmented images of 400 pixels by 0.1 pixel at most
            torch.set_float32_matmul_precision("high")
        else:
            memory.keep_freed_memory()

    def on_fit_start(self) -> None:
        """Compile here and not earlier: compiled code cannot be sent to other processes."""
        if self.compile_training:
            self._train_backbone = torch.compile(self.backbone.forward, dynamic=False)

    def on_fit_end(self) -> None:
        """Drop the compiled code."""
        self._train_backbone = None

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """The loss of one batch; None, for which Lightning makes no step, where it is not finite and may be skipped."""
        buffers = [buffer.clone() for buffer in self.backbone.buffers()] if self.nonfinite_check.skip else []
        logits, targets = self(batch["image"]).float(), batch["label"]
        loss: Tensor = self.loss(logits, targets)
        if not self.nonfinite_check.is_usable(loss.detach(), batch["index"], self.trainer, batch_idx):
            for buffer, previous in zip(self.backbone.buffers(), buffers, strict=True):
                buffer.copy_(previous)  # batch normalisation must not keep statistics of this batch
            return None
        weight = self.loss.total_weight(targets)
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)  # of a mixed image its main class
        self.train_metrics.update(logits.detach(), labels, loss.detach() * weight, weight)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Outputs:  # type: ignore[override]
        """Measure one batch; returns what `predict_step` does."""
        index, logits = self.predict_step(batch, batch_idx)
        labels = batch["label"][: len(index)]
        if len(index):
            self.val_metrics.update(logits, labels, self.loss.total(logits, labels), self.loss.total_weight(labels))
        return index, logits

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Outputs:
        """Catalog rows int64 (B,) and logits float32 (B, C) of one batch, without its fillers.

        With `tta` their probabilities are the mean over the views of each image.
        """
        number = len(batch["index"]) - int(batch.get("filler", 0))
        if not number:
            return batch["index"][:0], self.mean.new_empty(0, len(self.classes))
        images = batch["image"][:number]
        logits = [self(images.flip(axes) if axes else images).float() for axes in flipped_views(self.tta)]
        return batch["index"][:number], logits[0] if len(logits) == 1 else self.loss.average(torch.stack(logits))

    def on_validation_epoch_start(self) -> None:
        """Check the losses of the epoch: what is validated may be saved."""
        self.nonfinite_check.check_pending(self.trainer)

    def on_train_epoch_end(self) -> None:
        """Log loss, accuracy and the learning rate that the epoch ended with."""
        self.nonfinite_check.check_pending(self.trainer)
        values = self._compute("train")
        shown = {name: values[name] for name in ("train/loss", "train/accuracy")}
        if self.nonfinite_check.skip:
            shown["train/skipped_steps"] = torch.tensor(float(self.nonfinite_check.skipped_steps))
        shown["train/lr"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        self._log(shown)

    def on_validation_epoch_end(self) -> None:
        """Log loss and metrics, overall and of each class; a loss that is not finite is a `UserError`: not saved."""
        values = self._compute("val")
        self._log(values)
        if not math.isfinite(loss := values["val/loss"].item()):
            raise UserError(
                f"the validation loss is {loss} in epoch {self.current_epoch + 1}; the checkpoints are as they were. "
                "Lower optimizer.lr or cut large gradients with trainer.gradient_clip_val=1"
            )

    def _log(self, values: dict[str, Any]) -> None:
        # an entry "step" puts the epoch, not the batch number, on TensorBoard's axis
        self.log_dict(values | {"step": float(self.current_epoch)})

    def _compute(self, split: str) -> dict[str, Tensor]:
        computed = self.train_metrics if split == "train" else self.val_metrics
        values = metrics.flat_names(computed.compute(), self.classes, split)
        computed.reset()
        return values

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what Lightning does not, and what it logs only after the last checkpoint of the epoch was written."""
        logged = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        checkpoint |= {"about": self.about, "skipped_steps": self.nonfinite_check.skipped_steps, "logged": logged}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue to count skipped steps."""
        self.nonfinite_check.skipped_steps = checkpoint["skipped_steps"]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer and its learning-rate schedule."""
        options = self.optimizer_options
        if self.trainer.gradient_clip_val and options.get("fused"):
            options = {**options, "fused": False}  # Lightning refuses to clip for it, also where nothing is scaled
        optimizer = optimization.create_optimizer(options, self.backbone)
        total_steps = int(self.trainer.estimated_stepping_batches)
        if total_steps < 1:
            raise UserError("fewer training images than a batch of every process; lower data.batch_size")
        epochs = self.trainer.max_epochs or 1
        scheduler = optimization.create_scheduler(self.scheduler_options, optimizer, total_steps, epochs)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}
