"""Perceptual hashes, and the pairs of images that are nearly the same.

A near-duplicate is the same image saved again: re-encoded, resized, a little brighter, moved by a pixel or two. It is
not another image of the same bar. The usual hash of 8×8 frequencies confuses the two, since every image here shows a
bar across a bench. This one holds the signs of the 32×32 lowest frequencies, without those that vary along one axis
only and depend on where the bar lies. It is one matrix product; the library imagehash would need PyWavelets.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

UInt8 = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]

HASH_BITS = 1024  # of a hash
# Measured on 1,800 images of steel (200×200) and 1,430 generated bars (640×480): the same image re-encoded at quality
# 60, halved, 5 % brighter or moved by a pixel stays below 180 in 99 of 100 cases. A camera that moved by 1 % of the
# frame gives 180 to 290, overlapping images of one sheet 249 to 313, images of other bars 370 and more.
MAX_HASH_DISTANCE = 200  # bits
MAX_IMAGES_PER_RUN = 20_000  # images compared in every run, in five seconds; `audit` compares any number
_SIDE_PIXELS, _FREQUENCIES = 64, 32  # twice the pixels that the highest frequency needs
_PAIRS_PER_BLOCK = 1 << 17  # compared at once: they stay in the processor's cache


def perceptual_hash(image: Image.Image) -> UInt8:
    """Hash an image of any size; 400×400 pixels take less than a millisecond, 2560×1920 take 25.

    Returns:
        uint8 (BITS / 8,), all zero for an image without structure in both directions, such as one of a single colour.
    """
    grey = image.convert("L").convert("F")  # float, or rounding would decide the weak frequencies of a smooth bar
    pixels = np.asarray(grey.resize((_SIDE_PIXELS, _SIDE_PIXELS), Image.Resampling.BOX), np.float64)
    waves = _waves()
    strengths = waves @ pixels @ waves.T
    return np.packbits(strengths.ravel() > 1e-3)  # rounding leaves 1e-5 of a frequency that is not there


@cache
def _waves() -> npt.NDArray[np.float64]:
    """The cosines of the discrete cosine transform, without the constant one: (frequencies, pixels)."""
    frequency, pixel = np.arange(1, _FREQUENCIES + 1)[:, None], np.arange(_SIDE_PIXELS) + 0.5
    return np.asarray(np.cos(np.pi * frequency * pixel / _SIDE_PIXELS) * np.sqrt(2 / _SIDE_PIXELS))


def hash_images(images: UInt8) -> UInt8:
    """Hash decoded images.

    Args:
        images: uint8 (N, H, W, 3).

    Returns:
        uint8 (N, BITS / 8).
    """
    found = [perceptual_hash(Image.fromarray(image)) for image in images]
    return np.stack(found) if found else np.empty((0, HASH_BITS // 8), np.uint8)


def near_duplicates(hashed: UInt8, max_distance: int = MAX_HASH_DISTANCE) -> Int64:
    """Find the pairs of hashes that differ in at most `max_distance` bits.

    Every pair is compared: 10,000 images take a second, 100,000 two minutes. Hashes that are all zero are in no pair.

    Args:
        hashed: uint8 (N, BITS / 8).
        max_distance: from 0 to `HASH_BITS`.

    Returns:
        int64 (P, 2), rows of `hashed`, the first of a pair before the second.
    """
    return np.concatenate([np.empty((0, 2), np.int64), *_blocks(hashed, max_distance)])


def count_across_splits(hashed: UInt8, table: pd.DataFrame) -> int:
    """Count the near-duplicates across the split, however many there are: images of a rig may all be alike."""
    return sum(len(across_splits(pairs, table)) for pairs in _blocks(hashed, MAX_HASH_DISTANCE))


def _blocks(hashed: UInt8, max_distance: int) -> Iterator[Int64]:
    """The near-duplicates, some at a time."""
    words = np.ascontiguousarray(np.ascontiguousarray(hashed).view(np.uint64).T)  # (words of a hash, N)
    known = np.asarray(hashed.any(axis=1))
    start = 0
    while start < len(hashed):
        stop = start + max(1, _PAIRS_PER_BLOCK // (len(hashed) - start))
        # half of the bits are a lower bound that already rules out nearly every pair
        half = _distances(words[::2, start:stop, None], words[::2, None, start:])
        i, j = (side + start for side in np.nonzero(half <= max_distance))
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


def across_splits(pairs: Int64, table: pd.DataFrame) -> Int64:
    """Keep the pairs with one image in train and the other in val or test.

    Args:
        pairs: int64 (P, 2), rows of `table`.
        table: a catalog with its split.
    """
    training = (table["split"] == "train").to_numpy(dtype=bool)[pairs]
    return np.asarray(pairs[training[:, 0] != training[:, 1]])
