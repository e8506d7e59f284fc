"""How good a trained model is: what val chose, tried on test; intervals, classes, selective prediction, curves."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from alu_defects.evaluation import statistics
from alu_defects.evaluation.calibration import Floats
from alu_defects.evaluation.operating import (
    Bools,
    OperatingPoint,
    Outcome,
    both_kinds,
    class_ids,
    confidence_for_share,
    raw_probabilities,
)
from alu_defects.evaluation.predictions import Evaluation
from alu_defects.evaluation.statistics import SmallSampleCorrection
from alu_defects.training.metrics import SUMMARY_METRICS

GRID = np.linspace(0, 1, 201)  # where curves of resamples are compared
REJECTED_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)  # of images sent to a person, in the table
CALIBRATION_BINS = 15  # as in Guo et al. (2017)


class CalibratedPredictions:
    """An evaluation with calibrated probabilities, as arrays."""

    def __init__(self, evaluation: Evaluation, sessions: list[str], point: OperatingPoint) -> None:
        self.evaluation, self.sessions, self.classes = evaluation, sessions, point.classes
        table = evaluation.predictions
        self.labels = class_ids(table["label"], self.classes)
        self.predicted = class_ids(table["prediction"], self.classes)
        self.right = self.labels == self.predicted
        raw = raw_probabilities(table, self.classes)
        self.raw = raw / raw.sum(axis=1, keepdims=True)  # of each class against the rest they need not sum to one
        self.probabilities = point.probabilities(table)
        self.confidence = self.probabilities[np.arange(len(table)), self.predicted]
        if point.normal is not None:
            self.defective, self.scores = point.defective(table), point.scores(table)


@dataclass(frozen=True)
class Assessment:
    """What some images chose, and how good it is on others."""

    chooser: CalibratedPredictions  # val or new; chose the operating point and the confidences of selective prediction
    evaluated: CalibratedPredictions  # val, test or new, which shows how good they are
    point: OperatingPoint
    reject: float  # share of the least confident images that goes to a person
    target_accuracy: float  # of the images that are decided without one

    @cached_property
    def outcomes(self) -> dict[str, Outcome]:
        """Split → what the threshold does there; empty where there is none, or nothing to try it on."""
        found: dict[str, Outcome] = {}
        for evaluation in (self.chooser.evaluation, self.evaluated.evaluation):
            outcome = self.point.outcome(evaluation.predictions)
            if outcome is None:
                return {}
            found[evaluation.split] = outcome
        return found

    @cached_property
    def classes(self) -> pd.DataFrame:
        """One row a class: support, precision, recall and F1 with intervals, average precision, area below the ROC."""
        images = self.evaluated
        number, every = len(images.classes), np.ones((1, len(images.labels)))
        scores = statistics.weighted_scores(images.labels, images.predicted, number, every)
        rows = statistics.per_class(images.classes, images.labels, [images.predicted], images.sessions, scores)
        for k, row in enumerate(rows):
            own, scores_of_class = images.labels == k, images.probabilities[:, k]
            for name, score in (("average_precision", average_precision_score), ("roc_auc", roc_auc_score)):
                row[name] = score(own, scores_of_class) if both_kinds(own) else math.nan
        return pd.DataFrame(rows)

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of the summary by session, and Wilson's for accuracy."""
        images = self.evaluated
        labels, groups, metrics = images.labels, images.sessions, images.evaluation.metrics
        drawn = statistics.bootstrap(labels, images.predicted, len(images.classes), groups).summary
        found: dict[str, tuple[float, float]] = {
            name: statistics.summary_interval(name, metrics[name], drawn[name], labels=labels, groups=groups)
            for name in SUMMARY_METRICS
        }
        return found | {"accuracy_wilson": statistics.wilson(int(images.right.sum()), len(images.right))}

    @cached_property
    def selective(self) -> pd.DataFrame:
        """Selective prediction: a person decides on the least confident images; one row a rule that was chosen."""
        chooser, images = self.chooser, self.evaluated
        split = chooser.evaluation.split
        shares = sorted({*REJECTED_SHARES, self.reject})
        rules = [("nobody", -math.inf)]
        rules += [
            (f"{100 * share:g} % on {split}", confidence_for_share(chooser.confidence, share)) for share in shares
        ]
        least = confidence_for_accuracy(chooser.confidence, chooser.right, self.target_accuracy)
        rules.append((f"until {100 * self.target_accuracy:g} % are right on {split}", least))
        rows = []
        for rule, confidence in rules:
            number, right = count_decided(images.confidence, images.right, confidence)
            low, high = statistics.wilson(right, number)
            row = {"rule": rule, "confidence": confidence, "rejected": 1 - number / len(images.right)}
            accuracy = right / number if number else math.nan
            rows.append(row | {"decided": number, "accuracy": accuracy, "low": low, "high": high})
        return pd.DataFrame(rows)

    @cached_property
    def calibration_errors(self) -> tuple[float, float]:
        """Expected calibration error as trained, and with the temperature."""
        images = self.evaluated
        return calibration_error(images.raw, images.labels), calibration_error(images.probabilities, images.labels)

    def as_dict(self) -> dict[str, Any]:
        """The numbers for metrics.json."""
        before, after = self.calibration_errors
        temperature = self.point.calibration.temperature
        numbers: dict[str, Any] = {
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "calibration": {"temperature": temperature, "ece_before": before, "ece": after},
        }
        if self.outcomes and (threshold := self.point.threshold):
            numbers["operating"] = asdict(threshold) | {"promised": threshold.promised}
            for split, outcome in self.outcomes.items():
                rates = {"escape": outcome.escape, "overkill": outcome.overkill}
                numbers["operating"][split] = asdict(outcome) | rates
        return numbers


def calibration_error(probabilities: Floats, labels: NDArray[np.intp]) -> float:
    """Expected calibration error: how far confidence is from the share that is right, over 15 bins of equal width."""
    given, ids = torch.from_numpy(probabilities), torch.from_numpy(labels.astype(np.int64))
    return float(multiclass_calibration_error(given, ids, given.shape[1], CALIBRATION_BINS, norm="l1"))


def _descending(values: Floats) -> tuple[NDArray[np.intp], Bools]:
    """The order from the highest to the lowest, and where each value occurs last: equal values go together."""
    order = np.argsort(-values, kind="stable")
    return order, np.append(values[order][1:] != values[order][:-1], True)


def escape_overkill_curve(scores: Floats, defective: Bools) -> tuple[Floats, Floats]:
    """Overkill and escape for every threshold, from the highest to the lowest."""
    overkill, escape = _curves(scores, defective, np.ones((1, len(scores))))
    return overkill[0], escape[0]


def escape_band(scores: Floats, defective: Bools, groups: Sequence[str]) -> tuple[Floats, Floats]:
    """95 % intervals of the escape rate at each overkill of `GRID`: the lower and the upper ends."""
    rows = []
    for weights in statistics.resample_groups(groups):
        for overkill, escape in zip(*_curves(scores, defective, weights), strict=True):
            if not np.isnan([overkill[-1], escape[-1]]).any():  # a resample without good or without defective pieces
                rows.append(np.interp(GRID, overkill, escape))
    return _ends(rows, SmallSampleCorrection.of(defective, groups))


def _curves(scores: Floats, defective: Bools, weights: Floats) -> tuple[Floats, Floats]:
    """For each row of weights (R, N) the overkill and escape rates (R, N + 1) as the threshold falls."""
    order, last = _descending(scores)
    taken = weights[:, order]
    bad = np.cumsum(taken * defective[order], axis=1)
    good = np.cumsum(taken * ~defective[order], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        escape = 1 - bad[:, last] / bad[:, -1:]
        overkill = good[:, last] / good[:, -1:]
    one, zero = np.ones((len(weights), 1)), np.zeros((len(weights), 1))
    return np.hstack([zero, overkill]), np.hstack([one, escape])


def _ends(rows: Sequence[Floats], correction: SmallSampleCorrection) -> tuple[Floats, Floats]:
    low, high = np.nanquantile(np.stack(rows), correction.ends, axis=0)
    return low, high


def coverage_curve(confidence: Floats, right: Bools) -> tuple[Floats, Floats]:
    """Coverage (share of images that is decided) and accuracy on them, as the least confident go to a person."""
    order, last = _descending(confidence)
    number = np.arange(1, len(order) + 1)
    return number[last][::-1] / len(order), (np.cumsum(right[order]) / number)[last][::-1]


def coverage_band(confidence: Floats, right: Bools, groups: Sequence[str]) -> tuple[Floats, Floats]:
    """95 % intervals of the accuracy at each coverage of `GRID`."""
    rows, (order, last) = [], _descending(confidence)
    for weights in statistics.resample_groups(groups):
        taken = weights[:, order]
        decided = np.cumsum(taken, axis=1)[:, last]
        hits = np.cumsum(taken * right[order], axis=1)[:, last]
        for own, have in zip(decided, hits, strict=True):
            known = own > 0
            rows.append(np.interp(GRID, own[known] / own[-1], have[known] / own[known]))
    return _ends(rows, SmallSampleCorrection.of(np.zeros(len(right)), groups))


def confidence_for_accuracy(confidence: Floats, right: Bools, accuracy: float) -> float:
    """The lowest confidence from which on the images are right at this rate; infinite where there is none."""
    order, last = _descending(confidence)
    rate = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    reached = np.flatnonzero((rate >= accuracy) & last)
    return float(confidence[order][reached[-1]]) if len(reached) else math.inf


def count_decided(confidence: Floats, right: Bools, least: float) -> tuple[int, int]:
    """Images of at least this confidence, and how many of them are right."""
    decided = confidence >= least
    return int(decided.sum()), int((decided & right).sum())
