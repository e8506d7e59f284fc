"""What a trained classifier does on a split: metrics, predictions, confusion; the files of it."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from alu_defects.data import splits
from alu_defects.data.datamodule import DefectData
from alu_defects.errors import UserError, reraise_user_errors
from alu_defects.io import write_json
from alu_defects.reports import plots
from alu_defects.runs.jobs import PREDICTIONS_FILE, PROBABILITY_PREFIX
from alu_defects.training import trainer
from alu_defects.training.module import Classifier

PARTIAL_NOTE = "partial evaluation"  # what the note on a part of the images begins with
# as in the catalog: names may hold line ends, or be no UTF-8
_CSV: dict[str, Any] = {"quoting": csv.QUOTE_NONNUMERIC, "errors": "surrogateescape"}


@dataclass(frozen=True)
class Evaluation:
    """The outcome on one split.

    Attributes:
        split: val or test.
        metrics: loss, accuracy, macro precision, recall and F1; under `per_class` precision and recall of each class.
        predictions: one row an image, in catalog order: path, label, prediction, and the probability of each class.
        confusion: images by label (row) and prediction (column).
        rows: the catalog rows of the predictions.
        notes: what a reader of the numbers must know.
    """

    split: str
    metrics: dict[str, Any]
    predictions: pd.DataFrame
    confusion: pd.DataFrame
    rows: list[int]
    notes: tuple[str, ...] = ()

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
        """Make sure that there is something to judge.

        Raises:
            UserError: images whose probabilities are no numbers.
        """
        lost = self.predictions.loc[self.predictions.filter(like=PROBABILITY_PREFIX).isna().any(axis=1), "path"]
        if len(lost):
            raise UserError(
                f"the network gives no numbers (NaN) for {len(lost)} of {len(self.predictions)} {self.split} images, "
                f"such as {lost.iloc[0]}: its training has diverged. Train again, with a lower optimizer.lr"
            )


def evaluate(classifier: Classifier, data: DefectData, split: str, options: Mapping[str, Any]) -> Evaluation:
    """Run a classifier over the val or test images.

    Args:
        classifier: with the weights to evaluate.
        data: with the images.
        split: val or test.
        options: of the trainer; one device is used, so that each image is counted once.

    Raises:
        UserError: images that cannot be decoded, where that is done only now; or trainer.limit_<split>_batches=0.
    """
    single = trainer.single_device(options)
    single_trainer = trainer.create_trainer(single, callbacks={}, loggers=[], network=classifier.backbone)
    run = single_trainer.validate if split == "val" else single_trainer.test
    with reraise_user_errors():
        logged = run(classifier, datamodule=data, verbose=False)
    if not logged:  # Lightning has skipped it
        limit = f"trainer.limit_{split}_batches"
        raise UserError(f"{limit}=0 leaves no {split} images to evaluate; give {limit}=1 or more, or 1.0 for all")
    return collect(classifier, data, split, logged[0])


def collect(classifier: Classifier, data: DefectData, split: str, logged: Mapping[str, Any]) -> Evaluation:
    """Gather what the evaluation that has just ended left in the classifier."""
    index, predicted, probabilities = (torch.cat(parts).cpu() for parts in zip(*classifier.predictions, strict=True))
    names, order = classifier.classes, index.argsort()  # batches are shuffled, and of several processes
    index, predicted, probabilities = index[order], predicted[order], probabilities[order]
    rows = data.catalog.loc[index.tolist()]
    predictions = pd.DataFrame(
        {
            "path": rows["path"].to_list(),
            "label": rows["label"].to_list(),
            "prediction": [names[i] for i in predicted.tolist()],
        }
    )
    columns = pd.DataFrame(probabilities.double().numpy(), columns=[PROBABILITY_PREFIX + name for name in names])
    assert classifier.confusion is not None
    confusion = pd.DataFrame(classifier.confusion.numpy(), index=pd.Index(names, name="label"), columns=names)
    notes = [splits.SELECTED_ON_TEST] if splits.selected_on_test(data.catalog) else []
    if len(index) < (total := len(data.find_rows(split))):  # trainer.limit_test_batches, say
        notes.append(f"{PARTIAL_NOTE}: {len(index)} of {total} {split} images")
    metrics = _nested(logged, split, names)
    return Evaluation(split, metrics, predictions.join(columns), confusion, index.tolist(), tuple(notes))


def join_notes(evaluations: Iterable[Evaluation]) -> str:
    """All notes of evaluations in one line, each once."""
    return "; ".join(dict.fromkeys(note for evaluation in evaluations for note in evaluation.notes))


def _nested(logged: Mapping[str, Any], split: str, names: list[str]) -> dict[str, Any]:
    """`test/recall` → `recall`, `test/recall/pit` → `per_class.pit.recall`."""
    flat = {key.removeprefix(f"{split}/"): float(value) for key, value in logged.items() if key.startswith(f"{split}/")}
    per_class = {name: {m: flat.pop(f"{m}/{name}") for m in ("precision", "recall")} for name in names}
    return {**flat, "per_class": per_class}


def write_evaluation(evaluation: Evaluation, folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write predictions.csv, confusion.csv, confusion.png and metrics.json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    evaluation.predictions.to_csv(folder / PREDICTIONS_FILE, index=False, **_CSV)
    evaluation.confusion.to_csv(folder / "confusion.csv", **_CSV)
    names = list(evaluation.confusion.columns)
    figure = plots.plot_confusion(evaluation.confusion.to_numpy(), names, evaluation.note)
    figure.savefig(folder / "confusion.png", dpi=150)
    write_json(folder / "metrics.json", metrics)
