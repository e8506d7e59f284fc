"""One photograph, one row: the same picture in train and test would be recognised, not classified.

Pictures come best first: where two are the same, the earlier is kept. Pictures without a class, those of the test sets,
are never left out: each of them wants an answer, and several sets have a 0.jpg.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from alu_defects.data.catalog import Picture, capture_time
from alu_defects.data.left_out import LeftOut, Reason

log = logging.getLogger(__name__)

Division = tuple[list[Picture], list[LeftOut]]


def by_name(pictures: Sequence[Picture]) -> Division:
    """Leave out pictures whose file name, with the time in it, a better archive has too.

    Within an archive names may recur, in another class folder: such pictures are all kept.
    """
    first: dict[str, Picture] = {}
    originals: dict[str, Picture] = {}
    for picture in pictures:
        if picture.labels and capture_time(picture.name):
            original = first.setdefault(picture.name, picture)
            if original.archive != picture.archive:
                originals[picture.path] = original
                if original.labels != picture.labels:
                    was, now = "|".join(picture.labels), "|".join(original.labels)
                    log.warning("%s (%s) is taken as %s: %s", picture.path, was, now, original.path)
    return _divide(pictures, originals, Reason.SAME_NAME)


def by_content(pictures: Sequence[Picture]) -> Division:
    """Leave out pictures whose content comes before; where no class is common to all copies, all of them.

    Which of two classes is right is not known. Copies of `scuffed` and of `pit` exclude each other; copies of `scuffed`
    and of `scuffed|pit` do not: the annotation of the latter just says more.

    Args:
        pictures: with their hashes, best first.
    """
    copies = defaultdict[str, list[Picture]](list)
    for picture in pictures:
        if picture.labels:
            copies[picture.sha256].append(picture)
    originals: dict[str, Picture] = {}
    refused: dict[str, LeftOut] = {}
    for first, *others in copies.values():
        if set(first.labels).intersection(*(other.labels for other in others)):
            originals |= {other.path: first for other in others}
            continue
        log.warning("one picture under several labels, left out: %s", ", ".join(p.path for p in (first, *others)))
        for picture in (first, *others):
            other = next(p for p in (*others, first) if p.labels != picture.labels)
            refused[picture.path] = picture.leave_out(Reason.TWO_LABELS, other.path)
    kept, left_out = _divide([p for p in pictures if p.path not in refused], originals, Reason.SAME_CONTENT)
    return kept, [*left_out, *refused.values()]


def _divide(pictures: Sequence[Picture], originals: Mapping[str, Picture], reason: Reason) -> Division:
    """Leave out the keys of `originals`, paths; an original without boxes takes over those of its copies."""
    boxes = {originals[p.path].path: p.boxes for p in reversed(pictures) if p.path in originals and p.boxes}
    kept = [replace(p, boxes=p.boxes or boxes.get(p.path, "")) for p in pictures if p.path not in originals]
    return kept, [p.leave_out(reason, originals[p.path].path) for p in pictures if p.path in originals]
