"""What a split gives away: how well the capture time of an image alone, without its pixels, predicts the class."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alu_defects.data import sessions, splits

NEARBY_SECONDS = 30  # seconds; of 81 % of the Tianchi images, another of the same class was taken within them
MIN_ADVANTAGE = 0.2  # accuracy above that of the majority class from which on the time explains a part of every score


@dataclass(frozen=True)
class Leakage:
    """What the time-only baseline scores on the test images, as fractions.

    It predicts the class of the training image that was taken nearest in time, and sees no pixels.
    """

    images: int  # test images with a time
    accuracy: float
    macro_recall: float  # over the classes among these images
    majority: float  # accuracy of always guessing the most frequent class of the training images
    share_within_30s: float  # test images with a training image of their class within 30 s
    near_duplicates: int | None  # pairs of a training and a val or test image that look alike; None: not counted

    @property
    def is_strong(self) -> bool:
        """Whether the baseline is so good that the scores of models must be compared with it."""
        return self.accuracy - self.majority > MIN_ADVANTAGE

    def sentence(self) -> str:
        """What was found, and what to do if the baseline is strong."""
        text = (
            f"A predictor that sees no pixels, only when an image was taken, scores {self.accuracy:.1%} accuracy and "
            f"{self.macro_recall:.1%} macro recall on the {self.images} test images with a time (majority class "
            f"{self.majority:.1%}); {self.share_within_30s:.0%} of them have a training image of the same class within "
            f"{NEARBY_SECONDS} s"
        )
        if self.near_duplicates is not None:
            text += f"; pairs of near-duplicates across the split: {self.near_duplicates}"
        if self.is_strong:
            text += ". Scores on this split are partly due to the capture time; keep longer sessions together "
            text += "(split=session, a larger split.gap)"
        return text.replace("%", " %") + "."


def time_only_baseline(table: pd.DataFrame, near_duplicates: int | None = None) -> Leakage | None:
    """Predict the class of the test images of a split catalog from their times; `near_duplicates` is passed on.

    Returns:
        None where no training or no test image has a time.
    """
    taken = sessions.capture_seconds(table)
    labels = pd.factorize(table["label"], sort=True)[0]  # numbers in the order of the names
    train, test = (np.flatnonzero(~np.isnan(taken) & splits.in_split(table, split)) for split in ("train", "test"))
    if not len(test) or not len(train):
        return None
    train = train[np.lexsort((labels[train], taken[train]))]  # in one second: by class
    truth = labels[test]
    hits = labels[train[_nearest(taken[train], taken[test])]] == truth
    near = np.zeros(len(test), dtype=bool)
    for label in np.unique(truth):
        own, mine = taken[train[labels[train] == label]], truth == label
        if len(own):
            times = taken[test[mine]]
            near[mine] = np.abs(own[_nearest(own, times)] - times) <= NEARBY_SECONDS
    return Leakage(
        images=len(test),
        accuracy=float(hits.mean()),
        macro_recall=float(pd.Series(hits).groupby(truth).mean().mean()),
        majority=float((truth == np.bincount(labels[train]).argmax()).mean()),
        share_within_30s=float(near.mean()),
        near_duplicates=near_duplicates,
    )


def _nearest(sorted_times: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.intp]:
    """Positions in `sorted_times` of what is nearest to each of `times`; the earlier of two as near."""
    after = np.searchsorted(sorted_times, times).clip(max=len(sorted_times) - 1)
    before = (after - 1).clip(min=0)
    earlier = np.abs(times - sorted_times[before]) <= np.abs(sorted_times[after] - times)
    return np.where(earlier, before, after)
