"""One photograph, one row: the same image in train and test would be recognised, not classified.

Images come best first: where two are the same, the earlier is kept. Images without a class, those of the test sets,
are never excluded: each of them wants an answer, and several sets have a 0.jpg.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from alu_defects.data.catalog import Excluded, ImageRecord, Reason, capture_time

log = logging.getLogger(__name__)

Division = tuple[list[ImageRecord], list[Excluded]]


def by_name(images: Sequence[ImageRecord]) -> Division:
    """Exclude images whose file name, with the time in it, a better archive has too.

    Within an archive names may recur, in another class folder: such images are all kept.
    """
    first: dict[str, ImageRecord] = {}
    originals: dict[str, ImageRecord] = {}
    for image in images:
        if image.labels and capture_time(image.name):
            original = first.setdefault(image.name, image)
            if original.archive != image.archive:
                originals[image.path] = original
                if original.labels != image.labels:
                    was, now = "|".join(image.labels), "|".join(original.labels)
                    log.warning("%s (%s) is taken as %s: %s", image.path, was, now, original.path)
    return _divide(images, originals, Reason.SAME_NAME)


def by_content(images: Sequence[ImageRecord]) -> Division:
    """Exclude images whose content comes before; where no class is common to all copies, all of them.

    Which of two classes is right is not known. Copies of `scuffed` and of `pit` exclude each other; copies of `scuffed`
    and of `scuffed|pit` do not: the annotation of the latter just says more.

    Args:
        images: with their hashes, best first.
    """
    copies = defaultdict[str, list[ImageRecord]](list)
    for image in images:
        if image.labels:
            copies[image.sha256].append(image)
    originals: dict[str, ImageRecord] = {}
    refused: dict[str, Excluded] = {}
    for first, *others in copies.values():
        if set(first.labels).intersection(*(other.labels for other in others)):
            originals |= {other.path: first for other in others}
            continue
        log.warning("one image under several labels, excluded: %s", ", ".join(p.path for p in (first, *others)))
        for image in (first, *others):
            other = next(p for p in (*others, first) if p.labels != image.labels)
            refused[image.path] = image.exclude(Reason.TWO_LABELS, other.path)
    kept, excluded = _divide([p for p in images if p.path not in refused], originals, Reason.SAME_CONTENT)
    return kept, [*excluded, *refused.values()]


def _divide(images: Sequence[ImageRecord], originals: Mapping[str, ImageRecord], reason: Reason) -> Division:
    """Exclude the keys of `originals`, paths; an original without boxes takes over those of its copies."""
    boxes = {originals[p.path].path: p.boxes for p in reversed(images) if p.path in originals and p.boxes}
    kept = [replace(p, boxes=p.boxes or boxes.get(p.path, "")) for p in images if p.path not in originals]
    return kept, [p.exclude(reason, originals[p.path].path) for p in images if p.path in originals]
