"""What a trained classifier does on a split: metrics, predictions, confusion; the files of it."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from alu_defects.atomic import write_json
from alu_defects.data import splits
from alu_defects.data.datamodule import DefectData
from alu_defects.errors import UserError, of_other_processes
from alu_defects.learning import trainer
from alu_defects.learning.module import Classifier
from alu_defects.reporting import figures

PROBABILITY = "probability_"  # prefix of the columns with the probability of one class
PREDICTIONS = "predictions.csv"
PARTIAL = "partial evaluation"  # what the note on a part of the pictures begins with
# as in the catalogue: names may hold line ends, or be no UTF-8
_CSV: dict[str, Any] = {"quoting": csv.QUOTE_NONNUMERIC, "errors": "surrogateescape"}


@dataclass(frozen=True)
class Evaluation:
    """The outcome on one split.

    Attributes:
        split: val or test.
        metrics: loss, accuracy, macro precision, recall and F1; under `per_class` precision and recall of each class.
        predictions: one row a picture, in catalogue order: path, label, prediction, and the probability of each class.
        confusion: pictures by label (row) and prediction (column).
        rows: the catalogue rows of the predictions.
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
        """The wrong predictions, the most certain first, with `row` in the catalogue and `certainty`."""
        certainty = self.predictions.filter(like=PROBABILITY).max(axis=1)
        table = self.predictions.assign(row=self.rows, certainty=certainty)
        return table[table["label"] != table["prediction"]].sort_values("certainty", ascending=False)

    def check_numbers(self) -> None:
        """Make sure that there is something to judge.

        Raises:
            UserError: pictures whose probabilities are no numbers.
        """
        lost = self.predictions.loc[self.predictions.filter(like=PROBABILITY).isna().any(axis=1), "path"]
        if len(lost):
            raise UserError(
                f"the network gives no numbers (NaN) for {len(lost)} of {len(self.predictions)} {self.split} pictures, "
                f"such as {lost.iloc[0]}: its training has diverged. Train again, with a lower optimizer.lr"
            )


def evaluate(classifier: Classifier, data: DefectData, split: str, options: Mapping[str, Any]) -> Evaluation:
    """Run a classifier over the val or test pictures.

    Args:
        classifier: with the weights to evaluate.
        data: with the pictures.
        split: val or test.
        options: of the trainer; one device is used, so that each picture is counted once.

    Raises:
        UserError: pictures that cannot be decoded, where that is done only now; or trainer.limit_<split>_batches=0.
    """
    single = trainer.on_one_device(options)
    single_trainer = trainer.create(single, callbacks={}, loggers=[], network=classifier.backbone)
    run = single_trainer.validate if split == "val" else single_trainer.test
    with of_other_processes():
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
    rows = data.scan().loc[index.tolist()]
    predictions = pd.DataFrame(
        {
            "path": rows["path"].to_list(),
            "label": rows["label"].to_list(),
            "prediction": [names[i] for i in predicted.tolist()],
        }
    )
    columns = pd.DataFrame(probabilities.double().numpy(), columns=[PROBABILITY + name for name in names])
    assert classifier.confusion is not None
    confusion = pd.DataFrame(classifier.confusion.numpy(), index=pd.Index(names, name="label"), columns=names)
    notes = [splits.SELECTED_ON_TEST] if splits.selected_on_test(data.scan()) else []
    if len(index) < (total := len(data.rows(split))):  # trainer.limit_test_batches, say
        notes.append(f"{PARTIAL}: {len(index)} of {total} {split} images")
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


def read_predictions(folder: Path) -> pd.DataFrame:
    """The predictions in the folder of a run or of an evaluation."""
    text = dict.fromkeys(("path", "label", "prediction"), str)
    table = pd.read_csv(folder / PREDICTIONS, dtype=text, keep_default_na=False, encoding_errors="surrogateescape")
    numbers = [str(name) for name in table if str(name).startswith(PROBABILITY)]
    table[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce")  # a network that diverged has none
    return table


def write(evaluation: Evaluation, folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write predictions.csv, confusion.csv, confusion.png and metrics.json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    evaluation.predictions.to_csv(folder / PREDICTIONS, index=False, **_CSV)
    evaluation.confusion.to_csv(folder / "confusion.csv", **_CSV)
    names = list(evaluation.confusion.columns)
    figure = figures.confusion_matrix(evaluation.confusion.to_numpy(), names, evaluation.note)
    figure.savefig(folder / "confusion.png", dpi=150)
    write_json(folder / "metrics.json", metrics)
