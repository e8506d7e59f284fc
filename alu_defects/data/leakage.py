"""What a split gives away: how well the time of a picture alone, without its pixels, foretells the class."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alu_defects.data import sessions, splits

NEAR = 30  # seconds; of 81 % of the Tianchi pictures, another of the same class was taken within them
TELLING = 0.2  # accuracy above that of the majority class from which on the clock has its part in every score


@dataclass(frozen=True)
class Leakage:
    """What a predictor that sees only the capture time scores on the test pictures, as fractions.

    Its guess is the class of the training picture that was taken nearest in time.
    """

    pictures: int  # test pictures with a time
    accuracy: float
    macro_recall: float  # over the classes among these pictures
    majority: float  # accuracy of always guessing the most frequent class of the training pictures
    share_within_30s: float  # test pictures with a training picture of their class within 30 s
    near_duplicates: int | None  # pairs of a training and a val or test picture that look alike; None: not counted

    @property
    def telling(self) -> bool:
        """Whether the clock is so good that the scores of models must be read beside it."""
        return self.accuracy - self.majority > TELLING

    def sentence(self) -> str:
        """For a person: what was found, and what to do where the clock is too good."""
        text = (
            "A predictor that sees no pixels, only when a picture was taken, "
            f"scores {self.accuracy:.1%} accuracy and {self.macro_recall:.1%} macro recall "
            f"on the {self.pictures} test pictures with a time (majority class {self.majority:.1%}); "
            f"{self.share_within_30s:.0%} of them have a training picture of the same class within {NEAR} s"
        )
        if self.near_duplicates is not None:
            text += f"; pairs of near-duplicates across the split: {self.near_duplicates}"
        if self.telling:
            text += ". Scores on this split are partly the clock's; "
            text += "keep longer sessions together (split=session, a larger split.gap)"
        return text.replace("%", " %") + "."


def probe(table: pd.DataFrame, near_duplicates: int | None = None) -> Leakage | None:
    """Foretell the class of the test pictures from their times.

    Args:
        table: a catalogue with its column `split`.
        near_duplicates: pairs across the split that look alike, if they were counted; passed on.

    Returns:
        None where no training or no test picture has a time.
    """
    taken = sessions.seconds(table)
    labels = pd.factorize(table["label"], sort=True)[0]  # numbers in the order of the names
    timed = ~np.isnan(taken)
    test = np.flatnonzero(timed & splits.rows(table, "test"))
    train = np.flatnonzero(timed & splits.rows(table, "train"))
    if not len(test) or not len(train):
        return None
    train = train[np.lexsort((labels[train], taken[train]))]  # in one second: by class
    hits = labels[train[_nearest(taken[train], taken[test])]] == labels[test]
    truth = labels[test]
    near = np.zeros(len(test), dtype=bool)
    for label in np.unique(truth):
        own, mine = train[labels[train] == label], truth == label
        if len(own):
            times = taken[test[mine]]
            near[mine] = np.abs(taken[own][_nearest(taken[own], times)] - times) <= NEAR
    classes, counts = np.unique(labels[train], return_counts=True)
    return Leakage(
        pictures=len(test),
        accuracy=float(hits.mean()),
        macro_recall=float(np.mean([hits[truth == label].mean() for label in np.unique(truth)])),
        majority=float((truth == classes[counts.argmax()]).mean()),
        share_within_30s=float(near.mean()),
        near_duplicates=near_duplicates,
    )


def _nearest(sorted_times: NDArray[np.float64], times: NDArray[np.float64]) -> NDArray[np.intp]:
    """Positions in `sorted_times` of what is nearest to each of `times`; the earlier of two as near."""
    after = np.searchsorted(sorted_times, times).clip(max=len(sorted_times) - 1)
    before = (after - 1).clip(min=0)
    earlier = np.abs(times - sorted_times[before]) <= np.abs(sorted_times[after] - times)
    return np.where(earlier, before, after)
