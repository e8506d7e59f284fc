"""Which images belong together: those of one session, one piece, one folder, or those that look alike.

`split=session` and `split=kfold` keep them together. The column `session` of the catalog names the group of each image.
"""

import logging
import re
from collections.abc import Callable
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alu_defects.data import sessions
from alu_defects.errors import UserError, counted, did_you_mean

log = logging.getLogger(__name__)

FindSimilar = Callable[[pd.DataFrame], NDArray[np.int64]]  # rows of a catalog → number of a group for each, (rows,)

GROUPINGS = ("auto", "time", "similar", "folder")
MAX_SHARE = 0.5  # of a class or of all images in one group: what remains is too little to hold out and to train on
NOT_COLUMNS = frozenset({"path", "label", "labels", "boxes", "sha256", "session", "split"})
_FIX = "give as data.group a column, or a regular expression on the path, that names the piece"


def find_groups(
    table: pd.DataFrame, group: str, gap: float, find_similar: FindSimilar | None = None
) -> NDArray[np.object_]:
    """The group of every image, (rows,).

    Args:
        table: the catalog.
        group: time (sessions, see `sessions.find_sessions`), similar (near-duplicates), auto (the column group for the
            images that have one there, time for others that have one, similar for the rest), folder, a column of the
            catalog, or a regular expression that is searched in the path: its first group, or the whole match, names
            the group.
        gap: the longest pause within a session, in seconds.
        find_similar: needed for similar, and by auto for images without a time.

    Raises:
        UserError: no such column, and no regular expression that matches every path; an image whose column is empty; or
            what `find_sessions` and `find_similar` raise.
    """
    found = sessions.find_sessions(table, gap)  # also where they do not count: a wrong gap or time is an error
    timed = (table["time"] != "").to_numpy(dtype=bool)
    if not len(table):
        return found
    if group == "time":
        if not timed.all():
            message = "%d of %d images have no capture time: each is a session of its own"
            log.warning(message, (~timed).sum(), len(table))
        return found
    if group in ("auto", "similar"):
        others = np.ones(len(table), dtype=bool)
        if group == "auto":
            named = _given_groups(table) != ""
            found[named] = _given_groups(table)[named]
            others = ~timed & ~named
        if others.any():
            assert find_similar is not None
            found[others] = _name_groups(table[others], find_similar(table[others]))
        return found
    if group == "folder":
        return np.array([str(PurePosixPath(path).parent) for path in table["path"]], dtype=object)
    if group in table.columns and group not in NOT_COLUMNS:
        return _of_column(table, group)
    return _of_paths(table, group)


def _given_groups(table: pd.DataFrame) -> NDArray[np.object_]:
    """The column group of a table of labels; "" where there is none."""
    given = table["group"] if "group" in table else pd.Series("", index=table.index)
    return given.to_numpy(dtype=object)


def describe(table: pd.DataFrame, group: str) -> str:
    """How the images were grouped, with the number of groups and the size of the largest, for people."""
    sizes = table["session"].value_counts()
    by = {"time": "capture time", "similar": "what looks alike", "folder": "folder"}.get(group, group)
    if group == "auto":
        named = _given_groups(table) != ""
        timed = int(((table["time"] != "") & ~named).sum())
        ways = {"the column group": int(named.sum()), "capture time": timed}
        ways["what looks alike"] = len(table) - sum(ways.values())
        used = {way: count for way, count in ways.items() if count}
        by = " and ".join(
            way if len(used) == 1 else f"{way} ({counted(count, 'image')})" for way, count in used.items()
        )
    return f"{len(sizes)} groups by {by}; the largest, {sizes.index[0]}, has {sizes.iloc[0]} of {len(table)} images"


def check_sizes(table: pd.DataFrame, group: str) -> None:
    """Refuse with a `UserError` groups that leave nothing to split; warn of one that holds most of a class.

    Sessions of images with a time are left alone: they are what was photographed.
    """
    known = (table["time"] != "") | (_given_groups(table) != "")
    if not len(table) or group == "time" or (group == "auto" and known.all()):
        return
    sizes = table["session"].value_counts()
    if sizes.iloc[0] > MAX_SHARE * len(table):
        why, fix = "", "give another data.group"
        if group in ("auto", "similar"):
            why, fix = ": they look alike, as with a camera that does not move", _FIX
        raise UserError(
            f"data.group={group} puts {sizes.iloc[0]} of {len(table)} images into one group ({sizes.index[0]}{why}); "
            f"a split that keeps it together would measure nothing. {fix}, or choose split=random, which ignores groups"
        )
    for label, own in table.groupby("label"):
        of_class = own["session"].value_counts()
        if 2 < of_class.iloc[0] > MAX_SHARE * len(own):
            log.warning(
                "%d of %d images of the class %s are in one group (%s): they are all in the same split. If they are "
                "not the same piece, %s",
                *(of_class.iloc[0], len(own), label, of_class.index[0], _FIX),
            )


def _name_groups(table: pd.DataFrame, numbers: NDArray[np.int64]) -> NDArray[np.object_]:
    """Names that do not depend on the order of the rows: after the image of a group with the smallest SHA-256."""
    first = table.assign(number=numbers).sort_values("sha256").drop_duplicates("number").set_index("number")
    names = first["label"] + " " + first["sha256"].str[:12]
    return np.asarray(pd.Series(numbers).map(names), dtype=object)


def _of_column(table: pd.DataFrame, column: str) -> NDArray[np.object_]:
    if len(empty := table.loc[table[column] == "", "path"]):
        raise UserError(
            f"data.group={column}: the column is empty for {len(empty)} of {len(table)} images, such as "
            f"{empty.iloc[0]}; fill it, with a value of its own for an image that belongs to no other"
        )
    return table[column].to_numpy(dtype=object)


def _of_paths(table: pd.DataFrame, pattern: str) -> NDArray[np.object_]:
    columns = [column for column in table.columns if column not in {*NOT_COLUMNS, *GROUPINGS}]
    words = [*GROUPINGS, *columns]
    near = did_you_mean(pattern, words)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"data.group={pattern} is not one of {', '.join(words)}, and no regular expression either ({error}){near}"
        ) from error
    matches = [expression.search(path) for path in table["path"]]
    found = [match and match[1 if expression.groups else 0] for match in matches]
    if missing := [path for path, name in zip(table["path"], found, strict=True) if not name]:
        raise UserError(
            f"data.group={pattern} is not one of {', '.join(words)}, and as a regular expression it does not match "
            f"{len(missing)} of the {len(table)} paths, such as {missing[0]}{near}"
        )
    return np.array(found, dtype=object)
