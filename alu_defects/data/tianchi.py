"""The archives of Tianchi 2018, extracted in any number and packing below a root → catalogue."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from alu_defects.data import annotations, catalog, duplicates, files, packing
from alu_defects.data.catalog import Picture, Scan
from alu_defects.data.corrections import correct
from alu_defects.data.left_out import LeftOut, Reason
from alu_defects.errors import UserError
from alu_defects.taxonomy import OTHER, ROUNDS

log = logging.getLogger(__name__)

_OF_ROUND = {1: Reason.ROUND1, 2: Reason.ROUND2}


def check_round(round: int) -> None:
    """Refuse a round that the competition did not have.

    Raises:
        UserError: it is none of `ROUNDS`.
    """
    if round not in ROUNDS:
        raise UserError(f"data.round={round} does not exist; give one of {', '.join(map(str, ROUNDS))}")


def scan(root: Path, *, round: int = 1, include_other: bool = False, corrections: bool = True) -> Scan:
    """Catalogue one round of whatever archives lie below the root, which may be an archive itself.

    The archives overlap: of several files of one name the newest archive's is taken, and of one content likewise, or a
    picture could be in train and in test.

    Args:
        root: an absolute path.
        round: 1 or 2; their classes differ.
        include_other: take the class other of round 1, which the paper leaves out.
        corrections: mend the labels that are known to be wrong.

    Raises:
        UserError: no such round, or no pictures of it below the root.
    """
    check_round(round)
    found, left_out = files.below(root)
    pictures: list[Picture] = []
    for outcome in _read_all(root, found, round):
        if isinstance(outcome, Picture):
            pictures.append(outcome)
        else:
            left_out.append(outcome)
    if not pictures:
        raise UserError(_nothing(root, round, left_out))
    pictures.sort(key=lambda picture: packing.issued(picture.archive), reverse=True)
    pictures, repeated = duplicates.by_name(pictures)
    if corrections and round == 1:
        pictures = correct(pictures)
    pictures, copies = duplicates.by_content(catalog.hashed(root, pictures))
    left_out += repeated + copies
    if not include_other:
        left_out += [p.leave_out(Reason.CLASS_OTHER) for p in pictures if p.label == OTHER.name]
        pictures = [p for p in pictures if p.label != OTHER.name]
    return catalog.build(root, pictures, left_out, [c.name for c in ROUNDS[round]])


def _read_all(root: Path, found: list[str], round: int) -> Iterator[Picture | LeftOut]:
    notes = {path for path in found if PurePosixPath(path).suffix in annotations.SUFFIXES}
    used: set[str] = set()
    for path in found:
        if files.is_picture(path):
            note = annotations.beside(path, notes)
            used.add(note)
            yield _read(root, path, note, round)
        elif path not in notes:
            yield LeftOut(path, Reason.NOT_A_PICTURE)
    yield from (LeftOut(path, Reason.NO_PICTURE) for path in notes - used)


def _read(root: Path, path: str, note: str, round: int) -> Picture | LeftOut:
    """What is known of a picture by its folders and its annotation, whose path is `note` or ""."""
    place = packing.place((root.name, *PurePosixPath(path).parent.parts), note)
    if place is None:
        return LeftOut(path, Reason.NO_CLASS_FOLDER)
    picture = Picture(path, place.labels, place.archive)
    if place.round != round:
        return picture.leave_out(_OF_ROUND[place.round])
    if place.unknown:
        return picture.leave_out(Reason.UNKNOWN_CLASS, place.unknown)
    return picture if place.unlabelled else _annotated(root, picture, note, round)


def _annotated(root: Path, picture: Picture, note: str, round: int) -> Picture | LeftOut:
    """The picture with its boxes and, where no folder names the class, their classes."""
    if not note:
        return picture if picture.labels else picture.leave_out(Reason.NO_ANNOTATION, "missing")
    names = {word: c.name for c in ROUNDS[round] for word in (c.name, c.folder, c.submission, c.apspc) if word}
    try:
        boxes = annotations.read(root / note, names)
    except annotations.AnnotationError as error:
        if not picture.labels:
            return picture.leave_out(Reason.NO_ANNOTATION, f"{note} {error}")
        log.warning("%s %s; its picture is taken without boxes", note, error)
        return picture
    marked = {box.label for box in boxes}
    if missing := set(picture.labels) - marked:
        log.warning("%s does not mark %s, the class of its folder, which is taken", note, ", ".join(missing))
    labels = picture.labels or tuple(c.name for c in ROUNDS[round] if c.name in marked)
    return replace(picture, labels=labels, boxes=annotations.as_json(boxes))


def _nothing(root: Path, round: int, left_out: list[LeftOut]) -> str:
    """Why nothing was found."""
    for other, reason in _OF_ROUND.items():
        if count := sum(one.reason == reason for one in left_out):
            held = f"no pictures of round {round}, but {count} of round {other}"
            return f"data.root={root} holds {held}; set data.round={other}"
    unknown = sorted({one.detail for one in left_out if one.reason == Reason.UNKNOWN_CLASS})
    return (
        f"data.root={root} holds no {ROUNDS[round][0].folder}/ or {packing.DEFECT_FOLDERS[round]}/<class>/"
        + (f" (but {', '.join(unknown)}, no classes)" if unknown else "")
        + f"; give the folder into which the round-{round} archives were extracted. "
        "If the names look garbled, extract again with unzip -O GBK"
    )
