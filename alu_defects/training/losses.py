"""Losses: logits and targets → a loss; logits → probabilities.

Targets are class ids, int64 (B,), or the share of each class in mixed images, float32 (B, C). The weight of an image is
that of its class, or the mean of its classes.
"""

import math
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

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a batch: logits (B, C), targets; 0 where no image of it has a weight."""
        # not the mean of several batches: their weights differ
        return self.total(logits, targets) / self.total_weight(targets).clamp(min=torch.finfo(torch.float32).tiny)

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Sum of the losses of a batch, each times the weight of its image."""
        return F.cross_entropy(logits, targets, self.weight, reduction="sum", label_smoothing=self.label_smoothing)

    def total_weight(self, targets: Tensor) -> Tensor:
        """Sum of the weights of the images of a batch; their number where classes have none."""
        if self.weight is None:
            return torch.full((), float(len(targets)), device=targets.device)
        return self.image_weights(self.weight, targets).sum()

    @staticmethod
    def image_weights(weight: Tensor, targets: Tensor) -> Tensor:
        """The weight of each image (B,), from those of the classes (C,)."""
        return weight[targets] if targets.ndim == 1 else targets @ weight

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (B, C) that sum to one."""
        return logits.softmax(dim=1)

    def average(self, views: Tensor) -> Tensor:
        """Logits (B, C) whose probabilities are the mean of those of several views, logits (V, B, C)."""
        return views.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(views))


class Focal(CrossEntropy):
    """Focal loss (Lin et al. 2017, eq. 5, with a softmax): cross-entropy times (1 - p)^gamma.

    p is the probability of the class; of a mixed image the mean of its classes.
    """

    def __init__(self, weight: Tensor | None = None, label_smoothing: float = 0.0, gamma: float = 2.0) -> None:
        super().__init__(weight, label_smoothing)
        self.gamma = gamma

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Sum of the losses of a batch, each times the weight of its image."""
        losses = F.cross_entropy(logits, targets, self.weight, reduction="none", label_smoothing=self.label_smoothing)
        p = (logits.softmax(dim=1) * shares(targets, logits)).sum(dim=1)
        # with 0 < gamma < 1 the slope at p = 1 is infinite, and infinite times zero is NaN
        return ((1 - p).clamp(min=1e-6) ** self.gamma * losses).sum()


class Binary(CrossEntropy):
    """Binary cross-entropy of each class against the rest, summed: the literal reading of the paper's eq. 7."""

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Sum of the losses of a batch, each times the weight of its image."""
        smoothed = shares(targets, logits) * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none").sum(dim=1)
        return (losses if self.weight is None else losses * self.image_weights(self.weight, targets)).sum()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of each class against the rest (B, C); they need not sum to one."""
        return logits.sigmoid()

    def average(self, views: Tensor) -> Tensor:
        """Logits (B, C) whose probabilities are the mean of those of several views, logits (V, B, C)."""
        return F.logsigmoid(views).logsumexp(dim=0) - F.logsigmoid(-views).logsumexp(dim=0)


def shares(targets: Tensor, logits: Tensor) -> Tensor:
    """Targets as the share of each class (B, C), in the type of the logits; that of a class id is 1."""
    return F.one_hot(targets, logits.shape[1]).to(logits.dtype) if targets.ndim == 1 else targets


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
