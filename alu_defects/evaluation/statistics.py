"""How sure a number is: intervals, paired tests, and what a sample can promise.

Images of one session go right or wrong together, so the bootstrap draws whole sessions. The formulas are those of
scipy and statsmodels; what is here says which of them, on what.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as _mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from alu_defects.training.metrics import SUMMARY_METRICS, precision_recall_f1

CONFIDENCE_LEVEL = 0.95  # of every interval
RESAMPLES = 2000  # the ends of a 95 % interval then move by at most 3 % of its width from seed to seed
_CHUNK = 100  # resamples at once: 16 MB for 20,000 images
CLASS_METRICS = ("precision", "recall", "f1")
Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """The lower and the upper end; NaN where there is nothing to count."""

    low: float
    high: float


def wilson(hits: float, total: float) -> Interval:
    """Wilson's score interval (1927) of a rate of independent images; the mean of several runs need not be whole."""
    if total == 0:
        return Interval(math.nan, math.nan)
    low, high = proportion_confint(hits, total, alpha=1 - CONFIDENCE_LEVEL, method="wilson")
    return Interval(float(low), float(high))


def exact(events: int, total: int) -> Interval:
    """Two-sided interval of a rate after Clopper and Pearson (1934)."""
    if total == 0:
        return Interval(math.nan, math.nan)
    ends = stats.binomtest(events, total).proportion_ci(CONFIDENCE_LEVEL, method="exact")
    return Interval(float(ends.low), float(ends.high))


def effective_sample_size(groups: Sequence[str] | NDArray[np.str_]) -> float:
    """How many independent images say as much as these, of which each group goes right or wrong as one.

    Kish's effective sample size (1965) for groups of n images, (Σ n)² / Σ n²; 0 of none.
    """
    sizes = pd.Series(list(groups)).value_counts().to_numpy(float)
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(sizes) else 0.0


def class_interval(metric: str, value: float, total: float) -> Interval:
    """Wilson's interval of precision, recall or F1 of a class.

    `total` independent images are of the class (recall), taken for it (precision) or either (F1). F1 = 2J / (1 + J)
    for the share J of hits among the latter.
    """
    if math.isnan(value):
        return Interval(math.nan, math.nan)
    if metric != "f1":
        return wilson(value * total, total)
    share = value / (2 - value)
    low, high = wilson(share * total, total)
    return Interval(2 * low / (1 + low), 2 * high / (1 + high))


def upper_bound(events: float, total: float, confidence_level: float = CONFIDENCE_LEVEL) -> float:
    """One-sided upper bound of a rate after Clopper and Pearson (1934): the rate is below it so often."""
    return float(stats.beta.ppf(confidence_level, events + 1, total - events)) if events < total else 1.0


def images_needed(rate: float, confidence_level: float = CONFIDENCE_LEVEL) -> int:
    """How many images without a single event bound its rate by `rate`, with this confidence level."""
    return math.ceil(math.log(1 - confidence_level) / math.log1p(-rate))


def mcnemar(right: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Exact McNemar test: the p-value of as uneven a division of the images that one alone has right."""
    only, only_other = int((right & ~other).sum()), int((other & ~right).sum())
    return float(_mcnemar([[0, only], [only_other, 0]], exact=True).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction (1979): p-values that hold for all of several tests together."""
    return [float(p) for p in multipletests(list(p_values), method="holm")[1]] if len(p_values) else []


def summary_interval(
    metric: str, value: float, drawn: Floats, *, labels: Sequence[Any] | NDArray[Any], groups: Sequence[str]
) -> Interval:
    """Interval of accuracy or a macro average of images whose groups go right or wrong together.

    Wilson's interval of the effective sample size of Korn and Graubard (1998), value · (1 − value) / variance,
    corrected by Student's t; Franco, Little, Louis and Slud (2019) found that it holds the truth most often. The
    variance is that of the resamples, `drawn`. Where nothing varies, as when all images are right, it is unknown: the
    size is then the `effective_sample_size` of the groups.
    """
    few = SmallSampleCorrection.of(np.zeros(len(groups)) if metric == "accuracy" else labels, groups)
    variance = float(np.var(drawn)) * few.inflation**2
    size = effective_sample_size(groups)
    if variance > 1e-18 and 0 < value < 1:
        t = stats.t(len(groups) - 1).ppf((1 + CONFIDENCE_LEVEL) / 2) if len(groups) > 1 else few.t
        size = min(len(groups), value * (1 - value) / variance * (float(t) / few.t) ** 2)
    return wilson(value * size, size)


class SmallSampleCorrection(NamedTuple):
    """What resamples of few groups lack, after Hesterberg (2015), What teachers should know about the bootstrap.

    Resamples of n groups vary by (n - 1) / n of the variance that they stand for, and this is a guess from n values.
    Groups of uneven size are as many as their `effective_sample_size` number.

    Attributes:
        inflation: what the standard deviation between resamples lacks, √(n / (n - 1)) for n groups a class.
        freedom: degrees of freedom of Student's t, groups less classes.
    """

    inflation: float
    freedom: float

    @classmethod
    def of(
        cls, labels: Sequence[Any] | NDArray[Any], groups: Sequence[str] | NDArray[np.str_]
    ) -> "SmallSampleCorrection":
        """From the label and the group of each image; n is the harmonic mean over classes, at least 2."""
        by_label = pd.Series(list(groups), dtype=str).groupby(np.asarray(labels))
        worth = by_label.agg(effective_sample_size).astype(float)  # independent images of each label
        n = max(float(stats.hmean(worth)), 2.0) if len(worth) else 2.0
        return cls(math.sqrt(n / (n - 1)), max(float(worth.sum()) - len(worth), 1.0))

    @property
    def t(self) -> float:
        """So many standard deviations to either side make a 95 % interval."""
        return float(stats.t(self.freedom).ppf((1 + CONFIDENCE_LEVEL) / 2))

    @property
    def ends(self) -> tuple[float, float]:
        """The quantiles of resamples that make a 95 % interval; the middle 95 % hold the truth less often than that."""
        low = float(stats.norm.cdf(-self.inflation * self.t))
        return low, 1 - low


def resample_groups(groups: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Floats]:
    """Yield how often each image occurs in each resample, (some resamples, images): whole groups are drawn.

    The same groups are drawn alike at every call, so that two networks are compared on the same resamples. Groups are
    drawn without regard to the class: within each class, the intervals of precision came out too narrow.
    """
    number, names = pd.factorize(pd.Series(list(groups)))
    generator, share = np.random.default_rng(seed), np.full(len(names), 1 / len(names))
    for start in range(0, resamples, _CHUNK):
        drawn = generator.multinomial(len(names), share, size=min(_CHUNK, resamples - start))
        yield drawn[:, number].astype(float)


@dataclass(frozen=True)
class Scores:
    """The metrics of one set of images, or of many resamples of it: (resamples,), of classes (resamples, classes)."""

    summary: dict[str, Floats]  # `SUMMARY_METRICS`; macro averages are over classes that have images
    precision: Floats  # NaN for a class that is never predicted
    recall: Floats  # NaN for a class without images
    f1: Floats  # NaN for a class that does not occur

    @classmethod
    def join(cls, parts: Sequence["Scores"], join: Callable[[list[Floats]], Floats] = np.concatenate) -> "Scores":
        """Join scores metric by metric."""
        summary = {name: join([part.summary[name] for part in parts]) for name in SUMMARY_METRICS}
        return cls(summary, *(join([getattr(part, name) for part in parts]) for name in CLASS_METRICS))


def weighted_scores(labels: NDArray[np.intp], predicted: NDArray[np.intp], classes: int, weights: Floats) -> Scores:
    """The metrics for every row of weights (resamples, images), from class ids (images,)."""
    one_hot = np.eye(classes)
    truth, guess = one_hot[labels], one_hot[predicted]
    support, guessed, hits = weights @ truth, weights @ guess, weights @ (truth * guess)
    occurs = support > 0  # a class without images does not count, also one that only a resample lacks
    values = dict(zip(CLASS_METRICS, precision_recall_f1(hits, support, guessed), strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        macro = {name: (np.nan_to_num(value) * occurs).sum(1) / occurs.sum(1) for name, value in values.items()}
        accuracy = hits.sum(1) / support.sum(1)
    return Scores({"accuracy": accuracy, **macro}, **values)


def bootstrap(
    labels: NDArray[np.intp],
    predicted: NDArray[np.intp],
    classes: int,
    groups: Sequence[str],
    resamples: int = RESAMPLES,
) -> Scores:
    """The metrics of resamples that are drawn group by group, from class ids (images,) and a group for each."""
    drawn = resample_groups(groups, resamples)
    return Scores.join([weighted_scores(labels, predicted, classes, weights) for weights in drawn])


def per_class(
    classes: Sequence[str],
    labels: NDArray[np.intp],
    predictions: Sequence[NDArray[np.intp]],
    groups: Sequence[str],
    measured: Scores,
) -> list[dict[str, Any]]:
    """One row a class: support, and precision, recall and F1 with intervals.

    Not of resamples: those of the few groups of one class never hold a hit where 0 of 20 images are right.

    Args:
        classes: names in the order of their ids.
        labels: class ids (images,).
        predictions: class ids (images,) of every training.
        groups: of the images, which go right or wrong together in each.
        measured: of every training, (trainings, classes).
    """
    rows, group = [], np.array(groups)
    for k, name in enumerate(classes):
        own = labels == k
        row: dict[str, Any] = {"class": name, "support": int(own.sum())}
        for metric in CLASS_METRICS:
            values = getattr(measured, metric)[:, k]
            value = float(np.nanmean(values)) if not np.isnan(values).all() else math.nan
            taken = [predicted == k for predicted in predictions]
            counted = {"recall": [own], "precision": taken, "f1": [own | guessed for guessed in taken]}[metric]
            worth = [effective_sample_size(group[those]) for those in counted if those.any()]  # others have no value
            low, high = class_interval(metric, value, float(np.mean(worth)) if worth else 0.0)
            row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
        rows.append(row)
    return rows


class Difference(NamedTuple):
    """A difference of two means with its 95 % interval, and the p-value of there being none."""

    mean: float
    low: float
    high: float
    p: float


def difference(values: Floats, other: Floats, drawn: Floats, few: SmallSampleCorrection) -> Difference:
    """The difference between two models: Welch's t interval with the variance between resamples added.

    Percentiles of two or three trainings would be far too narrow. Of one training each, the interval is that of these
    two networks.

    Args:
        values: of each training of one model.
        other: of each training of the other.
        drawn: the difference of their means in each resample of the test images; NaN where it has no value.
        few: what the resamples lack.
    """
    mean = float(np.mean(values) - np.mean(other))
    parts = [(float(np.var(v, ddof=1)) / len(v), len(v) - 1.0) for v in (values, other) if len(v) > 1]
    known = drawn[~np.isnan(drawn)]
    parts.append((float(np.var(known)) * few.inflation**2 if len(known) else math.nan, few.freedom))
    variance = sum(part for part, _ in parts)
    if math.isnan(mean) or not variance > 1e-18:  # where nothing varies nothing can be said; it is not quite 0 then
        return Difference(mean, math.nan, math.nan, 1.0)
    t = stats.t(variance**2 / sum(part**2 / freedom for part, freedom in parts))
    half = float(t.ppf((1 + CONFIDENCE_LEVEL) / 2)) * math.sqrt(variance)
    return Difference(mean, mean - half, mean + half, float(2 * t.sf(abs(mean) / math.sqrt(variance))))
