"""Copies are excluded: an image that is in train and in test would be recognised, not classified.

Images come in the order of preference: where two are the same, the first is kept. Images without a class are never
excluded: each needs a prediction, and several test sets of the competition have a 0.jpg.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from alu_defects.data.catalog import Excluded, ImageRecord, Reason, capture_time

log = logging.getLogger(__name__)

KeptAndExcluded = tuple[list[ImageRecord], list[Excluded]]


def exclude_same_name(images: Sequence[ImageRecord]) -> KeptAndExcluded:
    """Exclude images whose file name, with a time in it, another archive has that comes first.

    Within one archive, images of the same name in other class folders are all kept.
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
    return _exclude_copies(images, originals, Reason.SAME_NAME)


def exclude_same_content(images: Sequence[ImageRecord]) -> KeptAndExcluded:
    """Exclude later copies of the same content; all copies, if no class is common to all of them.

    Which of two classes is right is not known: of copies in `scuffed` and in `pit` none is kept. Of copies in `scuffed`
    and in `scuffed|pit` one is: its annotation only says more.

    Args:
        images: with their hashes, the preferred ones first.
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
    kept, excluded = _exclude_copies([p for p in images if p.path not in refused], originals, Reason.SAME_CONTENT)
    return kept, [*excluded, *refused.values()]


def _exclude_copies(
    images: Sequence[ImageRecord], originals: Mapping[str, ImageRecord], reason: Reason
) -> KeptAndExcluded:
    """Exclude the images whose paths are the keys; originals without boxes get those of their copies."""
    boxes = {originals[p.path].path: p.boxes for p in reversed(images) if p.path in originals and p.boxes}
    kept = [replace(p, boxes=p.boxes or boxes.get(p.path, "")) for p in images if p.path not in originals]
    return kept, [p.exclude(reason, originals[p.path].path) for p in images if p.path in originals]
