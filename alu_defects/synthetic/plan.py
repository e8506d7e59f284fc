"""Which images a generated set holds, and when they were taken: sessions, blocks and days as in the real archives."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from alu_defects.errors import UserError
from alu_defects.tianchi_classes import CLASSES, DefectClass

# The images of a class in guangdong_round1_train2_20180916, in the order of CLASSES.
REAL_COUNTS = (1018, 39, 136, 47, 90, 248, 77, 54, 43, 35, 209)
# The main days on which a class was photographed there: in August and September 2018, as days since 29 August.
REAL_DAYS = (
    (13, 14, 15, 16, 17),
    (1, 2),
    (1, 2, 3, 8, 9, 13, 14, 17),
    (5,),
    (1, 8, 12, 14),
    (0, 1, 3, 10, 12, 14),
    (2, 7, 8, 9, 12, 13),
    (7, 8),
    (2, 3),
    (7,),
    (2, 5, 9, 12, 13, 14, 15),
)
FIRST_DAY = datetime(2018, 8, 29, 9)
MIN_SESSIONS = 6  # of a class, so that it can be split by session


class PlannedImage(NamedTuple):
    """One image of a generated set."""

    kind: DefectClass
    session: int  # counted within the class
    number: int  # within the session
    time: datetime


def plan_images(images: int, balance: str, seed: int) -> list[PlannedImage]:
    """Lay out a set of images in the order in which they were taken.

    What an image shows depends on the seed, its class, session and number alone; only its time depends on the rest.
    After the real archives: a third of the sessions have one image, the mean is nearly four; images of one session are
    9 to 58 seconds apart, sessions more than a minute; a class is photographed in blocks of some sessions.

    Args:
        images: number of images.
        balance: real (half are normal, 2 % cracked_coating) or equal.
        seed: of the generated set.

    Raises:
        UserError: another balance, or too few images for six sessions of every class.
    """
    blocks: list[tuple[float, float, DefectClass, list[tuple[int, int]]]] = []
    for kind, count, days in zip(CLASSES, class_counts(images, balance), REAL_DAYS, strict=True):
        rng = np.random.default_rng([seed, 0, kind.id])
        sessions = list(enumerate(_sample_session_sizes(rng, count)))
        while sessions:
            length = int(rng.geometric(1 / 3))
            block, sessions = sessions[:length], sessions[length:]
            blocks.append((float(rng.choice(days)), rng.random(), kind, block))
    rng = np.random.default_rng([seed, 1])
    time, planned = FIRST_DAY, []
    for day, _, kind, block in sorted(blocks, key=lambda b: b[:2]):
        time = max(time + _sample_pause(rng, 180, 1.3, 60, 7200), FIRST_DAY + timedelta(days=day))
        for session, size in block:
            for number in range(size):
                planned.append(PlannedImage(kind, session, number, time))
                time += _sample_pause(rng, 16, 0.45, 9, 58)
            time += _sample_pause(rng, 170, 0.9, 61, 3000)
    return planned


def class_counts(images: int, balance: str) -> list[int]:
    """Images of each class, in the order of CLASSES, that sum to `images` (largest remainders)."""
    shares = {"real": np.array(REAL_COUNTS), "equal": np.ones(len(CLASSES))}.get(balance)
    if shares is None:
        raise UserError(f"data.synthetic.balance={balance} is not one of real, equal")
    wanted = images * shares / shares.sum()
    counts = np.floor(wanted).astype(int)
    for index in np.argsort(counts - wanted, kind="stable")[: images - counts.sum()]:
        counts[index] += 1
    if counts.min() < MIN_SESSIONS:
        least = int(np.ceil(MIN_SESSIONS * shares.sum() / shares.min()))
        raise UserError(
            f"data.synthetic.images={images} leaves {CLASSES[int(counts.argmin())].name} {counts.min()} images; "
            f"with data.synthetic.balance={balance} give {least} or more"
        )
    return [int(count) for count in counts]


def _sample_session_sizes(rng: np.random.Generator, count: int) -> Iterator[int]:
    largest = min(25, max(1, count // MIN_SESSIONS))
    while count > 0:
        size = min(int(np.ceil(rng.lognormal(0.5, 1.25))), largest, count)
        yield size
        count -= size


def _sample_pause(rng: np.random.Generator, median: float, spread: float, low: float, high: float) -> timedelta:
    return timedelta(seconds=round(float(np.clip(median * rng.lognormal(0, spread), low, high))))
