"""How the Tianchi archives are packed: what the folders above a picture say about it.

round 1   <archive>/无瑕疵样本/   <archive>/瑕疵样本/<class>/   guangdong_round1_test_…/
ali2018   <English class>/
APSPC     JPEGImages/ with Annotations/ beside it, or XML beside each picture
round 2   <archive>/无瑕疵图片/   <archive>/单瑕疵图片/<class>/   <archive>/多瑕疵图片/   guangdong_round2_test_…/
"""

import re
from dataclasses import dataclass

from alu_defects.taxonomy import (
    CLASSES,
    DEFECTS_FOLDER,
    ROUND2_SEVERAL_FOLDER,
    ROUND2_SINGLE_FOLDER,
    ROUNDS,
)

DEFECT_FOLDERS = {1: DEFECTS_FOLDER, 2: ROUND2_SINGLE_FOLDER}  # of each round; hold a folder a class

_TEST_SET = re.compile(r"guangdong_round([12])_test_")
_ALI2018 = {c.ali2018.casefold(): c.name for c in CLASSES}
_TRAIN_DATE = re.compile(r"guangdong_round[12]_train.*_([0-9]{8})")

Folders = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where a picture lies."""

    round: int
    archive: str
    labels: tuple[str, ...] = ()
    unlabelled: bool = False  # of a test set; else, without labels, the annotation has to name them
    unknown: str = ""  # a folder that should be a class


def place(folders: Folders, annotation: str) -> Place | None:
    """Where a picture belongs; None: nowhere.

    Args:
        folders: names of those above the picture, the root's own first.
        annotation: the file of that kind that belongs to the picture, or "".
    """
    for depth, folder in enumerate(folders):
        for rule in (_train, _test, _ali2018):
            if found := rule(folders[:depth], folder, folders[depth + 1 :]):
                return found
    return _annotated(folders, annotation) if annotation else None


def issued(archive: str) -> str:
    """When the organisers issued a train archive, YYYYMMDD; "", older than any, for what others packed."""
    found = _TRAIN_DATE.match(archive)
    return found[1] if found else ""


def _train(above: Folders, folder: str, below: Folders) -> Place | None:
    archive = above[-1] if above else ""
    for number, (normal, *defects) in ROUNDS.items():
        if folder == normal.folder:
            return Place(number, archive, (normal.name,))
        if folder == DEFECT_FOLDERS[number] and below:
            labels = tuple(c.name for c in defects if c.folder == below[0])
            return Place(number, archive, labels, unknown="" if labels else below[0])
    return Place(2, archive) if folder == ROUND2_SEVERAL_FOLDER else None


def _test(above: Folders, folder: str, below: Folders) -> Place | None:
    found = _TEST_SET.match(folder)
    return Place(int(found[1]), folder, unlabelled=True) if found else None


def _ali2018(above: Folders, folder: str, below: Folders) -> Place | None:
    name = _ALI2018.get(folder.casefold())
    return Place(1, _top(above), (name,)) if name else None


def _annotated(folders: Folders, annotation: str) -> Place:
    above = folders[:-1] if folders[-1] == "JPEGImages" else folders
    return Place(1 if annotation.endswith(".xml") else 2, _top(above))


def _top(folders: Folders) -> str:
    """The topmost folder below the root; the root's name where there is none."""
    return folders[:2][-1] if folders else ""
