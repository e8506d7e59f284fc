"""What happens beside the training: the progress bar and the speed."""

import logging
import time
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import EMAWeightAveraging, RichProgressBar
from torch import Tensor, nn, stack
from torch.optim.swa_utils import get_ema_multi_avg_fn

from alu_defects.errors import UserError, check_choice
from alu_defects.models.backbone import classifiers
from alu_defects.runs.run import Run

log = logging.getLogger(__name__)


class Throughput(Callback):
    """Logs `train/images_per_second`, validation not counted, and `train/seconds` of the epoch with it."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
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


class Reseed(Callback):
    """Seeds dropout and what else draws from PyTorch again at each epoch, so that a resumed run draws as it would have.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed by (seed, epoch, rank)."""
        words = np.random.SeedSequence([self.seed, trainer.current_epoch, trainer.global_rank])
        torch.manual_seed(int(words.generate_state(1, np.uint64)[0] >> 1))


class EMA(EMAWeightAveraging):
    """Lightning's moving average of the weights, kept on the device, and updated there without waiting for it.

    Args:
        decay: how much of the previous average is kept at each step.
        options: of `EMAWeightAveraging`.
    """

    def __init__(self, decay: float = 0.999, **options: Any) -> None:
        super().__init__(decay=decay, **options)  # whose own function takes one tensor after the other
        self._kwargs = {"multi_avg_fn": get_ema_multi_avg_fn(decay)}  # type: ignore[no-untyped-call]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the device from the trainer: the module itself is moved only after this hook."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:  # PyTorch reads the counter twice a step, which must not wait for a GPU
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()


class EarlyStopping(LightningEarlyStopping):
    """Lightning's, but a run that is resumed after it had stopped does not continue."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if the patience has run out already."""
        super().on_train_start(trainer, pl_module)
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class Finetuning(Callback):
    """Trains the classifier alone for some epochs, then the whole network.

    The rest of the network is frozen meanwhile: no gradients, and the statistics of its batch norms are used and not
    changed. (Lightning's `freeze` sets `track_running_stats=False`, which trains with those of the batch.) Nothing is
    stored, the number of the epoch decides; the optimizer has all weights from the start, and does not change those
    without gradients.

    Args:
        frozen_epochs: in which only the classifier learns.

    Raises:
        UserError: no whole number from 1 on.
    """

    def __init__(self, frozen_epochs: int) -> None:
        if type(frozen_epochs) is not int or frozen_epochs < 1:
            raise UserError(f"callbacks.finetuning.frozen_epochs={frozen_epochs} must be a whole number from 1 on")
        self.frozen_epochs = frozen_epochs

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out what is frozen: what would learn otherwise, except for the classifier."""
        backbone: nn.Module = pl_module.backbone  # type: ignore[assignment]
        classifier = {id(part) for head in classifiers(backbone) for part in (*head.parameters(), *head.modules())}
        self.weights = [p for p in backbone.parameters() if p.requires_grad and id(p) not in classifier]
        # batch norm, and whatever else keeps running statistics
        self.norms = [
            module
            for module in backbone.modules()
            if module.training and id(module) not in classifier and "running_var" in module._buffers
        ]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze or unfreeze."""
        learns = trainer.current_epoch >= self.frozen_epochs
        for weight in self.weights:
            weight.requires_grad_(learns)
        for norm in self.norms:
            norm.train(learns)
        for optimizer in trainer.optimizers if learns else ():
            if isinstance(optimizer, torch.optim.SGD):
                # its fused kernel fails where some weights have a momentum and others not yet
                for weight in self.weights:
                    optimizer.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))


class Startup(Callback):
    """Takes the time of what happens before the second training step, and writes it into run.json.

    Args:
        run: whose training starts.
        since: when the first stage began, by `time.perf_counter`.
    """

    def __init__(self, run: Run, since: float) -> None:
        self.run, self.last = run, since
        self.seconds: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """End a stage, which began with the end of the one before."""
        now = time.perf_counter()
        self.seconds[stage], self.last = round(now - self.last, 2), now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the last stage."""
        if trainer.is_global_zero and "first step" not in self.seconds:
            self.lap("first step")
            self.run.update(startup=self.seconds)


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar, without the numbers of the last epoch: `EpochLines` shows them.

    It counts epochs from 1, as that does.
    """

    def _get_train_description(self, current_epoch: int) -> str:
        text = f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return f"{text:{len(self.validation_description)}}"  # as long as the other text: the bar stays where it is

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        return {}


class EpochLines(Callback):
    """Leaves one line an epoch on the screen: losses, validation metrics and speed."""

    PARTS: ClassVar = {
        "train/loss": "loss {:.3f}",
        "val/loss": "val loss {:.3f}",
        "val/accuracy": "accuracy {:.1%}",
        "val/f1": "f1 {:.1%}",
        "train/images_per_second": "{:.0f} img/s",
    }

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the epoch before, whose metrics are complete only now."""
        if "val/loss" in trainer.callback_metrics:
            self._show(trainer, trainer.current_epoch)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the last epoch."""
        if "val/loss" in trainer.callback_metrics:
            self._show(trainer, trainer.current_epoch)

    def _show(self, trainer: Trainer, epochs: int) -> None:
        metrics = trainer.callback_metrics
        parts = [text.format(float(metrics[name])) for name, text in self.PARTS.items() if name in metrics]
        line = "  ".join([f"epoch {epochs:>{len(str(trainer.max_epochs))}}/{trainer.max_epochs}", *parts])
        bar = trainer.progress_bar_callback
        if isinstance(bar, ProgressBar) and bar.progress is not None:
            bar.progress.console.print(line, highlight=False)  # a logger would write into the bar
        elif trainer.is_global_zero:
            log.info(line)


ON_NONFINITE = ("error", "skip")
SHOWN_IMAGES = 8  # images


class LossWatch:
    """Looks at the losses of the training steps.

    Args:
        on_nonfinite: `error` stops at one that is NaN or infinite; `skip` leaves the step out, which makes a GPU wait
            at each.
        most: steps that are excluded before that is an error too.

    Attributes:
        skipped: steps that were excluded so far.

    Raises:
        UserError: another word, or a number below 0.
    """

    def __init__(self, on_nonfinite: str, most: int) -> None:
        check_choice("on_nonfinite", on_nonfinite, ON_NONFINITE)
        if most < 0:
            raise UserError(f"max_nonfinite={most} must be 0 or more")
        self.skip, self.most, self.skipped = on_nonfinite == "skip", most, 0
        self._unseen: list[tuple[int, Tensor, Tensor]] = []

    def usable(self, loss: Tensor, index: Tensor, trainer: Trainer, batch: int) -> bool:
        """Whether the step with this loss is to be made.

        Args:
            loss: scalar, detached.
            index: catalog rows of its images.
            trainer: where it is in the training, and the catalog.
            batch: number in the epoch.

        Raises:
            UserError: it, or one of before, is not finite, or too many were not.
        """
        self._unseen.append((batch, loss, index))
        at_once = 1 if self.skip else _at_once(loss)
        return len(self._unseen) < at_once or self.look(trainer)

    def look(self, trainer: Trainer) -> bool:
        """Whether those that were not looked at yet are finite; before anything is saved they must be.

        Raises:
            UserError: see `usable`.
        """
        unseen, self._unseen = self._unseen, []
        finite = stack([loss for _, loss, _ in unseen]).isfinite().tolist() if unseen else []
        if all(finite):
            return True
        batch, loss, index = unseen[finite.index(False)]
        where = f"epoch {trainer.current_epoch + 1}, batch {batch + 1} of {trainer.num_training_batches}"
        paths = trainer.datamodule.catalog["path"].iloc[index.tolist()].tolist()  # type: ignore[attr-defined]
        more = f" and {len(paths) - SHOWN_IMAGES} more" if len(paths) > SHOWN_IMAGES else ""
        images = f"images {', '.join(paths[:SHOWN_IMAGES])}{more}"
        if not self.skip:
            raise UserError(
                f"the training loss is {loss.item()} in {where}; the checkpoints are as they were. "
                "Lower optimizer.lr, cut large gradients with trainer.gradient_clip_val=1, "
                f"or leave such steps out with on_nonfinite=skip. It came from the {images}"
            )
        self.skipped += 1
        if self.skipped > self.most:
            raise UserError(
                f"the training loss is {loss.item()} in {where}, not finite for the {self.skipped}. time, and "
                f"max_nonfinite={self.most}; the checkpoints are as they were. Lower optimizer.lr or cut large "
                f"gradients with trainer.gradient_clip_val=1. It came from the {images}"
            )
        log.warning("%s: the training loss is %s, step excluded; %s", where, loss.item(), images)
        return False


def _at_once(loss: Tensor) -> int:
    """How many steps are looked at together: to wait for each would slow a GPU down."""
    return 1 if loss.device.type == "cpu" else 20
