"""What a classifier does at the line: how many defective pieces pass, how many good ones are scrapped, who is asked."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from alu_defects.evaluation import statistics
from alu_defects.evaluation.statistics import Interval, SmallSampleCorrection

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
GRID = np.linspace(0, 1, 201)  # where curves of resamples are compared


@dataclass(frozen=True)
class Threshold:
    """The score from which a piece counts as defective, chosen for a highest escape rate.

    Attributes:
        score: 1 - the calibrated probability of normal.
        max_escape: the rate that was asked for.
        confidence_level: of the bound.
        escapes: defective images below the threshold, where it was chosen.
        defective: defective images there.
        bound: one-sided Clopper-Pearson upper bound of the escape rate. For scores that do not depend on
            these images it holds although they chose the threshold: this is the score of a defective image whose
            rank was fixed before, and how many of all defective pieces lie below it has this very distribution.
        needed: defective images without an escape that would do for the rate that was asked for.
        independent: `statistics.effective_sample_size` defective images there.
        bound_together: the bound if the images of one session pass or are caught together: that of as many
            independent ones, after Korn and Graubard (1998).
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
    def escape_interval(self) -> Interval:
        """Two-sided, Clopper and Pearson."""
        return _exact(self.escapes, self.defective)

    @property
    def overkill_interval(self) -> Interval:
        """Two-sided, Clopper and Pearson."""
        return _exact(self.overkills, self.normal)

    def breaks(self, bound: float) -> float:
        """How likely as many escapes or more would be if the escape rate were `bound`."""
        if not self.defective:
            return 1.0
        return float(stats.binomtest(self.escapes, self.defective, bound, alternative="greater").pvalue)


def _exact(events: int, total: int) -> Interval:
    if not total:
        return Interval(math.nan, math.nan)
    low, high = stats.binomtest(events, total).proportion_ci(statistics.CONFIDENCE_LEVEL, method="exact")
    return Interval(float(low), float(high))


def both_kinds(defective: Bools) -> bool:
    """Whether there are good and defective images; without, nothing can be chosen or judged."""
    return bool(defective.any() and not defective.all())


def choose_threshold(
    scores: Floats,
    defective: Bools,
    max_escape: float,
    confidence_level: float = 0.95,
    groups: Sequence[str] | None = None,
) -> Threshold:
    """The highest threshold whose escape rate is bounded by `max_escape` with this confidence level.

    Where the images are too few for any such bound, the highest one at which no greater share of them escapes; the
    bound then says what can be promised, and `needed` how many images it takes.

    Args:
        scores: (images,).
        defective: (images,).
        max_escape: share of the defective pieces that may pass.
        confidence_level: of the bound.
        groups: sessions of the images, None where each is its own.
    """
    own = np.sort(scores[defective])
    total = len(own)
    bounded = itertools.takewhile(
        lambda k: statistics.upper_bound(k, total, confidence_level) <= max_escape, range(total)
    )
    rank = max(bounded, default=min(math.floor(max_escape * total), total - 1))
    score = float(own[rank])
    escapes = int((own < score).sum())
    bound = statistics.upper_bound(rank, total, confidence_level)
    needed = statistics.images_needed(max_escape, confidence_level)
    independent = float(total) if groups is None else statistics.effective_sample_size(np.array(groups)[defective])
    together = statistics.upper_bound(rank * independent / total, independent, confidence_level)
    return Threshold(score, max_escape, confidence_level, escapes, total, bound, needed, independent, together)


def count_outcome(scores: Floats, defective: Bools, threshold: float) -> Outcome:
    """What happens to images with these scores at a threshold."""
    flagged = scores >= threshold
    return Outcome(
        int((~flagged & defective).sum()),
        int(defective.sum()),
        int((flagged & ~defective).sum()),
        int((~defective).sum()),
    )


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
    order = np.argsort(-scores, kind="stable")
    last = np.append(scores[order][1:] != scores[order][:-1], True)  # images of one score are flagged together
    taken = weights[:, order]
    bad = np.cumsum(taken * defective[order], axis=1)
    good = np.cumsum(taken * ~defective[order], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        escape = 1 - bad[:, last] / bad[:, -1:]
        overkill = good[:, last] / good[:, -1:]
    one, zero = np.ones((len(weights), 1)), np.zeros((len(weights), 1))
    return np.hstack([zero, overkill]), np.hstack([one, escape])


def _ends(rows: Sequence[Floats], few: SmallSampleCorrection) -> tuple[Floats, Floats]:
    low, high = np.nanquantile(np.stack(rows), few.ends, axis=0)
    return low, high


def coverage_curve(confidence: Floats, right: Bools) -> tuple[Floats, Floats]:
    """The share of images that is decided, and that of them which is right, as the least confident go to a person."""
    order = np.argsort(-confidence, kind="stable")
    last = np.append(confidence[order][1:] != confidence[order][:-1], True)  # those of one confidence go together
    number = np.arange(1, len(order) + 1)
    return number[last][::-1] / len(order), (np.cumsum(right[order]) / number)[last][::-1]


def coverage_band(confidence: Floats, right: Bools, groups: Sequence[str]) -> tuple[Floats, Floats]:
    """95 % intervals of the accuracy at each coverage of `GRID`."""
    order = np.argsort(-confidence, kind="stable")
    rows = []
    last = np.append(confidence[order][1:] != confidence[order][:-1], True)
    for weights in statistics.resample_groups(groups):
        taken = weights[:, order]
        decided = np.cumsum(taken, axis=1)[:, last]
        hits = np.cumsum(taken * right[order], axis=1)[:, last]
        for own, have in zip(decided, hits, strict=True):
            known = own > 0
            rows.append(np.interp(GRID, own[known] / own[-1], have[known] / own[known]))
    return _ends(rows, SmallSampleCorrection.of(np.zeros(len(right)), groups))


def confidence_for_share(confidence: Floats, share: float) -> float:
    """The confidence below which this share of the images lies: they go to a person."""
    return float(np.quantile(confidence, share)) if share > 0 else -math.inf


def confidence_for_accuracy(confidence: Floats, right: Bools, accuracy: float) -> float:
    """The lowest confidence from which on the images are right at this rate; infinite where there is none."""
    order = np.argsort(-confidence, kind="stable")
    rate = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    last = np.append(confidence[order][1:] != confidence[order][:-1], True)
    reached = np.flatnonzero((rate >= accuracy) & last)
    return float(confidence[order][reached[-1]]) if len(reached) else math.inf


def count_decided(confidence: Floats, right: Bools, least: float) -> tuple[int, int]:
    """Images at least as certain as `least`, and how many of them are right."""
    taken = confidence >= least
    return int(taken.sum()), int((taken & right).sum())
