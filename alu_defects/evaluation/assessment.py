"""What a trained model is worth: val chooses temperature, threshold and whom to ask, test shows what they come to."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from alu_defects.errors import UserError, did_you_mean
from alu_defects.evaluation import calibration, operating, statistics
from alu_defects.evaluation.calibration import Calibration
from alu_defects.evaluation.operating import Outcome, Threshold
from alu_defects.evaluation.predictions import Evaluation
from alu_defects.reports.terminal import percent, span
from alu_defects.runs.jobs import PROBABILITY_PREFIX
from alu_defects.training.metrics import SUMMARY_METRICS

REJECTED_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)  # of images sent to a person, in the table


class CalibratedPredictions:
    """An evaluation with calibrated probabilities, as arrays.

    Args:
        evaluation: of val or test.
        sessions: of its images; of one session they go right or wrong together.
        calibrated: gives the probabilities.
        normal: the class of good pieces, or None where there is none.
    """

    def __init__(
        self, evaluation: Evaluation, sessions: list[str], calibrated: Calibration, normal: str | None
    ) -> None:
        self.evaluation, self.sessions = evaluation, sessions
        self.classes = list(evaluation.confusion.columns)
        table = evaluation.predictions
        self.labels = class_ids(table["label"], self.classes)
        self.predicted = class_ids(table["prediction"], self.classes)
        self.right = self.labels == self.predicted
        raw = table[[PROBABILITY_PREFIX + name for name in self.classes]].to_numpy(float)
        self.probabilities = calibrated.apply(raw)
        self.raw = raw / raw.sum(axis=1, keepdims=True)  # of each class against the rest they need not sum to one
        self.confidence = self.probabilities[np.arange(len(table)), self.predicted]
        if normal is not None:
            self.defective = (table["label"] != normal).to_numpy()
            self.scores = 1 - self.probabilities[:, self.classes.index(normal)]


def class_ids(names: "pd.Series[str]", classes: list[str]) -> NDArray[np.intp]:
    """Class names as their ids."""
    return pd.Categorical(names, categories=classes).codes.astype(np.intp)


def calibrate(val: Evaluation) -> Calibration:
    """Fit the temperature on val."""
    classes = list(val.confusion.columns)
    raw = val.predictions[[PROBABILITY_PREFIX + name for name in classes]].to_numpy(float)
    return Calibration.fit(raw, class_ids(val.predictions["label"], classes))


@dataclass(frozen=True)
class Assessment:
    """What val chooses and what it comes to.

    Attributes:
        val: chooses temperature, thresholds and certainties.
        judged: val or test, which shows what they are worth.
        calibrated: the temperature.
        options: of the operating point: normal, max_escape, confidence_level, reject, target_accuracy.
        normal: the class of good pieces, or None where there is none.
    """

    val: CalibratedPredictions
    judged: CalibratedPredictions
    calibrated: Calibration
    options: Mapping[str, Any]
    normal: str | None

    @cached_property
    def threshold(self) -> Threshold | None:
        """Chosen on val; None where good or defective pieces are missing."""
        if self.normal is None or not all(operating.both_kinds(it.defective) for it in (self.val, self.judged)):
            return None
        wanted, sure = self.options["max_escape"], self.options["confidence_level"]
        return operating.choose_threshold(self.val.scores, self.val.defective, wanted, sure, self.val.sessions)

    def outcome(self, judged: CalibratedPredictions) -> Outcome | None:
        """What the threshold does."""
        if self.threshold is None:
            return None
        return operating.count_outcome(judged.scores, judged.defective, self.threshold.score)

    @cached_property
    def classes(self) -> pd.DataFrame:
        """One row a class: support, precision, recall and F1 with intervals, average precision, area below the ROC."""
        it = self.judged
        number, every = len(it.classes), np.ones((1, len(it.labels)))
        measured = statistics.weighted_scores(it.labels, it.predicted, number, every)
        rows = statistics.per_class(it.classes, it.labels, [it.predicted], it.sessions, measured)
        for k, row in enumerate(rows):
            own = it.labels == k
            known = 0 < own.sum() < len(own)
            row["average_precision"] = average_precision_score(own, it.probabilities[:, k]) if known else math.nan
            row["roc_auc"] = roc_auc_score(own, it.probabilities[:, k]) if known else math.nan
        return pd.DataFrame(rows)

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of the summary by session, and Wilson's for accuracy."""
        it = self.judged
        drawn = statistics.bootstrap(it.labels, it.predicted, len(it.classes), it.sessions).summary
        found: dict[str, tuple[float, float]] = {
            name: statistics.summary_interval(
                name, it.evaluation.metrics[name], drawn[name], labels=it.labels, groups=it.sessions, right=[it.right]
            )
            for name in SUMMARY_METRICS
        }
        return found | {"accuracy_wilson": statistics.wilson(int(it.right.sum()), len(it.right))}

    def reject(self) -> pd.DataFrame:
        """What sending the least confident to a person brings: one row a rule, chosen on val, with what it does here."""
        shares = sorted({*REJECTED_SHARES, float(self.options["reject"])})
        rules = [
            (f"{share:.0%} on val", operating.confidence_for_share(self.val.confidence, share)) for share in shares
        ]
        wanted = float(self.options["target_accuracy"])
        least = operating.confidence_for_accuracy(self.val.confidence, self.val.right, wanted)
        rows = []
        for rule, confidence in [("nobody", -math.inf), *rules, (f"until {wanted:.1%} are right on val", least)]:
            number, right = operating.count_decided(self.judged.confidence, self.judged.right, confidence)
            low, high = statistics.wilson(right, number)
            rows.append(
                {
                    "rule": rule,
                    "confidence": confidence,
                    "rejected": 1 - number / len(self.judged.right),
                    "decided": number,
                    "accuracy": right / number if number else math.nan,
                    "low": low,
                    "high": high,
                }
            )
        return pd.DataFrame(rows)

    def as_dict(self) -> dict[str, Any]:
        """The numbers for metrics.json."""
        it = self.judged
        numbers: dict[str, Any] = {
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "calibration": {
                "temperature": self.calibrated.temperature,
                "ece_before": calibration.expected_calibration_error(it.raw, it.labels),
                "ece": calibration.expected_calibration_error(it.probabilities, it.labels),
            },
        }
        if self.threshold is not None:
            here, on_val = self.outcome(it), self.outcome(self.val)
            assert here is not None
            assert on_val is not None
            numbers["operating"] = asdict(self.threshold) | {
                "promised": self.threshold.promised,
                "val": asdict(on_val) | {"escape": on_val.escape, "overkill": on_val.overkill},
                it.evaluation.split: asdict(here) | {"escape": here.escape, "overkill": here.overkill},
            }
        return numbers


def normal_class(name: str, classes: list[str]) -> str | None:
    """The class of good pieces, None if there is none of the usual name.

    Raises:
        UserError: another name that is none of the classes.
    """
    if name in classes:
        return name
    if name == "normal":
        return None
    raise UserError(
        f"operating.normal={name} is not a class{did_you_mean(name, classes)} There are: {', '.join(classes)}"
    )


def sentences(judgement: Assessment) -> list[str]:
    """What the operating point promises, and what became of it, in plain words."""
    chosen, here = judgement.threshold, judgement.outcome(judgement.judged)
    on_val = judgement.outcome(judgement.val)
    if chosen is None or here is None or on_val is None:
        if judgement.normal is None:
            return [
                "No class is called normal, so nothing escapes and nothing is overkill; operating.normal=… names it."
            ]
        return ["Good and defective images are not both in val and in what is judged: no threshold can be chosen."]
    split, sure = judgement.judged.evaluation.split, f"{chosen.confidence_level:.0%}".replace("%", " %")
    score = f"A piece is defective from a score of {chosen.score:.4g} on (1 − probability of {judgement.normal})."
    if chosen.promised:
        promise = (
            f"{score} On val {chosen.escapes} of {chosen.defective} defective images pass there: with {sure} "
            f"confidence at most {percent(chosen.bound)} do, and {percent(chosen.max_escape)} was asked for."
        )
    else:
        promise = (
            f"{score} The {chosen.defective} defective images of val are too few to promise an escape rate of "
            f"{percent(chosen.max_escape)}: {chosen.escapes} pass there, which with {sure} confidence "
            f"promises only that at most {percent(chosen.bound)} do. "
            f"{chosen.needed} defective images without an escape would be needed."
        )
    texts = [
        promise,
        f"On val, {on_val.overkills} of {on_val.normal} good images are scrapped ({percent(on_val.overkill)}).",
    ]
    if split != "val":
        same = judgement.judged.evaluation.rows == judgement.val.evaluation.rows
        found = "the very images that chose the threshold, so this proves nothing" if same else _kept(chosen, here)
        texts.append(
            f"On {split}, {here.escapes} of {here.defective} defective images pass ({percent(here.escape)}; "
            f"{span(here.escape_interval)}): {found}. {here.overkills} of {here.normal} good ones are scrapped "
            f"({percent(here.overkill)}; {span(here.overkill_interval)})."
        )
    texts.append(
        "The bound of val, the intervals and p take images for independent, and each defect's share at the line for "
        "that of these. Val has also chosen the epoch and the temperature, so it is a little too good."
    )
    if chosen.bound_together > chosen.bound:
        worth = f"{chosen.independent:.{0 if chosen.independent >= 10 else 1}f}"
        texts.append(
            f"If at worst the defective images of one session pass or are caught together, those of val say as much "
            f"as {worth} independent ones, and with {sure} confidence at most {percent(chosen.bound_together)} pass."
        )
    return texts


def _kept(chosen: Threshold, here: Outcome) -> str:
    """Whether the test images keep the promise, or the bound of val where that is not what was asked for."""
    source = "promised" if chosen.promised else "val says"
    by_chance = f"p = {here.breaks(chosen.bound):.2g}"
    if here.escape <= chosen.bound:
        verdict = "the promise is kept" if chosen.promised else f"within the {percent(chosen.bound)} of val"
    elif here.escape <= chosen.bound_together:
        verdict = f"more than {source} of independent images ({by_chance}), not if those of one session pass together"
    else:
        verdict = f"more than {source}, which chance alone does with {by_chance}"
    if chosen.promised:
        return verdict
    more = ", and more than that pass here" if here.escape > chosen.max_escape else ""
    return f"{verdict}; the {percent(chosen.max_escape)} that was asked for was not promised{more}"
