"""What TensorBoard shows."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.tensorboard import SummaryWriter

from alu_defects.data.augment import as_float
from alu_defects.data.datamodule import DefectData
from alu_defects.learning import checkpoint
from alu_defects.learning.metrics import PER_CLASS, SUMMARY
from alu_defects.learning.module import Classifier
from alu_defects.reporting import drawing, evaluation, figures
from alu_defects.reporting.evaluation import PROBABILITY, Evaluation

MOST_EMBEDDINGS = 500  # pictures: a cloud that turns smoothly in the browser, and 5 MB in the run folder
THUMBNAIL = 48  # pixels

# What the HPARAMS tab shows: it sorts the names and opens with the first five.
SETTINGS = {
    "attention": "model.attention",
    "batch_size": "data.batch_size",
    "image_size": "data.image_size",
    "lr": "optimizer.lr",
    "model": "model.name",
    "optimizer": "optimizer._target_",
    "pretrained": "model.pretrained",
    "reduction": "model.attention_reduction",
    "scheduler": "scheduler.name",
    "seed": "seed",
    "source": "data.source",
    "split": "split.name",
    "split_seed": "split.seed",
    "train_epochs": "trainer.max_epochs",
    "train_loss": "loss.name",
    "weight_decay": "optimizer.weight_decay",
    "width": "model.width",
}


class Dashboard(Callback):
    """Shows per-class charts together, and the confusion matrix and the mistakes as pictures while a run trains.

    Args:
        every_n_epochs: how often the pictures are drawn; 0 for never.
    """

    def __init__(self, every_n_epochs: int = 5) -> None:
        self.every_n_epochs = every_n_epochs

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Arrange the charts."""
        assert isinstance(pl_module, Classifier)
        for writer in _writers(trainer):
            writer.add_custom_scalars(_layout(pl_module.classes))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the pictures of this epoch's validation."""
        epoch, writers = trainer.current_epoch, _writers(trainer)
        if not (writers and self.every_n_epochs and (epoch + 1) % self.every_n_epochs == 0):
            return
        assert isinstance(pl_module, Classifier)
        data = trainer.datamodule  # type: ignore[attr-defined]
        result = evaluation.collect(pl_module, data, "val", trainer.callback_metrics)
        for writer in writers:
            add_pictures(writer, result, data, step=epoch, tag="val")


def _writers(trainer: Trainer) -> list[SummaryWriter]:
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _layout(classes: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Charts of the custom-scalars tab: what belongs together, and one chart a class, where the runs are compared."""
    layout: dict[str, dict[str, list[Any]]] = {
        "overview": {
            "loss (train and val)": ["Multiline", ["^train/loss$", "^val/loss$"]],
            "accuracy, precision, recall, f1 (val)": ["Multiline", [f"^val/{name}$" for name in SUMMARY]],
        }
    }
    for metric in PER_CLASS:
        tags = {name: f"^val/{metric}/{re.escape(name)}$" for name in classes}
        charts = {f"{metric} of all classes": ["Multiline", list(tags.values())]}
        layout[f"{metric} of each class (val)"] = charts | {
            f"{metric}: {name}": ["Multiline", [tag]] for name, tag in tags.items()
        }
    return layout


def add_pictures(writer: SummaryWriter, result: Evaluation, data: DefectData, *, step: int, tag: str) -> None:
    """Add the confusion matrix, precision and recall of each class, and the mistakes of an evaluation as pictures."""
    names = list(result.confusion.columns)
    counts = result.confusion.to_numpy()
    hits = counts.diagonal()
    drawn = {
        "confusion": figures.confusion_matrix(counts, names, result.note),
        "classes": figures.per_class(
            hits / counts.sum(axis=0).clip(1), hits / counts.sum(axis=1).clip(1), counts.sum(axis=1), names
        ),
        "mistakes": mistakes_figure(result, data),
    }
    for name, figure in drawn.items():
        writer.add_image(f"{tag}/{name}", drawing.to_image(figure), step, dataformats="HWC")


def mistakes_figure(result: Evaluation, data: DefectData) -> Figure:
    """The page of the pictures that were misclassified, the most certain first."""
    wrong = result.mistakes.head(figures.MOST_MISTAKES)
    title = f"{len(result.mistakes)} of {len(result.predictions)} {result.split} pictures misclassified"
    return figures.mistakes(
        data.pictures(wrong["row"].to_numpy(dtype=np.int64)),
        wrong["label"].to_list(),
        wrong["prediction"].to_list(),
        wrong["certainty"].to_list(),
        wrong["path"].to_list(),
        title=title,
    )


def add_outcome(
    logger: TensorBoardLogger, config: DictConfig, evaluations: Sequence[Evaluation], data: DefectData, step: int
) -> None:
    """Add what a finished run came to: the HPARAMS entry, a summary text and the pictures of the best checkpoint."""
    found = {name: OmegaConf.select(config, key) for name, key in SETTINGS.items()}
    settings = {name: v if isinstance(v, (bool, int, float)) else str(v) for name, v in found.items() if v is not None}
    metrics = {f"test/{name}": e.metrics[name] for e in evaluations if e.split == "test" for name in ("loss", *SUMMARY)}
    logger.log_hyperparams(settings, metrics=metrics)
    writer = logger.experiment
    for result in evaluations:
        add_pictures(writer, result, data, step=step, tag=f"best_{result.split}")
    writer.add_text("summary", _markdown(settings, evaluations), step)
    logger.finalize("success")


def _markdown(settings: Mapping[str, Any], evaluations: Sequence[Evaluation]) -> str:
    metrics = ("loss", *SUMMARY)
    lines = ["| split | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    lines += [f"| {e.split} | " + " | ".join(f"{e.metrics[m]:.4f}" for m in metrics) + " |" for e in evaluations]
    lines += ["", "| setting | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in settings.items())]
    if evaluations[-1].note:
        lines += ["", f"**{evaluations[-1].note}**"]
    return "\n".join(lines)
