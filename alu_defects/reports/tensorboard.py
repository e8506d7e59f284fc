"""Charts, images, curves and texts in TensorBoard."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch.nn.functional import interpolate
from torch.utils.tensorboard import SummaryWriter
from torchmetrics.utilities.distributed import gather_all_tensors

from alu_defects.data.augment import as_float
from alu_defects.data.datamodule import DefectData
from alu_defects.evaluation import predictions
from alu_defects.evaluation.predictions import Evaluation
from alu_defects.reports import evaluation_plots, plots
from alu_defects.runs.jobs import PROBABILITY_PREFIX
from alu_defects.training import checkpoint
from alu_defects.training.metrics import LOGGED_PER_CLASS, SUMMARY_METRICS, precision_recall_f1
from alu_defects.training.module import Classifier, Outputs

HPARAMS_METRICS = ("f1", "accuracy", "recall", "precision", "loss")  # the first are visible without scrolling
MAX_EMBEDDINGS = 500  # images: a cloud that turns smoothly in the browser, and 5 MB in the run folder
THUMBNAIL = 48  # pixels; of any frame a square: torch cannot put higher ones together
OUTCOME_SUFFIX = ".outcome"  # of the name of an event file

# What the HPARAMS tab shows: it sorts the names and opens with the first five, so they are those that sweeps vary most.
HPARAMS_SETTINGS = {
    "image_size": "data.image_size",
    "lr": "optimizer.lr",
    "model": "model.name",
    "model_width": "model.width",
    "seed": "seed",
    "source": "data.source",
    "split": "split.name",
    "split_fold": "split.fold",
    "split_seed": "split.seed",
    "train_batch_size": "data.batch_size",
    "train_epochs": "trainer.max_epochs",
    "train_loss": "loss._target_",
    "train_optimizer": "optimizer._target_",
    "train_scheduler": "scheduler._target_",
    "train_weight_decay": "optimizer.weight_decay",
    "with_attention": "model.attention",
    "with_pretrained": "model.pretrained",
    "with_reduction": "model.attention_reduction",
}


class Dashboard(Callback):
    """Shows per-class charts together, and the confusion matrix and the mistakes as images while a run trains.

    Args:
        every_n_epochs: how often the images are drawn; 0 for never.
        embeddings: put validation images into the projector, as the network of the best epoch sees them.
    """

    def __init__(self, every_n_epochs: int = 10, embeddings: bool = False) -> None:
        self.every_n_epochs, self.embeddings = every_n_epochs, embeddings
        self.outputs: list[Outputs] = []  # of the validation that is drawn

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Arrange the charts."""
        assert isinstance(pl_module, Classifier)
        for writer in _writers(trainer):
            writer.add_custom_scalars(_layout(pl_module.classes))

    def _draws(self, trainer: Trainer) -> bool:
        """Whether this epoch is drawn; the same in all processes, of which only the first has writers."""
        logs = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
        return logs and self.every_n_epochs > 0 and (trainer.current_epoch + 1) % self.every_n_epochs == 0

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the predictions of an epoch that is drawn."""
        if self._draws(trainer):
            self.outputs.append(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the predictions of all processes."""
        if trainer.world_size > 1 and self.outputs:
            parts = [gather_all_tensors(part) for part in _concatenate(self.outputs)]
            self.outputs = list(zip(*parts, strict=True))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the images of this epoch's validation."""
        outputs, self.outputs = self.outputs, []
        writers = _writers(trainer)
        if not (outputs and writers):
            return
        assert isinstance(pl_module, Classifier)
        data = trainer.datamodule  # type: ignore[attr-defined]
        result = predictions.summarize(pl_module, data, "val", *_concatenate(outputs))
        for writer in writers:
            add_images(writer, result, data, step=trainer.current_epoch, tag="val")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the embeddings."""
        writers = _writers(trainer)
        if not (writers and self.embeddings):
            return
        assert isinstance(trainer.checkpoint_callback, ModelCheckpoint)  # the first, which keeps the best epoch
        best = Path(trainer.checkpoint_callback.best_model_path)
        classifier = checkpoint.load_classifier(best).to(pl_module.device)
        epoch = int(checkpoint.read_checkpoint(best)["epoch"])
        for writer in writers:
            add_embeddings(writer, classifier, trainer.datamodule, step=epoch)  # type: ignore[attr-defined]


def _writers(trainer: Trainer) -> list[SummaryWriter]:
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _concatenate(outputs: Sequence[Outputs]) -> Outputs:
    index, logits = zip(*outputs, strict=True)
    return torch.cat(index), torch.cat(logits)


def _layout(classes: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Charts of the custom-scalars tab: an overview, and for each metric one chart of all classes and one of each."""
    layout: dict[str, dict[str, list[Any]]] = {
        "overview": {
            "loss (train and val)": ["Multiline", ["^train/loss$", "^val/loss$"]],
            "accuracy (val)": ["Multiline", ["^val/accuracy$"]],
            "f1 (val)": ["Multiline", ["^val/f1$"]],
            "accuracy, precision, recall, f1 (val)": ["Multiline", [f"^val/{name}$" for name in SUMMARY_METRICS]],
        }
    }
    for metric in LOGGED_PER_CLASS:
        tags = {name: f"^val/{metric}/{re.escape(name)}$" for name in classes}
        charts = {f"{metric} of all classes": list(tags.values())}
        charts |= {f"{metric}: {name}": [tag] for name, tag in tags.items()}
        layout[f"{metric} of each class (val)"] = {name: ["Multiline", own] for name, own in charts.items()}
    return layout


def add_images(writer: SummaryWriter, result: Evaluation, data: DefectData, *, step: int, tag: str) -> None:
    """Add the confusion matrix and the mistakes of an evaluation as images."""
    confusion = plots.plot_confusion(result.confusion.to_numpy(), list(result.confusion.columns), result.note)
    writer.add_image(f"{tag}/confusion", plots.to_image(confusion), step, dataformats="HWC")
    writer.add_image(f"{tag}/mistakes", evaluation_plots.draw_mistakes(result, data), step, dataformats="HWC")


def add_outcome(
    folder: Path, config: DictConfig, evaluations: Sequence[Evaluation], data: DefectData, step: int
) -> None:
    """Add the results of a finished run: the HPARAMS entry, a summary text, and images and curves of the best epoch.

    They are in a file of their own, which a run that was killed here writes again.
    """
    for previous in folder.glob(f"*{OUTCOME_SUFFIX}"):
        previous.unlink()
    logger = TensorBoardLogger(folder, name="", version="", filename_suffix=OUTCOME_SUFFIX)
    found = {name: OmegaConf.select(config, key) for name, key in HPARAMS_SETTINGS.items()}
    settings = {name: v if isinstance(v, (bool, int, float)) else str(v) for name, v in found.items() if v is not None}
    metrics = {f"test/{name}": e.metrics[name] for e in evaluations if e.split == "test" for name in HPARAMS_METRICS}
    logger.log_hyperparams(settings, metrics=metrics)
    writer = logger.experiment
    for result in evaluations:
        tag = f"best_{result.split}"
        add_images(writer, result, data, step=step, tag=tag)
        add_classes(writer, result, step=step, tag=tag)
    writer.add_text("summary", _markdown(settings, evaluations), step)
    logger.finalize("success")


def add_classes(writer: SummaryWriter, result: Evaluation, *, step: int, tag: str) -> None:
    """Add precision and recall of each class as an image, and the precision-recall curve of each that has images."""
    counts = result.confusion.to_numpy()
    hits, predicted, support = counts.diagonal(), counts.sum(axis=0), counts.sum(axis=1)
    names = list(result.confusion.columns)
    precision, recall, _ = (np.nan_to_num(values) for values in precision_recall_f1(hits, support, predicted))
    figure = plots.plot_classes(precision, recall, support, names)
    writer.add_image(f"{tag}/classes", plots.to_image(figure), step, dataformats="HWC")
    for name in result.confusion.index[support > 0]:
        is_one = (result.predictions["label"] == name).to_numpy()
        _add_curve(writer, f"{tag}/pr/{name}", is_one, result.predictions[PROBABILITY_PREFIX + name].to_numpy(), step)


def _add_curve(writer: SummaryWriter, tag: str, truth: NDArray[np.bool_], scores: NDArray[Any], step: int) -> None:
    """Add a precision-recall curve; `add_pr_curve` would draw precision 0, not 1, where nothing is predicted."""
    found = scores >= np.linspace(0, 1, 127)[:, None]  # as many thresholds as TensorBoard takes
    tp, fp = (found & truth).sum(axis=1), (found & ~truth).sum(axis=1)
    fn, tn = truth.sum() - tp, (~truth).sum() - fp
    precision = np.where(tp + fp > 0, tp / (tp + fp).clip(1), 1.0)
    writer.add_pr_curve_raw(tag, tp, fp, tn, fn, precision, tp / truth.sum(), step)


@torch.inference_mode()
def add_embeddings(writer: SummaryWriter, classifier: Classifier, data: DefectData, *, step: int) -> None:
    """Add the pre-logits of validation images to the projector, with thumbnails, classes and predictions."""
    rows = data.find_rows("val")
    rows = rows[:: -(-len(rows) // MAX_EMBEDDINGS)]  # every n-th: the catalog is sorted by class
    backbone, features, thumbnails, predictions = classifier.backbone, [], [], []
    for start in range(0, len(rows), data.batch_size):
        pixels = torch.from_numpy(data.read_images(rows[start : start + data.batch_size]))
        images = as_float(pixels.permute(0, 3, 1, 2).to(classifier.device))
        maps = backbone.forward_features((images - classifier.mean) / classifier.std)
        features.append(backbone.forward_head(maps, pre_logits=True).cpu())
        thumbnails.append(interpolate(images, (THUMBNAIL, THUMBNAIL), mode="area").cpu())
        predictions += [classifier.classes[k] for k in backbone.forward_head(maps).argmax(dim=1).tolist()]
    table = data.catalog.iloc[rows]
    writer.add_embedding(
        torch.cat(features).double().numpy().round(3),  # it is written as text
        [[_cell(w) for w in words] for words in zip(table["label"], predictions, table["path"], strict=True)],
        torch.cat(thumbnails),
        step,
        tag="val",
        metadata_header=["class", "prediction", "image"],
    )


def _cell(text: str) -> str:
    """One cell of a table with tabs; file names may hold line ends, or be no UTF-8."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().split())


def _markdown(settings: Mapping[str, Any], evaluations: Sequence[Evaluation]) -> str:
    lines = ["| split | " + " | ".join(HPARAMS_METRICS) + " |", "|---" * (len(HPARAMS_METRICS) + 1) + "|"]
    for e in evaluations:
        lines.append(f"| {e.split} | " + " | ".join(f"{e.metrics[m]:.4f}" for m in HPARAMS_METRICS) + " |")
    if note := predictions.join_notes(evaluations):
        lines += ["", f"**{note}**"]
    lines += ["", "| setting | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in settings.items())]
    return "\n".join(lines)
