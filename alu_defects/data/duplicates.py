"""Exact copies are excluded, near-duplicates are found: the model would recognise in test what it saw in train.

Images come in the order of preference: where two are the same, the first is kept. Images without a class are never
excluded: each needs a prediction, and several test sets of the competition have a 0.jpg.

A near-duplicate is the same image saved again: re-encoded, resized, a little brighter, moved by a pixel or two; not
another image of the same bar. The usual hash of 8×8 frequencies confuses the two, since every image here shows a bar
across a bench. This one holds the signs of the 32×32 lowest frequencies, without those that vary along one axis only
and depend on where the bar lies. It is one matrix product; the library imagehash would need PyWavelets.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from alu_defects.data.catalog import ImageRecord
from alu_defects.data.files import Excluded, Reason
from alu_defects.data.sessions import capture_time

log = logging.getLogger(__name__)

KeptAndExcluded = tuple[list[ImageRecord], list[Excluded]]
UInt8 = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

HASH_BITS = 1024  # of a hash
# Measured on 1,800 images of steel (200×200) and 1,430 generated bars (640×480): the same image re-encoded at quality
# 60, halved, 5 % brighter or moved by a pixel stays below 180 in 99 of 100 cases. A camera that moved by 1 % of the
# frame gives 180 to 290, overlapping images of one sheet 249 to 313, images of other bars 370 and more.
MAX_HASH_DISTANCE = 200  # bits
MAX_IMAGES_PER_RUN = 20_000  # images compared in every run, in five seconds; `audit` compares any number
_SIDE_PIXELS, _FREQUENCIES = 64, 32  # twice the pixels that the highest frequency needs
_SPLITS_BY_PREFERENCE = ("test", "val+test", "val", "", "train", "unlabelled")
PAIRS_PER_BLOCK = 1 << 17  # compared at once: they stay in the processor's cache


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
    and in `scuffed|pit` one is: its annotation only says more. Of copies in two given splits that of test is kept, else
    that of val: what is held out stays as it was given.
    """
    copies = defaultdict[str, list[ImageRecord]](list)
    for image in sorted(images, key=lambda image: _SPLITS_BY_PREFERENCE.index(image.given_split)):
        if image.labels:
            copies[image.sha256].append(image)
    originals: dict[str, ImageRecord] = {}
    refused: dict[str, Excluded] = {}
    for first, *others in copies.values():
        if not others:  # as nearly always
            continue
        if set(first.labels).intersection(*(other.labels for other in others)):
            originals |= {other.path: first for other in others}
            continue
        log.warning("one image under several labels, excluded: %s", ", ".join(p.path for p in (first, *others)))
        for image in (first, *others):
            other = next(p for p in (*others, first) if p.labels != image.labels)
            refused[image.path] = image.exclude(Reason.TWO_LABELS, other.path)
    kept, excluded = _exclude_copies([p for p in images if p.path not in refused], originals, Reason.SAME_CONTENT)
    splits = {p.path: p.given_split for p in images}
    for i, one in enumerate(excluded):
        if splits[one.path] != splits[one.detail]:
            excluded[i] = one._replace(reason=Reason.IN_TWO_SPLITS)
    return kept, [*excluded, *refused.values()]


def _exclude_copies(
    images: Sequence[ImageRecord], originals: Mapping[str, ImageRecord], reason: Reason
) -> KeptAndExcluded:
    """Exclude the images whose paths are the keys; originals without boxes get those of their copies."""
    boxes = {originals[p.path].path: p.boxes for p in reversed(images) if p.path in originals and p.boxes}
    kept = [p for p in images if p.path not in originals]
    kept = [replace(p, boxes=boxes[p.path]) if p.path in boxes and not p.boxes else p for p in kept]
    return kept, [p.exclude(reason, originals[p.path].path) for p in images if p.path in originals]


def perceptual_hash(image: Image.Image) -> UInt8:
    """Hash an image of any size: uint8 (HASH_BITS / 8,), all zero without structure in both directions.

    400×400 pixels take less than a millisecond, 2560×1920 take 25.
    """
    return hash_pixels(reduce_image(image))


def reduce_image(image: Image.Image) -> npt.NDArray[np.float64]:
    """The grey levels of an image of any size, averaged to what is hashed: (pixels, pixels)."""
    grey = image.convert("L").convert("F")  # float, or rounding would decide the weak frequencies of a smooth bar
    return np.asarray(grey.resize((_SIDE_PIXELS, _SIDE_PIXELS), Image.Resampling.BOX), np.float64)


def hash_pixels(pixels: npt.NDArray[np.float64]) -> UInt8:
    """Hash what `reduce_image` returns, in the range 0 to 255: uint8 (HASH_BITS / 8,)."""
    waves = _waves()
    strengths = waves @ pixels @ waves.T
    return np.packbits(strengths.ravel() > 1e-3)  # rounding leaves 1e-5 of a frequency that is not there


@cache
def _waves() -> npt.NDArray[np.float64]:
    """The cosines of the discrete cosine transform, without the constant one: (frequencies, pixels)."""
    frequency, pixel = np.arange(1, _FREQUENCIES + 1)[:, None], np.arange(_SIDE_PIXELS) + 0.5
    return np.asarray(np.cos(np.pi * frequency * pixel / _SIDE_PIXELS) * np.sqrt(2 / _SIDE_PIXELS))


def hash_images(images: UInt8) -> UInt8:
    """Hash decoded images uint8 (N, H, W, 3): uint8 (N, HASH_BITS / 8)."""
    found = [perceptual_hash(Image.fromarray(image)) for image in images]
    return np.array(found, np.uint8).reshape(-1, HASH_BITS // 8)


def near_duplicates(hashed: UInt8, max_distance: int = MAX_HASH_DISTANCE) -> Int64:
    """Find the pairs of hashes that differ in at most `max_distance` bits.

    Every pair is compared: 10,000 images take a second, 100,000 two minutes. Hashes that are all zero are in no pair.

    Args:
        hashed: uint8 (N, HASH_BITS / 8).
        max_distance: from 0 to `HASH_BITS`.

    Returns:
        int64 (P, 2), rows of `hashed`, the first of a pair before the second.
    """
    return np.concatenate([np.empty((0, 2), np.int64), *find_pairs(hashed, max_distance)])


def find_near_duplicates_of(hashed: UInt8, others: UInt8) -> npt.NDArray[np.bool_]:
    """Which of the hashes (N, bytes) are near-duplicates of one of the others (M, bytes): (N,)."""
    found = np.zeros(len(hashed), dtype=bool)
    for first, second in (pairs.T for pairs in find_pairs(np.concatenate([others, hashed]), MAX_HASH_DISTANCE)):
        found[second[(first < len(others)) & (second >= len(others))] - len(others)] = True
    return found


def across_splits(pairs: Int64, table: pd.DataFrame) -> Int64:
    """Keep the pairs (P, 2) of rows of a split catalog with one image in train and the other in val or test."""
    training = (table["split"] == "train").to_numpy(dtype=bool)[pairs]
    return np.asarray(pairs[training[:, 0] != training[:, 1]])


def find_pairs(hashed: UInt8, max_distance: int) -> Iterator[Int64]:
    """The pairs of `near_duplicates`, some at a time: images of a rig may all be alike."""
    words = np.ascontiguousarray(np.ascontiguousarray(hashed).view(np.uint64).T)  # (words of a hash, N)
    known = np.asarray(hashed.any(axis=1))
    # some of the bits are a lower bound that already rules out nearly every pair: of n bits of other images n / 2
    # differ, give or take four times √n / 2; at MAX_HASH_DISTANCE half of the bits
    enough = next((n for n in range(1, len(words)) if 32 * n - 16 * n**0.5 > max_distance), len(words))
    some = words[np.linspace(0, len(words) - 1, enough).astype(int)]
    start = 0
    while start < len(hashed):
        stop = start + max(1, PAIRS_PER_BLOCK // (len(hashed) - start))
        least = _distances(some[:, start:stop, None], some[:, None, start:])
        i, j = (side + start for side in np.nonzero(least <= max_distance))
        right = (i < j) & known[i] & known[j]
        i, j = i[right], j[right]
        right = _distances(words[:, i], words[:, j]) <= max_distance
        yield np.stack([i[right], j[right]], axis=1)
        start = stop


def _distances(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]) -> npt.NDArray[Any]:
    """The number of bits that differ, with the words of a hash on the first axis; the other axes are broadcast."""
    distances: npt.NDArray[Any] = np.zeros(np.broadcast_shapes(left.shape[1:], right.shape[1:]), np.uint16)
    for one, other in zip(left, right, strict=True):  # never an array of all words of all pairs
        distances += np.bitwise_count(one ^ other)
    return distances
