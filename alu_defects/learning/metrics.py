"""What is measured of a classifier, by torchmetrics."""

from collections.abc import Sequence
from typing import Any

from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

PER_CLASS = ("precision", "recall")
SUMMARY = ("accuracy", "precision", "recall", "f1")


def summary(num_classes: int) -> MetricCollection:
    """Accuracy, macro precision, macro recall, macro F1, precision and recall of each class, and confusion counts.

    Macro averages are over the classes that occur among labels or predictions, as in scikit-learn.
    `validate_args=False` spares a host synchronisation each step.
    """
    options: dict[str, Any] = {"num_classes": num_classes, "validate_args": False}
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(average="micro", **options),
            "precision": MulticlassPrecision(average="macro", **options),
            "recall": MulticlassRecall(average="macro", **options),
            "f1": MulticlassF1Score(average="macro", **options),
            "precision_per_class": MulticlassPrecision(average="none", **options),
            "recall_per_class": MulticlassRecall(average="none", **options),
            "confusion": MulticlassConfusionMatrix(**options),
        }
    )


def named(values: dict[str, Any], classes: Sequence[str], prefix: str) -> dict[str, Any]:
    """Computed metrics under the names that are logged: `val/recall`, `val/recall/orange_peel`; no confusion counts."""
    result = {f"{prefix}/{name}": values[name] for name in SUMMARY}
    for name in PER_CLASS:
        result |= {f"{prefix}/{name}/{c}": v for c, v in zip(classes, values[f"{name}_per_class"], strict=True)}
    return result
