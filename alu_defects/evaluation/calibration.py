"""Calibrated probabilities; numpy alone, so that whoever decides with them needs nothing else."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_NEAREST_TO_ONE = 1 - 1e-7  # that float32 knows
LARGEST_LOGIT = math.log(_NEAREST_TO_ONE / (1 - _NEAREST_TO_ONE))  # of a class against the rest


@dataclass(frozen=True)
class Calibration:
    """One temperature for all logits (Guo et al. 2017): 90 % confidence then means 90 % right."""

    temperature: float  # that logits are divided by; above 1 where the network is too confident
    images: int  # that it is fitted on
    one_against_rest: bool = False  # each probability is of a class against the rest, as with loss=binary

    @classmethod
    def fit(cls, probabilities: Floats, labels: NDArray[np.intp]) -> "Calibration":
        """Find the temperature with the least cross-entropy: probabilities (N, C), ids (N,); 1 if all are right."""
        from scipy.optimize import minimize_scalar

        one_against_rest = not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)
        if (probabilities.argmax(axis=1) == labels).all():  # the best temperature would be 0
            return cls(1.0, len(labels), one_against_rest)
        logits = _logits(probabilities, one_against_rest)

        def cross_entropy(log_temperature: float) -> float:
            return float(-_log_softmax(logits / np.exp(log_temperature))[np.arange(len(labels)), labels].mean())

        found = minimize_scalar(cross_entropy, bounds=(np.log(0.05), np.log(20)), method="bounded")
        return cls(float(np.exp(found.x)), len(labels), one_against_rest)

    def apply(self, probabilities: Floats) -> Floats:
        """Calibrated probabilities (N, C), which sum to one; the order of the classes stays."""
        return np.asarray(np.exp(_log_softmax(_logits(probabilities, self.one_against_rest) / self.temperature)))


def _logits(probabilities: Floats, one_against_rest: bool) -> Floats:
    """Logits, of a softmax up to a constant."""
    p = np.clip(probabilities, 1e-30, _NEAREST_TO_ONE if one_against_rest else None)
    logits: Floats = np.log(p) - np.log1p(-p) if one_against_rest else np.log(p)
    return logits


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
