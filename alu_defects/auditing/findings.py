"""What an audit finds: how severe it is, of which kind, and in which files."""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import pandas as pd

from alu_defects.data.catalog import EXPECTED
from alu_defects.data.files import Reason

COLUMNS = ("severity", "kind", "path", "other", "detail")


class Severity(StrEnum):
    """How severe a finding is; the most severe first."""

    ERROR = "error"  # training would fail
    WARNING = "warning"  # training would continue, with something that a person should look at
    INFO = "info"  # as it should be, or harmless


class Kind(StrEnum):
    """What is wrong with an image or a pair of them; excluded files have a `Reason` instead."""

    CANNOT_START = "the images cannot be cataloged or split"
    CLASSES = "classes that may not be meant"  # of the whole data set
    SPLIT = "groups that the split cuts"  # of the whole data set
    EMPTY = "file of zero bytes"
    NO_IMAGE = "content is no image"
    TRUNCATED = "truncated image"
    BROKEN = "broken image"
    NEAR_ACROSS = "near-duplicates in train and in evaluation"  # detail: classes, splits, bits of the hash that differ
    NEAR_LABELS = "near-duplicates under two labels"
    NEAR = "near-duplicates"
    OTHER_FORMAT = "other format than the file name says"
    ABOVE_BITS = "16-bit image with values above data.bits"
    TINY = "tiny image"
    HUGE = "huge image"
    NARROW = "very narrow image"
    ONE_COLOUR = "image of a single colour"
    FRAMES = "several frames, of which the first is taken"
    TURNED = "turned by its EXIF orientation"
    SIXTEEN_BITS = "images with 16 bits a channel"  # of the whole data set


UNDECODABLE = frozenset({Kind.EMPTY, Kind.NO_IMAGE, Kind.TRUNCATED, Kind.BROKEN, Kind.HUGE})
_FATAL = UNDECODABLE | {Kind.ABOVE_BITS}  # if training reads them
_HARMLESS = frozenset({Kind.NEAR, Kind.FRAMES, Kind.TURNED, Kind.SIXTEEN_BITS}) | EXPECTED
_PAIRS = frozenset(
    {Reason.SAME_NAME, Reason.SAME_CONTENT, Reason.IN_TWO_SPLITS, Reason.TWO_LABELS, Reason.LINKED_AGAIN}
)

FIXES: dict[str, str] = {
    Kind.CLASSES: "Each class folder, and each word of a table's label, is a class of its own.",
    Kind.SPLIT: "Scores on this split measure memory: split=session keeps groups together.",
    Kind.EMPTY: "Copy it again from the camera or the archive, or remove it.",
    Kind.NO_IMAGE: "Replace it by the image, or remove it.",
    Kind.TRUNCATED: "Copy it again from the camera or the archive, or remove it.",
    Kind.BROKEN: "Save it again with 8 or 16 bits a channel, replace it, or remove it.",
    Kind.NEAR_ACROSS: "The model is tested on what it has seen: remove one; split=session keeps sessions together.",
    Kind.NEAR_LABELS: "One of the two labels is probably wrong: move an image to the other class, or remove one.",
    Kind.NEAR: "They count double in their split.",
    Kind.OTHER_FORMAT: "It is read by its content; rename it for other programs.",
    Kind.ABOVE_BITS: "Give data.bits=auto, or the bits of the camera; or remove it if it is of another camera.",
    Kind.SIXTEEN_BITS: "White is 2^bits − 1 in all of them; if the camera has more bits, give them as data.bits.",
    Kind.TINY: "Networks halve an image five times: nothing may be left of it.",
    Kind.HUGE: "It may be an attack on the memory: remove it. If it is of your camera, give a larger data.max_pixels.",
    Kind.NARROW: "It is squashed: data.resize=letterbox keeps its proportions, or take them for data.image_size.",
    Kind.ONE_COLOUR: "The camera or the copying failed: remove it.",
    Reason.BROKEN: "Restore the file that it links to, or remove the link.",
    Reason.SAME_CONTENT: "One is kept.",
    Reason.IN_TWO_SPLITS: "That of test is kept, else that of val: scores are then of images that were not trained on.",
    Reason.NOT_IN_TABLE: "Add it to the table, with its label, or leave it as it is.",
    Reason.TWO_LABELS: "Nobody knows which label is right: look at the image and remove the wrong copy.",
    Reason.SAME_NAME: "The archives overlap; that of the newest archive is kept.",
    Reason.FOLDER_FOR_FILE: "Rename the folder if it holds images of the class.",
    Reason.NO_FILE: "Remove it, or move it elsewhere.",
    Reason.UNKNOWN_CLASS: "Move its images into the folder of a class, or leave it as it is.",
    Reason.NO_CLASS_FOLDER: "Move it into the folder of its class.",
}


class Finding(NamedTuple):
    """One line of audit.csv. Paths are relative to the root, with forward slashes."""

    severity: Severity
    kind: Kind | Reason
    path: str
    other: str = ""  # the second of a pair
    detail: str = ""


def severity_of(kind: Kind | Reason, *, fatal: bool = False) -> Severity:
    """How severe a kind is; `fatal` where training would read the image."""
    if kind is Kind.CANNOT_START or (fatal and kind in _FATAL):
        return Severity.ERROR
    return Severity.INFO if kind in _HARMLESS else Severity.WARNING


def findings_of_excluded(excluded: pd.DataFrame, labels: dict[str, str]) -> list[Finding]:
    """Findings on excluded files: a pair once, a folder once for all that it holds; `labels` by path."""
    inside = excluded.loc[excluded["reason"] == Reason.FOLDER_FOR_FILE, "detail"].value_counts()
    found: dict[frozenset[str], Finding] = {}
    for path, word, detail in zip(excluded["path"], excluded["reason"], excluded["detail"], strict=True):
        reason = Reason(word)
        other, said = (detail, "") if reason in _PAIRS else ("", detail)
        if reason is Reason.TWO_LABELS:
            said = f"{labels.get(path)} and {labels.get(other)}; both are excluded"
        if reason is Reason.FOLDER_FOR_FILE:
            if detail:  # a file in such a folder, which has a line of its own
                continue
            said = f"excluded with all that lies in it, files and folders: {inside.get(path, 0)}"
        found.setdefault(frozenset({path, other}), Finding(severity_of(reason), reason, path, other, said))
    return list(found.values())


def findings_table(findings: Iterable[Finding]) -> pd.DataFrame:
    """All findings as text, the most severe first, then by kind and path."""
    severities, kinds = list(Severity), [*Kind, *Reason]
    order = sorted(findings, key=lambda f: (severities.index(f.severity), kinds.index(f.kind), f.path, f.other))
    rows = [(f.severity.value, f.kind.value, f.path, f.other, f.detail) for f in order]
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=str)
