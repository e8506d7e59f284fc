"""A classifier and a split → predictions, metrics and confusion."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from alu_defects.data import splits
from alu_defects.data.datamodule import DefectData
from alu_defects.errors import UserError, reraise_user_errors
from alu_defects.runs.jobs import PROBABILITY_PREFIX
from alu_defects.training import trainer
from alu_defects.training.metrics import LOGGED_PER_CLASS, SUMMARY_METRICS, ClassificationMetrics
from alu_defects.training.module import Classifier

PARTIAL_NOTE = "partial evaluation"  # begins the note on an evaluation of some images only


@dataclass(frozen=True)
class Evaluation:
    """The results of a classifier on one split."""

    split: str  # val, test or new
    metrics: dict[str, Any]  # loss, accuracy, macro precision, recall, F1; `per_class`: precision and recall
    predictions: pd.DataFrame  # one row an image, in catalog order: path, label, prediction, probability of each class
    confusion: pd.DataFrame  # images by label (row) and prediction (column)
    rows: list[int]  # of the catalog
    notes: tuple[str, ...] = ()  # what to know about the numbers

    @property
    def note(self) -> str:
        """The notes in one line; "" where there are none."""
        return join_notes([self])

    @property
    def mistakes(self) -> pd.DataFrame:
        """The wrong predictions, the most confident first, with `row` in the catalog and `confidence`."""
        confidence = self.predictions.filter(like=PROBABILITY_PREFIX).max(axis=1)
        table = self.predictions.assign(row=self.rows, confidence=confidence)
        return table[table["label"] != table["prediction"]].sort_values("confidence", ascending=False)

    def check_numbers(self) -> None:
        """Check that no probability is NaN.

        Raises:
            UserError: some are: the network is broken.
        """
        lost = self.predictions.loc[self.predictions.filter(like=PROBABILITY_PREFIX).isna().any(axis=1), "path"]
        if len(lost):
            raise UserError(
                f"the network gives no numbers (NaN) for {len(lost)} of {len(self.predictions)} {self.split} images, "
                f"such as {lost.iloc[0]}: its training has diverged. Train again, with a lower optimizer.lr"
            )


def evaluate(classifier: Classifier, data: DefectData, split: str, options: Mapping[str, Any]) -> Evaluation:
    """Run a classifier over the val, test or new images, with the options of a trainer.

    One device is used, so that each image is counted once.

    Raises:
        UserError: images that cannot be decoded, where that is done only now; or trainer.limit_<split>_batches=0.
    """
    limit = "limit_val_batches" if split == "val" else "limit_test_batches"
    options = trainer.single_device(options)
    options["limit_predict_batches"] = options.get(limit, 1.0)
    if split == "val" and options.get("overfit_batches"):  # as in the validation of the training
        options["limit_predict_batches"] = options["overfit_batches"]
    data.predict_split = split
    single = trainer.create_trainer(options, callbacks={}, loggers=[], network=classifier.backbone)
    try:
        with reraise_user_errors():
            outputs = single.predict(classifier, datamodule=data)
    except MisconfigurationException:  # a fraction of less than one batch
        outputs = None
    if not outputs:  # Lightning has skipped it
        raise UserError(
            f"trainer.{limit}={options['limit_predict_batches']} leaves no {split} images to evaluate; "
            f"give trainer.{limit}=1 or more, or 1.0 for all"
        )
    index, logits = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    return summarize(classifier, data, split, index, logits)


def summarize(classifier: Classifier, data: DefectData, split: str, index: Tensor, logits: Tensor) -> Evaluation:
    """The evaluation of predictions in any order: catalog rows int64 (N,), logits (N, C) on the classifier's device."""
    names, order = classifier.classes, index.argsort()  # batches are shuffled, and of several processes
    index, logits = index[order].cpu(), logits[order]
    rows = data.catalog.loc[index.tolist()]
    ids = pd.Categorical(rows["label"], categories=names).codes.astype("int64")
    labels = torch.from_numpy(ids).to(logits.device)
    with torch.inference_mode():
        # of several processes the first alone calls this while it trains: waiting for the others would never end
        counted = ClassificationMetrics(len(names), sync_on_compute=False).to(logits.device)
        loss = classifier.loss
        counted.update(logits, labels, loss.total(logits, labels), loss.total_weight(labels))
        # the predicted class is that of the logits, as in the metrics: sigmoids of large logits are all 1
        predicted, probabilities = logits.argmax(dim=1).tolist(), loss.probabilities(logits).cpu()
    table = rows[["path", "label"]].reset_index(drop=True).assign(prediction=[names[i] for i in predicted])
    columns = pd.DataFrame(probabilities.double().numpy(), columns=[PROBABILITY_PREFIX + name for name in names])
    values = counted.compute()
    confusion = pd.DataFrame(values["confusion"].numpy(), index=pd.Index(names, name="label"), columns=names)
    notes = [splits.SELECTED_ON_TEST] if splits.selected_on_test(data.catalog) else []
    notes += data.notes
    if len(index) < (total := len(data.find_rows(split))):  # trainer.limit_test_batches, say
        notes.append(f"{PARTIAL_NOTE}: {len(index)} of {total} {split} images")
    if classifier.tta:
        notes.append(f"mean of the probabilities over each image and its flips ({', '.join(classifier.tta)})")
    metrics: dict[str, Any] = {name: float(values[name]) for name in ("loss", *SUMMARY_METRICS)}
    metrics["per_class"] = {
        name: {metric: float(values[f"{metric}_per_class"][k]) for metric in LOGGED_PER_CLASS}
        for k, name in enumerate(names)
    }
    return Evaluation(split, metrics, table.join(columns), confusion, index.tolist(), tuple(notes))


def join_notes(evaluations: Iterable[Evaluation]) -> str:
    """All notes of evaluations in one line, each once."""
    return "; ".join(dict.fromkeys(note for evaluation in evaluations for note in evaluation.notes))
