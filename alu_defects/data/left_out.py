"""What lies below a root and does not become a row of the catalogue, and why."""

from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """Why something is left out; `LeftOut.detail` says what the reason alone does not."""

    HIDDEN = "hidden"
    NOT_A_PICTURE = "not a picture"
    FOLDER_FOR_FILE = "a folder where a file is expected"  # and all it holds
    LINKED_AGAIN = "a folder that was entered before"  # detail: where
    NO_CLASS_FOLDER = "lies in no class folder"
    UNKNOWN_CLASS = "unknown class folder"  # detail: the folder
    NO_ANNOTATION = "no usable annotation"  # detail: what is wrong with it
    NO_PICTURE = "annotation without a picture"
    SAME_NAME = "same file name"  # detail: the picture that is kept
    SAME_CONTENT = "same content"  # detail: the picture that is kept
    TWO_LABELS = "same content under another label"  # detail: the other picture, left out as well
    CLASS_OTHER = "class other"
    ROUND1 = "round 1; data.round=1 reads it"
    ROUND2 = "round 2; data.round=2 reads it"


# as the archives and file systems are; all others are worth a warning
EXPECTED = frozenset(
    {
        Reason.HIDDEN,
        Reason.SAME_NAME,
        Reason.SAME_CONTENT,
        Reason.CLASS_OTHER,
        Reason.ROUND1,
        Reason.ROUND2,
    }
)


class LeftOut(NamedTuple):
    """One file or folder that is left out."""

    path: str  # relative to the root, with forward slashes
    reason: Reason
    detail: str = ""
    archive: str = ""
    label: str = ""
