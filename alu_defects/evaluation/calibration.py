"""Whether 90 % means 90 %: one temperature for all logits, fitted on val (Guo et al. 2017)."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from torchmetrics.functional.classification import multiclass_calibration_error

BINS = 15  # as in Guo et al.
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """The temperature that logits are divided by, and the images that it was fitted on.

    Attributes:
        temperature: above 1 where the network is too sure of itself.
        images: how many there were.
        split: their part of the data.
        one_against_rest: the probabilities are of each class against the rest and need not sum to one, as with
            loss=binary.
    """

    temperature: float
    images: int
    split: str = "val"
    one_against_rest: bool = False

    @classmethod
    def fit(cls, probabilities: Floats, labels: NDArray[np.intp], split: str = "val") -> "Calibration":
        """The temperature with the least cross-entropy: probabilities (N, C), class ids (N,).

        1 where all are right: the least would then be without end.
        """
        one_against_rest = not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)
        if (probabilities.argmax(axis=1) == labels).all():
            return cls(1.0, len(labels), split, one_against_rest)
        logits = _logits(probabilities, one_against_rest)

        def cross_entropy(log_temperature: float) -> float:
            return float(-log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(len(labels)), labels].mean())

        found = minimize_scalar(cross_entropy, bounds=(np.log(0.05), np.log(20)), method="bounded")
        return cls(float(np.exp(found.x)), len(labels), split, one_against_rest)

    def apply(self, probabilities: Floats) -> Floats:
        """Calibrated probabilities (N, C), which sum to one; the order of the classes stays."""
        scaled: Floats = softmax(_logits(probabilities, self.one_against_rest) / self.temperature, axis=1)
        return scaled

    def as_dict(self) -> dict[str, object]:
        """For calibration.json."""
        return asdict(self)


def expected_calibration_error(probabilities: Floats, labels: NDArray[np.intp]) -> float:
    """Expected calibration error: how far confidence is from the share that is right, over 15 bins of equal width."""
    ids = torch.from_numpy(labels.astype(np.int64))
    error = multiclass_calibration_error(
        torch.from_numpy(probabilities), ids, num_classes=probabilities.shape[1], n_bins=BINS, norm="l1"
    )
    return float(error)


def _logits(probabilities: Floats, one_against_rest: bool) -> Floats:
    """Logits, of a softmax up to a constant."""
    p = np.clip(probabilities, 1e-30, None)
    if not one_against_rest:
        logits: Floats = np.log(p)
        return logits
    p = np.clip(p, None, 1 - 1e-7)  # float32 knows nothing nearer to 1
    rest: Floats = np.log(p) - np.log1p(-p)
    return rest
