"""What a split gives away: near-duplicates of training images, and the class by the capture time, without pixels."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alu_defects.data import duplicates, sessions, splits

NEARBY_SECONDS = 30  # seconds; of 81 % of the Tianchi images, another of the same class was taken within them
# Of the val and test images, with a near-duplicate in train. They are right by memory, so a score is too good by about
# their share; one point is the size of the differences between models that people read from such scores.
MAX_NEAR_SHARE = 0.01
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
        if self.is_strong:
            text += ". Scores on this split are partly due to the capture time; keep longer sessions together "
            text += "(split=session, a larger split.gap)"
        return text.replace("%", " %") + "."


@dataclass(frozen=True)
class NearDuplicates:
    """Val and test images that look like a training image: what is remembered, not recognised."""

    pairs: int  # of a training image and one of val or test
    images: int  # val and test images in such a pair
    held_out: int  # all val and test images

    @classmethod
    def count(cls, pairs: Iterable[duplicates.Int64], table: pd.DataFrame) -> "NearDuplicates":
        """Count those of a split catalog, given pairs of its rows in portions of (P, 2)."""
        trains = (table["split"] == "train").to_numpy(dtype=bool)
        alike, number = np.zeros(len(table), dtype=bool), 0
        for portion in pairs:
            across = duplicates.across_splits(portion, table)
            alike[across] = True
            number += len(across)
        return cls(number, int((alike & ~trains).sum()), int((~trains).sum()))

    @property
    def are_many(self) -> bool:
        """Whether scores on this split are too good because of them."""
        return self.images > MAX_NEAR_SHARE * self.held_out

    def sentence(self) -> str:
        """What was found, and what to do if there are many."""
        if not self.are_many:
            return f"Near-duplicates across the split: {self.images} of {self.held_out} val and test images."
        share = f"{self.images / max(1, self.held_out):.1%}".replace("%", " %")
        return (
            f"{self.images} of {self.held_out} val and test images ({share}) have a near-duplicate in train "
            f"({self.pairs} pairs): scores on this split measure memory. Keep images of one piece together: "
            "split=session with data.group=similar, a column or a regular expression on the path that names it"
        )


def time_only_baseline(table: pd.DataFrame) -> Leakage | None:
    """Predict the class of the test images of a split catalog from their times.

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
    )


def _nearest(sorted_times: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.intp]:
    """Positions in `sorted_times` of what is nearest to each of `times`; the earlier of two as near."""
    after = np.searchsorted(sorted_times, times).clip(max=len(sorted_times) - 1)
    before = (after - 1).clip(min=0)
    earlier = np.abs(times - sorted_times[before]) <= np.abs(sorted_times[after] - times)
    return np.where(earlier, before, after)
