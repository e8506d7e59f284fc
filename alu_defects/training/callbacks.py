"""Lightning callbacks: seeds, moving average, finetuning, progress and speed; and the check of the training losses."""

import logging
import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import EMAWeightAveraging, RichProgressBar
from torch import Tensor, nn, stack
from torch.optim.swa_utils import get_ema_multi_avg_fn

from alu_defects.errors import UserError, check_choice
from alu_defects.models.backbone import classifiers, layer_depths

log = logging.getLogger(__name__)


class Throughput(Callback):
    """Logs `train/images_per_second`, validation not counted, and `train/seconds` of the epoch with it."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start timing."""
        self.started = self.ended = time.perf_counter()
        self.images = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        if trainer.is_last_batch and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)  # until then the GPU may be some batches behind
        self.ended = time.perf_counter()
        self.images += len(batch["label"]) * trainer.world_size

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the speed and the duration of the epoch."""
        pl_module.log("train/images_per_second", self.images / max(self.ended - self.started, 1e-9))
        pl_module.log("train/seconds", time.perf_counter() - self.started)


class EpochSeed(Callback):
    """Seeds PyTorch at each epoch, so that a resumed run draws the same numbers as an uninterrupted one."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed by (seed, epoch, rank)."""
        words = np.random.SeedSequence([self.seed, trainer.current_epoch, trainer.global_rank])
        torch.manual_seed(int(words.generate_state(1, np.uint64)[0] >> 1))


class EMA(EMAWeightAveraging):
    """Lightning's moving average of the weights, kept on the device, and updated there without waiting for it."""

    def __init__(self, decay: float = 0.99, **options: Any) -> None:
        super().__init__(decay=decay, **options)  # whose own function takes one tensor after the other
        self._kwargs = {"multi_avg_fn": get_ema_multi_avg_fn(decay)}  # type: ignore[no-untyped-call]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the device from the trainer: the module itself is moved only after this hook."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:  # PyTorch reads the counter twice a step, which must not wait for a GPU
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()


class EarlyStopping(LightningEarlyStopping):
    """Lightning's early stopping, but a run that had stopped trains no further when it is resumed."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if the patience has already run out."""
        super().on_train_start(trainer, pl_module)
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class Finetuning(Callback):
    """Trains the classifier alone at first, then the whole network, at once or layer by layer from the classifier down.

    What is frozen has no gradients, and its batch norms use their statistics without changing them (Lightning's
    `freeze` trains with those of the batch). The number of the epoch alone decides: a checkpoint stores nothing.

    Args:
        frozen_epochs: for so many the classifier learns alone; `all` trains nothing else.
        unfreeze_epochs: during so many further epochs the layers join it, about the same number in each (Howard and
            Ruder 2018, gradual unfreezing); with 0 all of them at once.

    Raises:
        UserError: other values, or both `all` and `unfreeze_epochs`.
    """

    def __init__(self, frozen_epochs: int | str, unfreeze_epochs: int = 0) -> None:
        setting = "callbacks.finetuning"
        if frozen_epochs != "all" and (type(frozen_epochs) is not int or frozen_epochs < 1):
            raise UserError(f"{setting}.frozen_epochs={frozen_epochs} must be a whole number from 1 on, or all")
        if type(unfreeze_epochs) is not int or unfreeze_epochs < 0:
            raise UserError(f"{setting}.unfreeze_epochs={unfreeze_epochs} must be a whole number from 0 on")
        if frozen_epochs == "all" and unfreeze_epochs:
            raise UserError(f"{setting}.unfreeze_epochs={unfreeze_epochs} has no use with frozen_epochs=all; give 0")
        self.frozen_epochs, self.unfreeze_epochs = frozen_epochs, unfreeze_epochs

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find what is to be frozen: everything that learns, except the classifier; in which layer it is."""
        backbone: nn.Module = pl_module.backbone  # type: ignore[assignment]
        classifier = {id(part) for head in classifiers(backbone) for part in (*head.parameters(), *head.modules())}
        depths = layer_depths(backbone) if self.unfreeze_epochs else {}
        self.layers = max(depths.values(), default=0) + 1
        weights = [(name, p) for name, p in backbone.named_parameters() if p.requires_grad and id(p) not in classifier]
        self.weights = [(depths.get(name, 0), weight) for name, weight in weights]
        self.norms = [
            (depths.get(f"{name}.weight", self.layers - 1), module)
            for name, module in backbone.named_modules()
            if id(module) not in classifier and module.training and "running_var" in module._buffers
        ]
        epochs = trainer.max_epochs or 0  # -1: without end
        if self.frozen_epochs != "all" and 0 < epochs <= int(self.frozen_epochs):
            log.warning(
                "callbacks.finetuning.frozen_epochs=%s with trainer.max_epochs=%d: the classifier alone is trained, "
                "the network never; give trainer.max_epochs=%d or more%s (frozen_epochs=all, if that is what you want)",
                self.frozen_epochs,
                epochs,
                int(self.frozen_epochs) + 1,
                f", or callbacks.finetuning.frozen_epochs={epochs - 1}" if epochs > 1 else "",
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze or unfreeze."""
        learning = self._learning_layers(trainer.current_epoch)
        for depth, weight in self.weights:
            weight.requires_grad_(depth < learning)
        for depth, norm in self.norms:
            norm.train(depth < learning)
        for optimizer in trainer.optimizers:
            for depth, weight in self.weights if isinstance(optimizer, torch.optim.SGD) else ():
                if depth < learning:  # its fused kernel fails where some weights have a momentum and others not yet
                    optimizer.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))

    def _learning_layers(self, epoch: int) -> int:
        """How many layers learn, the classifier's included; 0: it alone."""
        if self.frozen_epochs == "all" or epoch < (frozen := int(self.frozen_epochs)):
            return 0
        return min(self.layers, math.ceil(self.layers * (epoch - frozen + 1) / (self.unfreeze_epochs + 1)))


class StartupTimer(Callback):
    """Measures the stages of a run until its first training step ends, and records them as `startup`.

    `since` is when the first stage began, by `time.perf_counter`.
    """

    def __init__(self, record: Callable[..., None], since: float) -> None:
        self.record, self.stage_began = record, since
        self.seconds: dict[str, float] = {}

    def end_stage(self, stage: str) -> None:
        """End a stage and begin the next."""
        now = time.perf_counter()
        self.seconds[stage], self.stage_began = round(now - self.stage_began, 2), now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the last stage."""
        if trainer.is_global_zero and "first step" not in self.seconds:
            self.end_stage("first step")
            self.record(startup=self.seconds)


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar, without metrics, which `EpochLines` prints; both count epochs from 1."""

    def _get_train_description(self, current_epoch: int) -> str:
        text = f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return f"{text:{len(self.validation_description)}}"  # both texts have one length: the bar does not move

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """No metrics behind the bar."""
        return {}


def _print(trainer: Trainer, text: str, level: int = logging.INFO) -> None:
    """Print above the progress bar; a logger would write into it."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, ProgressBar) and bar.progress is not None:
        style = "bold yellow" if level == logging.WARNING else None
        bar.progress.console.print(text, style=style, markup=False, highlight=False)
    elif trainer.is_global_zero:
        log.log(level, text)


class EpochLines(Callback):
    """Prints one line for each epoch: losses, validation metrics, speed, and how long the other epochs will take."""

    PARTS: ClassVar = {
        "train/loss": "loss {:.3f}",
        "val/loss": "val loss {:.3f}",
        "val/accuracy": "accuracy {:.1%}",
        "val/f1": "f1 {:.1%}",
        "train/images_per_second": "{:.0f} img/s",
    }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start timing; a resumed run begins with a later epoch."""
        self.first_epoch, self.started = trainer.current_epoch, time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the previous epoch, whose metrics are complete only now."""
        metrics, epochs, all_epochs = trainer.callback_metrics, trainer.current_epoch, trainer.max_epochs or 0
        if "val/loss" not in metrics:
            return
        parts = [text.format(float(metrics[name])) for name, text in self.PARTS.items() if name in metrics]
        if self.first_epoch < epochs < all_epochs:
            seconds = (time.perf_counter() - self.started) / (epochs - self.first_epoch) * (all_epochs - epochs)
            parts.append(f"{timedelta(seconds=round(seconds))} left")
        _print(trainer, "  ".join([f"epoch {epochs:>{len(str(all_epochs))}}/{all_epochs}", *parts]))

    on_train_end = on_train_epoch_start  # for the last epoch


class LearningCheck(Callback):
    """Warns once, after a third of the epochs, if the network is no better on val than guessing.

    It is where its best macro recall is within two standard errors of 1 / classes: so much has whoever sees no pixels,
    with any shares of the classes (Brodersen et al. 2010, The Balanced Accuracy and Its Posterior Distribution).
    """

    def __init__(self) -> None:
        self.best_recall, self.checked = 0.0, False

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run continues with."""
        return {"best_recall": self.best_recall, "checked": self.checked}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue."""
        self.best_recall, self.checked = state_dict["best_recall"], state_dict["checked"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the macro recall of an epoch."""
        if not trainer.sanity_checking:
            self.best_recall = max(self.best_recall, float(trainer.callback_metrics["val/recall"]))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check after the previous epoch, whose training metrics are complete only now; a resumed run has none yet."""
        metrics, epochs, all_epochs = trainer.callback_metrics, trainer.current_epoch, trainer.max_epochs or 0
        if self.checked or all_epochs < 3 or epochs < all_epochs / 3 or "val/recall" not in metrics:
            return
        self.checked = True
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        train, val = (np.array([n for n in data.class_counts(split) if n]) for split in ("train", "val"))
        guessing = 1 / len(val)
        deviation = math.sqrt((guessing * (1 - guessing) / val).sum()) / len(val)
        if self.best_recall > guessing + 2 * deviation:
            return
        accuracy, majority = float(metrics["train/accuracy"]), train.max() / train.sum()
        if data.sampler == "balanced":
            majority = 1 / len(train)
        if accuracy < majority + 0.1:
            rate = trainer.optimizers[0].defaults["lr"]
            fix = (
                f"Nor has it learned the training images (accuracy {accuracy:.0%}, {majority:.0%} are of one class). "
                f"Most likely the learning rate is too high: give optimizer.lr={float(rate) / 4:g}, or start from "
                "trained weights (model.pretrained=auto). If the defects are a few pixels small, give a larger "
                "data.image_size"
            )
        else:
            fix = (
                f"It learns the training images (accuracy {accuracy:.0%}), but not what they have in common with val. "
                "Most likely there are too few: start from trained weights (model.pretrained=auto) or add images"
            )
        found = f"macro recall {self.best_recall:.1%}, guessing has {guessing:.1%}"
        text = f"after {epochs} of {all_epochs} epochs the network is no better on val than the majority class: {found}"
        _print(trainer, f"{text}. {fix}.", logging.WARNING)


class NonfiniteCheck:
    """Checks that the losses of the training steps are finite.

    `on_nonfinite=error` stops at a loss that is NaN or infinite; `skip` makes no step with it, but at most
    `max_nonfinite` times, and a GPU must wait at each step.
    """

    def __init__(self, on_nonfinite: str, max_nonfinite: int) -> None:
        check_choice("on_nonfinite", on_nonfinite, ("error", "skip"))
        if max_nonfinite < 0:
            raise UserError(f"max_nonfinite={max_nonfinite} must be 0 or more")
        self.skip, self.max_nonfinite, self.skipped_steps = on_nonfinite == "skip", max_nonfinite, 0
        self._pending: list[tuple[int, Tensor, Tensor]] = []

    def is_usable(self, loss: Tensor, index: Tensor, trainer: Trainer, batch: int) -> bool:
        """Whether to make the step with this loss of catalog rows `index`; without `skip`, losses are checked together.

        A loss that is not finite, or one too many, is a `UserError`.
        """
        self._pending.append((batch, loss, index))
        return len(self._pending) < (1 if self.skip else _steps_between_checks(loss)) or self.check_pending(trainer)

    def check_pending(self, trainer: Trainer) -> bool:
        """Whether the losses that were not checked yet are finite; nothing may be saved before."""
        pending, self._pending = self._pending, []
        finite = stack([loss for _, loss, _ in pending]).isfinite().tolist() if pending else []
        if all(finite):
            return True
        batch, loss, index = pending[finite.index(False)]
        where = f"epoch {trainer.current_epoch + 1}, batch {batch + 1} of {trainer.num_training_batches}"
        paths = trainer.datamodule.catalog["path"].iloc[index.tolist()].tolist()  # type: ignore[attr-defined]
        more = len(paths) - 8
        images = f"images {', '.join(paths[:8])}" + (f" and {more} more" if more > 0 else "")
        if not self.skip:
            raise UserError(
                f"the training loss is {loss.item()} in {where}; the checkpoints are as they were. "
                "Lower optimizer.lr, cut large gradients with trainer.gradient_clip_val=1, "
                f"or skip such steps with on_nonfinite=skip. It came from the {images}"
            )
        self.skipped_steps += 1
        if self.skipped_steps > self.max_nonfinite:
            raise UserError(
                f"the training loss is {loss.item()} in {where}, not finite for the {self.skipped_steps}. time, and "
                f"max_nonfinite={self.max_nonfinite}; the checkpoints are as they were. Lower optimizer.lr or cut "
                f"large gradients with trainer.gradient_clip_val=1. It came from the {images}"
            )
        log.warning("%s: the training loss is %s, step skipped; %s", where, loss.item(), images)
        return False


def _steps_between_checks(loss: Tensor) -> int:
    return 1 if loss.device.type == "cpu" else 20  # waiting for the GPU at each step would slow it down
