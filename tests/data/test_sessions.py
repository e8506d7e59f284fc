"""Sessions: where one ends, what it is called, and images without a time."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from alu_defects.data import sessions
from alu_defects.errors import UserError

SHOTS = [
    ("a", "2018-08-30T16:46:45"),  # 60 s after the next
    ("a", "2018-08-30T16:45:45"),
    ("b", "2018-08-30T16:46:00"),  # another class in between
    ("a", "2018-08-30T16:47:46"),  # 61 s after the first
    ("a", ""),
    ("b", "2018-08-31T16:46:01"),
]
TABLE = pd.DataFrame(SHOTS, columns=["label", "time"], dtype=str).assign(
    path=[f"{n}.jpg" for n in range(len(SHOTS))],
    sha256=[hashlib.sha256(bytes([n])).hexdigest() for n in range(len(SHOTS))],
)


def test_a_session_continues_while_its_class_is_shot_again_within_the_gap() -> None:
    assert sessions.find_sessions(TABLE, 60).tolist() == [
        "a 2018-08-30T16:45:45",
        "a 2018-08-30T16:45:45",
        "b 2018-08-30T16:46:00",
        "a 2018-08-30T16:47:46",
        f"a {TABLE['sha256'][4][:12]}",
        "b 2018-08-31T16:46:01",
    ]
    assert sessions.find_sessions(TABLE, 61)[3] == "a 2018-08-30T16:45:45"
    assert len(set(sessions.find_sessions(TABLE, 0))) == len(TABLE)


def test_without_times_every_image_is_a_session() -> None:
    table = TABLE.assign(time="")
    assert np.isnan(sessions.capture_seconds(table)).all()
    assert sessions.find_sessions(table, 60).tolist() == (table["label"] + " " + table["sha256"].str[:12]).tolist()


def test_times_are_seconds() -> None:
    taken = sessions.capture_seconds(TABLE)
    assert taken[0] == pd.Timestamp("2018-08-30T16:46:45").timestamp()
    np.testing.assert_array_equal(taken - taken[1], [60, 0, 15, 121, np.nan, 86416])


@pytest.mark.parametrize("time", ["30.8.2018", "2018-08-30", "2018-13-01T00:00:00", "2018-08-30T16:45:45Z"])
def test_a_time_that_cannot_be_read_is_named(time: str) -> None:
    table = TABLE.assign(time=[*TABLE["time"][:-1], time])
    with pytest.raises(UserError, match=rf"5\.jpg: time={time} is not written like"):
        sessions.find_sessions(table, 60)


@pytest.mark.parametrize("gap", [-1, float("nan")])
def test_a_gap_below_zero_is_refused(gap: float) -> None:
    with pytest.raises(UserError, match=rf"split\.gap={gap}"):
        sessions.find_sessions(TABLE, gap)
