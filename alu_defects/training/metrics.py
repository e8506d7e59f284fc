"""The metrics of a classifier."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

LOGGED_SPLITS = ("train", "val")
LOGGED_PER_CLASS = ("precision", "recall")
SUMMARY_METRICS = ("accuracy", "precision", "recall", "f1")


def precision_recall_f1(
    hits: NDArray[Any], support: NDArray[Any], predicted: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and F1 of each class (..., C); NaN where there is nothing to count.

    From the counts of hits, of images of the class (support), and of images classified as it (predicted).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return hits / predicted, hits / support, 2 * hits / (support + predicted)


class ClassificationMetrics(Metric):
    """Loss, confusion counts, accuracy, precision and recall of each class, and macro precision, recall and F1.

    A step adds on the device; torchmetrics' own metrics make the CPU wait for the GPU. Macro averages are over the
    classes that have images, and an undefined value counts as 0: as in scikit-learn with `labels` that occur. A class
    that new images lack must not count as one that is never recognised.
    """

    full_state_update = False
    confusion: Tensor
    loss: Tensor
    weight: Tensor

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(**options)
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
        """`loss`, `SUMMARY_METRICS`, `precision_per_class`, `recall_per_class` (C,) and `confusion` (C, C), on the CPU.

        Rows of `confusion` are labels, columns predictions.
        """
        confusion = self.confusion.view(self.num_classes, self.num_classes).cpu()
        counts = confusion.numpy()
        hits, support, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        precision, recall, f1 = (
            torch.from_numpy(np.nan_to_num(values)).float() for values in precision_recall_f1(hits, support, predicted)
        )
        occurs = torch.from_numpy(support > 0)
        macro = {"precision": precision, "recall": recall, "f1": f1}
        return {
            "loss": (self.loss / self.weight.clamp(min=torch.finfo(torch.float32).tiny)).cpu(),
            "accuracy": torch.tensor(hits.sum() / max(counts.sum(), 1), dtype=torch.float32),
            **{name: values[occurs].mean() for name, values in macro.items()},
            "precision_per_class": precision,
            "recall_per_class": recall,
            "confusion": confusion,
        }


def flat_names(values: dict[str, Any], classes: Sequence[str], prefix: str) -> dict[str, Any]:
    """Computed metrics under the names that are logged: `val/recall`, `val/recall/orange_peel`; no confusion counts."""
    result = {f"{prefix}/{name}": values[name] for name in ("loss", *SUMMARY_METRICS)}
    for name in LOGGED_PER_CLASS:
        result |= {f"{prefix}/{name}/{c}": v for c, v in zip(classes, values[f"{name}_per_class"], strict=True)}
    return result
