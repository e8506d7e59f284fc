"""What images choose for a trained classifier to decide with: temperature, threshold for defects, reject option."""

import itertools
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from alu_defects.errors import UserError, did_you_mean
from alu_defects.evaluation import statistics
from alu_defects.evaluation.calibration import Calibration, Floats
from alu_defects.io import write_json
from alu_defects.runs.jobs import PROBABILITY_PREFIX

log = logging.getLogger(__name__)

Bools = NDArray[np.bool_]


def fill_options(options: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an operating point, with those that the run was trained with in place of null."""
    return {name: trained[name] if value is None else value for name, value in options.items()}


def check_normal(name: str, classes: Sequence[str]) -> None:
    """Raise a `UserError` if operating.normal is no class; the default may be missing: then there is no threshold."""
    if name not in (*classes, "normal"):
        hint = did_you_mean(str(name), classes)
        raise UserError(f"operating.normal={name} is not a class{hint} There are: {', '.join(classes)}")


@dataclass(frozen=True)
class Threshold:
    """The score from which a piece counts as defective, chosen for a highest escape rate.

    Attributes:
        score: 1 - the calibrated probability of normal.
        max_escape: the rate that was asked for.
        confidence_level: of the bound.
        escapes: defective images below the threshold, where it was chosen.
        defective: defective images there.
        bound: one-sided Clopper-Pearson upper bound of the escape rate. It holds although these images chose the
            threshold: that is the score of a defective image whose rank was fixed before.
        needed: defective images without an escape that would do for the rate that was asked for.
        independent: `statistics.effective_sample_size` defective images there.
        bound_together: the bound if images of one session pass or are caught together (Korn and Graubard 1998).
    """

    score: float
    max_escape: float
    confidence_level: float
    escapes: int
    defective: int
    bound: float
    needed: int
    independent: float
    bound_together: float

    @property
    def promised(self) -> bool:
        """Whether the images were enough to bound the escape rate as asked."""
        return self.bound <= self.max_escape


@dataclass(frozen=True)
class Outcome:
    """Counts at a threshold."""

    escapes: int
    defective: int
    overkills: int
    normal: int

    @property
    def escape(self) -> float:
        """Share of the defective pieces that pass."""
        return self.escapes / self.defective if self.defective else math.nan

    @property
    def overkill(self) -> float:
        """Share of the good pieces that are scrapped."""
        return self.overkills / self.normal if self.normal else math.nan

    @property
    def escape_interval(self) -> statistics.Interval:
        """Two-sided, Clopper and Pearson."""
        return statistics.exact(self.escapes, self.defective)

    @property
    def overkill_interval(self) -> statistics.Interval:
        """Two-sided, Clopper and Pearson."""
        return statistics.exact(self.overkills, self.normal)

    def breaks(self, bound: float) -> float:
        """How likely as many escapes or more would be if the escape rate were `bound`."""
        if not self.defective:
            return 1.0
        return float(stats.binomtest(self.escapes, self.defective, bound, alternative="greater").pvalue)


def both_kinds(defective: Bools) -> bool:
    """Whether there are good and defective images; without, nothing can be chosen or tried."""
    return bool(defective.any() and not defective.all())


def choose_threshold(
    scores: Floats,
    defective: Bools,
    max_escape: float,
    confidence_level: float = 0.95,
    groups: Sequence[str] | None = None,
) -> Threshold:
    """The highest threshold whose escape rate is bounded by `max_escape` with this confidence level.

    Where the images are too few for any such bound, the highest one at which no greater share of them escapes.
    `groups` are the sessions of the images, None where each is its own.
    """
    own = np.sort(scores[defective])
    total = len(own)
    bounded = itertools.takewhile(
        lambda k: statistics.upper_bound(k, total, confidence_level) <= max_escape, range(total)
    )
    rank = max(bounded, default=min(math.floor(max_escape * total), total - 1))
    independent = float(total) if groups is None else statistics.effective_sample_size(np.array(groups)[defective])
    return Threshold(
        float(own[rank]),
        max_escape,
        confidence_level,
        escapes=int((own < own[rank]).sum()),
        defective=total,
        bound=statistics.upper_bound(rank, total, confidence_level),
        needed=statistics.images_needed(max_escape, confidence_level),
        independent=independent,
        bound_together=statistics.upper_bound(rank * independent / total, independent, confidence_level),
    )


def count_outcome(scores: Floats, defective: Bools, threshold: float) -> Outcome:
    """What happens to images with these scores at a threshold."""
    flagged = scores >= threshold
    counts = (~flagged & defective, defective, flagged & ~defective, ~defective)
    return Outcome(*(int(images.sum()) for images in counts))


@dataclass(frozen=True)
class ChosenOn:
    """Which images chose an operating point."""

    split: str  # val, or new: images that the run did not have
    root: str  # where they lay
    data_hash: str  # `catalog.data_hash`: of val that of all images of the run
    images: int


@dataclass(frozen=True)
class OperatingPoint:
    """What images chose for a trained classifier; operating.json in the run folder is the file to decide with.

    A piece is defective if 1 - the calibrated probability of `normal` is `threshold.score` or more.

    Attributes:
        classes: names in the order of their ids.
        calibration: makes calibrated probabilities of those that the network gives.
        normal: the class of good pieces; None where there is none.
        ask_below: confidence below which a person decides: that of `operating.reject` of the images that chose it.
        threshold: None where there is no normal class, or the images that choose lack good or defective ones.
        chosen: counts at the threshold on the images that chose it; None without one.
        chosen_on: which images these were.
        tta: flips of `data.augment.FLIPS` whose probabilities are averaged with those of the image itself; all of
            the above holds for such means alone.
    """

    classes: list[str]
    calibration: Calibration
    normal: str | None
    ask_below: float
    threshold: Threshold | None = None
    chosen: Outcome | None = None
    chosen_on: ChosenOn | None = None
    tta: list[str] = field(default_factory=list)

    @classmethod
    def choose(
        cls,
        predictions: pd.DataFrame,
        sessions: Sequence[str],
        options: Mapping[str, Any],
        chosen_on: ChosenOn | None = None,
        tta: Sequence[str] = (),
    ) -> "OperatingPoint | None":
        """Choose on images, with the options of conf/operating; None where the probabilities are NaN.

        `tta` says how the predictions were made.
        """
        columns = predictions.filter(like=PROBABILITY_PREFIX)
        classes = [str(name).removeprefix(PROBABILITY_PREFIX) for name in columns]
        raw = raw_probabilities(predictions, classes)
        if np.isnan(raw).any():
            return None
        calibration = Calibration.fit(raw, class_ids(predictions["label"], classes))
        normal = options["normal"] if options["normal"] in classes else None
        ask_below = confidence_for_share(calibration.apply(raw).max(axis=1), options["reject"])
        point = cls(classes, calibration, normal, ask_below, chosen_on=chosen_on, tta=list(tta))
        defective = point.defective(predictions)
        if normal is None or not both_kinds(defective):
            return point
        scores = point.scores(predictions)
        threshold = choose_threshold(scores, defective, options["max_escape"], options["confidence_level"], sessions)
        return replace(point, threshold=threshold, chosen=count_outcome(scores, defective, threshold.score))

    def probabilities(self, predictions: pd.DataFrame) -> Floats:
        """Calibrated probabilities (images, classes)."""
        return self.calibration.apply(raw_probabilities(predictions, self.classes))

    def scores(self, predictions: pd.DataFrame) -> Floats:
        """1 - the calibrated probability of `normal` (images,)."""
        assert self.normal is not None
        scores: Floats = 1 - self.probabilities(predictions)[:, self.classes.index(self.normal)]
        return scores

    def defective(self, predictions: pd.DataFrame) -> Bools:
        """Whether each image is labelled as a defect (images,)."""
        return (predictions["label"] != self.normal).to_numpy()

    def outcome(self, predictions: pd.DataFrame) -> Outcome | None:
        """What the threshold does to images; None without one, or without good and defective images with numbers."""
        if self.threshold is None:
            return None
        scores, defective = self.scores(predictions), self.defective(predictions)
        known = both_kinds(defective) and not np.isnan(scores).any()
        return count_outcome(scores, defective, self.threshold.score) if known else None

    def save(self, file: Path) -> None:
        """Write operating.json."""
        write_json(file, asdict(self))

    def replace_in(self, file: Path) -> None:
        """Write operating.json, with a warning if what was there was chosen on other images or with other flips.

        Raises:
            UserError: there is a threshold, and the images of this one cannot choose any.
        """
        replaced = OperatingPoint.load(file) if file.is_file() else None
        before = replaced.chosen_on if replaced else None
        if replaced and replaced.threshold and not self.threshold and replaced.normal == self.normal:
            raise UserError(
                f"{file} has a threshold, and without both good ({self.normal}) and defective images none can be "
                "chosen in its place; give images of both kinds, or operating.choose_on=val"
            )
        if replaced and replaced.tta != self.tta:
            log.warning("%s: it was chosen with tta=%s before, now with tta=%s", file, replaced.tta, self.tta)
        if before and self.chosen_on and before.data_hash != self.chosen_on.data_hash:
            log.warning(
                "%s: chosen on %d %s images of %s; it was chosen on %d %s images of %s before",
                *(file, self.chosen_on.images, self.chosen_on.split, self.chosen_on.root),
                *(before.images, before.split, before.root),
            )
        self.save(file)

    @classmethod
    def load(cls, file: Path) -> "OperatingPoint":
        """Read operating.json.

        Raises:
            UserError: there is no such file, or it is damaged.
        """
        if not file.is_file():
            raise UserError(f"there is no {file}: finish the training, or let alu-evaluate run={file.parent} write it")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            for key, kind in (("threshold", Threshold), ("chosen", Outcome), ("chosen_on", ChosenOn)):
                content[key] = kind(**content[key]) if content[key] else None
            return cls(**content | {"calibration": Calibration(**content["calibration"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{file} is damaged or of another version ({type(error).__name__}: {error}); remove it, and let "
                f"alu-evaluate run={file.parent} write it again"
            ) from error


def confidence_for_share(confidence: Floats, share: float) -> float:
    """The confidence below which this share of the images lies: they go to a person."""
    return float(np.quantile(confidence, share)) if share > 0 else 0.0


def class_ids(names: "pd.Series[str]", classes: Sequence[str]) -> NDArray[np.intp]:
    """Class names as their ids."""
    return pd.Categorical(names, categories=list(classes)).codes.astype(np.intp)


def raw_probabilities(predictions: pd.DataFrame, classes: Sequence[str]) -> Floats:
    """What the network gives (images, classes)."""
    return predictions[[PROBABILITY_PREFIX + name for name in classes]].to_numpy(float)
