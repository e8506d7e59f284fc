"""What is measured of a classifier, as a torchmetrics metric."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

LOGGED_PER_CLASS = ("precision", "recall")
SUMMARY_METRICS = ("accuracy", "precision", "recall", "f1")


class ClassificationMetrics(Metric):
    """Loss, confusion counts, accuracy, precision and recall of each class, and macro precision, recall and F1.

    A step adds to the counts and to the loss on the device, and everything else follows from them at the end. The
    metrics of torchmetrics count with `bincount`, and its mean looks for NaN: both make the host wait for a GPU.

    Macro averages are over the classes that occur among labels or predictions, as in scikit-learn.
    """

    full_state_update = False
    confusion: Tensor
    loss: Tensor
    weight: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("confusion", torch.zeros(num_classes**2, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("loss", torch.zeros(()), dist_reduce_fx="sum")  # sums over the images
        self.add_state("weight", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor, weight: Tensor) -> None:
        """Add a batch: logits (B, C), labels int64 (B,), the sum of its losses, and of its images' weights."""
        cells = labels * self.num_classes + logits.argmax(dim=1)
        self.confusion.scatter_add_(0, cells, torch.ones_like(cells))
        self.loss += loss
        self.weight += weight

    def compute(self) -> dict[str, Tensor]:
        """`loss`, `SUMMARY_METRICS`, `precision_per_class`, `recall_per_class` (C,), `confusion` (C, C) with a row a label."""
        confusion = self.confusion.view(self.num_classes, self.num_classes)
        hits, labels, predictions = confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0)
        precision, recall = _ratio(hits, predictions), _ratio(hits, labels)
        f1 = _ratio(2 * hits, labels + predictions)
        occurs = (labels + predictions) > 0
        macro = {"precision": precision, "recall": recall, "f1": f1}
        return {
            "loss": self.loss / self.weight.clamp(min=torch.finfo(torch.float32).tiny),
            "accuracy": _ratio(hits.sum(), confusion.sum()),
            **{name: values[occurs].mean() for name, values in macro.items()},
            "precision_per_class": precision,
            "recall_per_class": recall,
            "confusion": confusion,
        }


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """0 where there is nothing, as in scikit-learn."""
    return part / whole.clamp(min=1)


def flat_names(values: dict[str, Any], classes: Sequence[str], prefix: str) -> dict[str, Any]:
    """Computed metrics under the names that are logged: `val/recall`, `val/recall/orange_peel`; no confusion counts."""
    result = {f"{prefix}/{name}": values[name] for name in ("loss", *SUMMARY_METRICS)}
    for name in LOGGED_PER_CLASS:
        result |= {f"{prefix}/{name}/{c}": v for c, v in zip(classes, values[f"{name}_per_class"], strict=True)}
    return result
