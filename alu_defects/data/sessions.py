"""Sessions: images of one class that were taken in one burst, and show the same bars in the same light."""

import re
from datetime import datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alu_defects.errors import UserError

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S"

# 20180830164545, or as phones write it, 20180830_164545 and 20180830-164545123 with milliseconds
_TIME = re.compile(r"(?<![0-9])([0-9]{8})(?:([0-9]{6})|[_-]([0-9]{6})(?:[0-9]{3})?)(?![0-9])")


def capture_time(name: str) -> str:
    """The date and time in a file name in ISO 8601, such as 2018-08-30T16:45:45; "" where there is none."""
    for date, joined, separate in _TIME.findall(name):
        clock = joined or separate
        try:
            time = datetime.fromisoformat(f"{date}T{clock}")  # strptime takes ten times as long
        except ValueError:  # other digits, such as those of a bar code
            continue
        # there were no digital photographs before; Python 3.14 reads 24:00:00 as the next day
        if 1990 <= time.year < 2100 and clock < "24":
            return time.isoformat()
    return ""


def capture_seconds(table: pd.DataFrame) -> NDArray[np.float64]:
    """Capture times in seconds since 1970, (rows,); NaN for none, a `UserError` for one not in ISO 8601."""
    times = pd.to_datetime(table["time"], format=TIME_FORMAT, errors="coerce")
    wrong = times.isna() & (table["time"] != "")
    if wrong.any():
        path, time = table.loc[wrong, ["path", "time"]].iloc[0]
        raise UserError(f"{path}: time={time} is not written like 2018-08-30T16:45:45; correct it or leave it empty")
    return np.asarray((times - pd.Timestamp(0)).dt.total_seconds(), dtype=np.float64)


def find_sessions(table: pd.DataFrame, gap: float) -> NDArray[np.object_]:
    """The session of every image: its class and start, such as `scuffed 2018-08-30T16:45:45`, (rows,).

    A session continues while the next image of its class was taken at most `gap` seconds after the previous one,
    whatever was taken in between. An image without a time is a session of its own, named after its content.

    Raises:
        UserError: a gap below 0, or a time that cannot be read.
    """
    if not gap >= 0:
        raise UserError(f"split.gap={gap} must be 0 seconds or more")
    taken = capture_seconds(table)
    classes = pd.factorize(table["label"])[0]
    order = np.lexsort((taken, classes))
    starts = np.ones(len(table), dtype=bool)
    starts[1:] = (np.diff(classes[order]) != 0) | ~(np.diff(taken[order]) <= gap)  # ~: true for NaN as well
    first = table[["label", "time", "sha256"]].iloc[order[starts]]  # image of each
    names = [f"{label} {time or sha256[:12]}" for label, time, sha256 in first.to_numpy(dtype=object)]
    sessions = np.empty(len(table), dtype=object)
    sessions[order] = np.array(names, dtype=object)[np.cumsum(starts) - 1]
    return sessions
