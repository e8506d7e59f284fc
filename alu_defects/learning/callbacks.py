"""What happens beside the training: the progress bar and the speed."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class Throughput(Callback):
    """Logs `train/images_per_second`: training pictures a second of wall time, validation not counted."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.started = self.ended = time.perf_counter()
        self.pictures = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch."""
        self.ended = time.perf_counter()
        self.pictures += len(batch["label"]) * trainer.world_size

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the speed of the epoch."""
        pl_module.log("train/images_per_second", self.pictures / max(self.ended - self.started, 1e-9))


class ProgressBar(RichProgressBar):
    """Lightning's rich progress bar, with one line an epoch left on the screen."""

    def __init__(self) -> None:
        super().__init__(leave=False)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar: no version number."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
