"""Losses: logits and class ids → a loss; logits → probabilities."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alu_defects.config import instantiate
from alu_defects.errors import UserError
from alu_defects.training.optimization import check_options


class CrossEntropy(nn.Module):
    """Softmax cross-entropy; with class weights each image counts with the weight of its class."""

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} is not in [0, 1)")
        self.register_buffer("weight", weight, persistent=False)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch: logits (B, C), labels int64 (B,); 0 where no image of it has a weight."""
        # not the mean of several batches: their weights differ
        return self.total(logits, labels) / self.total_weight(labels).clamp(min=torch.finfo(torch.float32).tiny)

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum of the losses of a batch, each times the weight of its image."""
        return F.cross_entropy(logits, labels, self.weight, reduction="sum", label_smoothing=self.label_smoothing)

    def total_weight(self, labels: Tensor) -> Tensor:
        """Sum of the weights of the images of a batch; their number where classes have none."""
        if self.weight is None:
            return torch.full((), float(len(labels)), device=labels.device)
        return self.weight[labels].sum()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (B, C) that sum to one."""
        return logits.softmax(dim=1)


class Focal(CrossEntropy):
    """Focal loss (Lin et al. 2017, eq. 5, with a softmax): cross-entropy times (1 - p)^gamma."""

    def __init__(self, weight: Tensor | None = None, label_smoothing: float = 0.0, gamma: float = 2.0) -> None:
        super().__init__(weight, label_smoothing)
        self.gamma = gamma

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum of the losses of a batch, each times the weight of its image."""
        losses = F.cross_entropy(logits, labels, self.weight, reduction="none", label_smoothing=self.label_smoothing)
        p = logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
        # with 0 < gamma < 1 the slope at p = 1 is infinite, and infinite times zero is NaN
        return ((1 - p).clamp(min=1e-6) ** self.gamma * losses).sum()


class Binary(CrossEntropy):
    """Binary cross-entropy of each class against the rest, summed: the literal reading of the paper's eq. 7."""

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum of the losses of a batch, each times the weight of its image."""
        targets = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        targets = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)
        return (losses if self.weight is None else losses * self.weight[labels]).sum()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of each class against the rest (B, C); they need not sum to one."""
        return logits.sigmoid()


def create_loss(options: Mapping[str, Any], class_counts: Sequence[int]) -> CrossEntropy:
    """Create a loss from `_target_` and options of a class of this module; a `UserError` says what does not fit.

    `class_weights` among them are `none`; `balanced`, inverse to the class counts; or one number for each class.
    """
    options = {"class_weights": "none", **options}
    weight = _weights(options.pop("class_weights"), class_counts)
    check_options("loss", CrossEntropy, options)
    return instantiate(CrossEntropy, options, weight=weight)


def _weights(weights: Any, counts: Sequence[int]) -> Tensor | None:
    if weights == "none":
        return None
    if weights == "balanced":
        return sum(counts) / (len(counts) * torch.tensor(counts, dtype=torch.float32))
    numbers = [w for w in weights if isinstance(w, (int, float)) and w >= 0] if isinstance(weights, Sequence) else []
    if not len(numbers) == len(counts) == len(weights) or not any(numbers):
        raise UserError(f"loss.class_weights={weights} is neither none, balanced nor a list of {len(counts)} numbers")
    return torch.tensor(numbers, dtype=torch.float32)
