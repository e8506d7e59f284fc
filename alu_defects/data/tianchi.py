"""The archives of Tianchi 2018, any number of them extracted in any layout below a root → catalog.

What the folders above an image mean:

round 1   <archive>/无瑕疵样本/   <archive>/瑕疵样本/<class>/   guangdong_round1_test_…/
ali2018   <English class>/
APSPC     JPEGImages/ with Annotations/ beside it, or XML beside each image
round 2   <archive>/无瑕疵图片/   <archive>/单瑕疵图片/<class>/   <archive>/多瑕疵图片/   guangdong_round2_test_…/

Labels that people have reported as wrong are in corrections.csv. A row applies to images of that name in the class
`was`. Without another label in the row, the label is doubtful and kept.
"""

import csv
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alu_defects.data import annotations, catalog, duplicates
from alu_defects.data.catalog import FoundImages, ImageRecord
from alu_defects.data.files import Excluded, Reason, is_image, list_files
from alu_defects.errors import UserError
from alu_defects.tianchi_classes import (
    CLASSES,
    DEFECTS_FOLDER,
    OTHER,
    ROUND2_SEVERAL_FOLDER,
    ROUND2_SINGLE_FOLDER,
    ROUNDS,
)

log = logging.getLogger(__name__)

DEFECT_FOLDERS = {1: DEFECTS_FOLDER, 2: ROUND2_SINGLE_FOLDER}  # of each round, with a folder for each class
CORRECTIONS_FILE = Path(__file__).with_name("corrections.csv")
_REASON_OF_ROUND = {1: Reason.ROUND1, 2: Reason.ROUND2}
_TEST_SET = re.compile(r"guangdong_round([12])_test_")
_TRAIN_DATE = re.compile(r"guangdong_round[12]_train.*_([0-9]{8})")
_ALI2018 = {c.ali2018.casefold(): c.name for c in CLASSES}


def check_round(round: int) -> None:
    """Refuse with a `UserError` a round that is none of `ROUNDS`."""
    if round not in ROUNDS:
        raise UserError(f"data.round={round} does not exist; give one of {', '.join(map(str, ROUNDS))}")


def find_images(root: Path, *, round: int = 1, include_other: bool = False, corrections: bool = True) -> FoundImages:
    """Catalog the images of one round in all archives below the root, which may be an archive itself.

    The archives overlap: of several files of one name or content only that of the newest archive is kept.

    Args:
        root: an absolute path.
        round: 1 or 2; their classes differ.
        include_other: keep the class other of round 1, which the paper excludes.
        corrections: fix the labels that are known to be wrong.

    Raises:
        UserError: no such round, or no images of it below the root.
    """
    check_round(round)
    found, excluded = list_files(root)
    outcomes = list(_read_all(root, found, round))
    images = [outcome for outcome in outcomes if isinstance(outcome, ImageRecord)]
    excluded += [outcome for outcome in outcomes if isinstance(outcome, Excluded)]
    if not images:
        raise UserError(_explain_no_images(root, round, excluded))
    images.sort(key=lambda image: archive_date(image.archive), reverse=True)
    images, repeated = duplicates.exclude_same_name(images)
    if corrections and round == 1:
        images = correct_labels(images)
    images, dead = catalog.with_hashes(root, images)
    images, copies = duplicates.exclude_same_content(images)
    excluded += repeated + dead + copies
    if not include_other:
        excluded += [p.exclude(Reason.CLASS_OTHER) for p in images if p.label == OTHER.name]
        images = [p for p in images if p.label != OTHER.name]
    return catalog.build_catalog(images, excluded, [c.name for c in ROUNDS[round]])


def _read_all(root: Path, found: list[str], round: int) -> Iterator[ImageRecord | Excluded]:
    notes = {path for path in found if PurePosixPath(path).suffix in annotations.SUFFIXES}
    used: set[str] = set()
    for path in found:
        if is_image(path):
            note = annotations.find_annotation(path, notes)
            used.add(note)
            yield _read_image(root, path, note, round)
        elif path not in notes:
            yield Excluded(path, Reason.NOT_AN_IMAGE)
    yield from (Excluded(path, Reason.NO_IMAGE) for path in notes - used)


def _read_image(root: Path, path: str, note: str, round: int) -> ImageRecord | Excluded:
    """What the folders and the annotation, whose path is `note` or "", say about an image."""
    location = find_location((root.name, *PurePosixPath(path).parent.parts), note)
    if location is None:
        return Excluded(path, Reason.NO_CLASS_FOLDER)
    image = ImageRecord(path, location.labels, location.archive)
    if location.round != round:
        return image.exclude(_REASON_OF_ROUND[location.round])
    if location.unknown:
        return image.exclude(Reason.UNKNOWN_CLASS, location.unknown)
    return image if location.unlabelled else _labels_from_boxes(root, image, note, round)


def _labels_from_boxes(root: Path, image: ImageRecord, note: str, round: int) -> ImageRecord | Excluded:
    """The image with its boxes and, where no folder names a class, with their classes."""
    if not note:
        return image if image.labels else image.exclude(Reason.NO_ANNOTATION, "missing")
    names = {word: c.name for c in ROUNDS[round] for word in (c.name, c.folder, c.submission, c.apspc) if word}
    try:
        boxes = annotations.read_boxes(root / note, names)
    except annotations.AnnotationError as error:
        if not image.labels:
            return image.exclude(Reason.NO_ANNOTATION, f"{note} {error}")
        log.warning("%s %s; its image is kept without boxes", note, error)
        return image
    marked = {box.label for box in boxes}
    if missing := set(image.labels) - marked:
        log.warning("%s has no box of %s, the class of its folder, which is kept", note, ", ".join(missing))
    labels = image.labels or tuple(c.name for c in ROUNDS[round] if c.name in marked)
    return replace(image, labels=labels, boxes=annotations.to_json(boxes))


def _explain_no_images(root: Path, round: int, excluded: list[Excluded]) -> str:
    """The error message where a root has no images of a round."""
    for other, reason in _REASON_OF_ROUND.items():
        if count := sum(one.reason == reason for one in excluded):
            held = f"no images of round {round}, but {count} of round {other}"
            return f"data.root={root} holds {held}; set data.round={other}"
    unknown = sorted({one.detail for one in excluded if one.reason == Reason.UNKNOWN_CLASS})
    return (
        f"data.root={root} holds no {ROUNDS[round][0].folder}/ or {DEFECT_FOLDERS[round]}/<class>/"
        + (f" (but {', '.join(unknown)}, no classes)" if unknown else "")
        + f"; give the folder into which the round-{round} archives were extracted. "
        "If the names look garbled, extract again with unzip -O GBK"
    )


Folders = tuple[str, ...]


class Location(NamedTuple):
    """What the folders above an image say about it."""

    round: int
    archive: str
    labels: tuple[str, ...] = ()
    unlabelled: bool = False  # in a test set; elsewhere the annotation of an image without labels has to name them
    unknown: str = ""  # a folder that should be a class and is none


def find_location(folders: Folders, annotation: str) -> Location | None:
    """What the folders above an image (the root first) and its annotation file ("" for none) say; None: nothing."""
    for depth, folder in enumerate(folders):
        if found := _train(folders[:depth], folder, folders[depth + 1 :]):
            return found
        if test := _TEST_SET.match(folder):
            return Location(int(test[1]), folder, unlabelled=True)
        if name := _ALI2018.get(folder.casefold()):
            return Location(1, _top(folders[:depth]), (name,))
    if not annotation:
        return None
    above = folders[:-1] if folders[-1] == "JPEGImages" else folders
    return Location(1 if annotation.endswith(".xml") else 2, _top(above))


def archive_date(archive: str) -> str:
    """The date of a training archive of the organisers, YYYYMMDD; "", which sorts first, for archives of others."""
    found = _TRAIN_DATE.match(archive)
    return found[1] if found else ""


def _train(above: Folders, folder: str, below: Folders) -> Location | None:
    archive = above[-1] if above else ""
    for number, (normal, *defects) in ROUNDS.items():
        if folder == normal.folder:
            return Location(number, archive, (normal.name,))
        if folder == DEFECT_FOLDERS[number] and below:
            labels = tuple(c.name for c in defects if c.folder == below[0])
            return Location(number, archive, labels, unknown="" if labels else below[0])
    return Location(2, archive) if folder == ROUND2_SEVERAL_FOLDER else None


def _top(folders: Folders) -> str:
    """The topmost folder below the root; the root's name if there is none."""
    return folders[:2][-1] if folders else ""


def correct_labels(images: Sequence[ImageRecord]) -> list[ImageRecord]:
    """The images with corrected labels; logs which labels are changed and which are doubtful."""
    with CORRECTIONS_FILE.open(encoding="utf-8", newline="") as file:
        known = {(row["name"], row["was"]): row["label"] for row in csv.DictReader(file)}
    concerned = {p.path: known[p.name, p.label] for p in images if (p.name, p.label) in known}
    right = {path: (label,) for path, label in concerned.items() if label}
    if right:
        changes = ", ".join(f"{path} is {label}" for path, (label,) in right.items())
        log.info("%d labels corrected, data.corrections=false keeps them: %s", len(right), changes)
    if doubtful := [path for path, label in concerned.items() if not label]:
        log.info("%d labels are doubtful and kept: %s", len(doubtful), ", ".join(doubtful))
    return [replace(p, labels=right.get(p.path, p.labels)) for p in images]
