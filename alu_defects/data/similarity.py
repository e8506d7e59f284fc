"""Images that look alike, whatever their exposure and brightness → groups, found once and remembered.

Brightness and gamma keep the order of the pixels, so each pixel is replaced by its rank. Clipping destroys the order of
the brightest or the darkest: an overexposed image still tells the rest. Four hashes (see `duplicates.hash_pixels`) are
therefore taken: of all ranks, and of the darkest and the brightest alone, with the others made equal. Images are alike
if one of the four is near, and a group is whatever such pairs connect (`benchmarks/similar.py` measures it).

A folder below the cache holds

    hashes        R records: SHA-256 of the image's file, its hashes; never changed, so that readers need no lock
    groups/*.npy  the groups of a set of images, named after their hashes
"""

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.progress import track
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from alu_defects.data import decode, duplicates
from alu_defects.data.decode import UInt8
from alu_defects.errors import UserError
from alu_defects.io import atomic_write, exclusive_lock

log = logging.getLogger(__name__)

VERSION = 1  # raise it when the same file gives another hash, or the same hashes other groups
# the ranks that each hash keeps, as fractions: all, the darkest 10 % and 3 %, the brightest 10 %
LEVELS = ((0.0, 1.0), (0.0, 0.1), (0.0, 0.03), (0.9, 1.0))
# Measured in exposures of 600 images of steel (200×200; gamma 0.5 to 2, gain 0.6 to 1.5, JPEG 60 to 95): the nearest of
# another image has 432, 359, 309 and 380 at the four levels; of 825 generated bars (640×480) the nearest of another
# session 383, 348, 298 and 367. With six exposures each of 1,800 images of steel, 97.6 % are in one group, the split
# cuts 1.5 % (overexposed until nearly nothing is left), and 0.3 % are in one group with another.
MAX_DISTANCE = 250  # bits of `duplicates.HASH_BITS`
MANY_IMAGES = 50_000  # every pair is compared: from here on it takes minutes, once
_SIDE_PIXELS = 256  # of what is decoded; averaged to the pixels that are hashed
_WRITTEN_AT_ONCE = 256  # hashes, which a killed process loses
_PAIRS_AT_ONCE = 1 << 20  # where all images are alike, all pairs do not fit into memory
_RECORD = np.dtype([("sha256", "u1", 32), ("hashes", "u1", (len(LEVELS), duplicates.HASH_BITS // 8))])


def find_groups(
    folder: Path,
    paths: Sequence[Path],
    sha256s: Sequence[str],
    since: float,
    *,
    max_pixels: int = decode.MAX_PIXELS,
    progress: bool = True,
) -> npt.NDArray[np.int64]:
    """Number the images so that those which look alike have the same number, int64 (N,).

    An image that cannot be decoded is alone: the groups of the others do not depend on it.

    Args:
        folder: of the cache.
        paths: of the images.
        sha256s: hash of the bytes of each.
        since: when the hashes were taken, see `decode.read_all`.
        max_pixels: that an image may have to be decoded.
        progress: show progress bars.

    Raises:
        UserError: the cache cannot be written.
    """
    folder = folder.expanduser().absolute() / f"similar_v{VERSION}"
    order = np.argsort(np.array(sha256s, dtype=object), kind="stable")
    digest = hashlib.sha256("".join(sha256s[i] for i in order).encode()).hexdigest()
    file = folder / "groups" / f"{digest}.npy"
    numbers = np.empty(len(sha256s), np.int64)
    if file.is_file():
        numbers[order] = np.load(file)
        return numbers
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        hashes, complete = _hash_files(
            folder / "hashes", paths, sha256s, since, max_pixels=max_pixels, progress=progress
        )
        numbers = group_hashes(hashes, progress=progress)
        if complete:  # a file that could not be read may be readable the next time
            with atomic_write(file) as opened:
                np.save(opened, numbers[order])
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}); give another paths.cache, or say which images "
            "belong together: data.group=folder, time, a column or a regular expression"
        ) from error
    return numbers


def hash_image(image: Image.Image) -> UInt8:
    """Hash an image of any size: uint8 (levels, HASH_BITS / 8); all zero where a level has no structure."""
    pixels = duplicates.reduce_image(image)
    _, inverse, counts = np.unique(pixels.round(3), return_inverse=True, return_counts=True)
    ranks = ((np.cumsum(counts) - counts / 2) / pixels.size)[inverse].reshape(pixels.shape)  # of equal ones the mean
    return np.stack([duplicates.hash_pixels(255 * ranks.clip(low, high)) for low, high in LEVELS])


def group_hashes(hashes: UInt8, *, progress: bool = False) -> npt.NDArray[np.int64]:
    """Number images by what connects near hashes, int64 (N,), given uint8 (N, levels, HASH_BITS / 8)."""
    number = len(hashes)
    if number > MANY_IMAGES:
        log.warning(
            "comparing all pairs of %d images takes minutes, once for these images; data.group=folder, time, a column "
            "or a regular expression needs no comparison",
            number,
        )
    groups = np.arange(number)
    levels = range(hashes.shape[1])
    found = (p for level in levels for p in duplicates.find_pairs(np.ascontiguousarray(hashes[:, level]), MAX_DISTANCE))
    blocks = len(levels) * math.ceil(number**2 / 2 / duplicates.PAIRS_PER_BLOCK)  # nearly
    shown = track(found, f"comparing {number} images", total=blocks, disable=not progress or number < 2000)
    for pairs in _gather(shown):
        i, j = groups[pairs.T]
        graph = coo_matrix((np.ones(len(i), bool), (i, j)), (number, number))
        groups = connected_components(graph, directed=False)[1].astype(np.int64)[groups]
    return groups


def _gather(blocks: Iterable[duplicates.Int64]) -> Iterator[duplicates.Int64]:
    """Pairs in larger portions: connecting them takes as long for few as for many."""
    waiting: list[duplicates.Int64] = []
    for pairs in blocks:
        waiting.append(pairs)
        if sum(map(len, waiting)) > _PAIRS_AT_ONCE:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _hash_files(
    file: Path, paths: Sequence[Path], sha256s: Sequence[str], since: float, *, max_pixels: int, progress: bool
) -> tuple[UInt8, bool]:
    """The hashes of files, uint8 (N, levels, HASH_BITS / 8), and whether all could be read; the others are zero."""
    wanted = dict(zip(sha256s, paths, strict=True))
    rows, records = _read(file)
    if wanted.keys() - rows.keys():
        with exclusive_lock(file, f"looking for similar images in {file.parent}"):
            rows, records = _read(file)  # the other process may have had the same ones
            missing = {sha256: path for sha256, path in wanted.items() if sha256 not in rows}
            _append(file, missing, len(records), since, max_pixels=max_pixels, progress=progress)
            rows, records = _read(file)
    hashes = np.zeros((len(paths), *_RECORD["hashes"].shape), np.uint8)
    there = [i for i, sha256 in enumerate(sha256s) if sha256 in rows]
    hashes[there] = records["hashes"][[rows[sha256s[i]] for i in there]]
    return hashes, len(there) == len(paths)


def _read(file: Path) -> tuple[dict[str, int], npt.NDArray[np.void]]:
    """The complete records, and the row of each image."""
    records = np.empty(0, _RECORD)
    if file.exists():
        records = np.fromfile(file, _RECORD, file.stat().st_size // _RECORD.itemsize)
    digests = np.ascontiguousarray(records["sha256"]).tobytes().hex()
    return {digests[start : start + 64]: start // 64 for start in range(0, len(digests), 64)}, records


def _append(
    file: Path, missing: Mapping[str, Path], rows: int, since: float, *, max_pixels: int, progress: bool
) -> None:
    """Hash files and write their records: those whose content cannot be decoded look like no other.

    Those that may be decoded the next time, with another limit of pixels or when a disk works again, have none.
    """

    def hash_file(opened: BinaryIO) -> UInt8:
        # bits=None: how bright an image is does not change its hash
        size = (_SIDE_PIXELS, _SIDE_PIXELS)
        return hash_image(Image.fromarray(decode.decode(opened, size, bits=None, max_pixels=max_pixels)))

    read = decode.read_all(hash_file, list(missing.values()), list(missing), since)
    seen = track(read, f"looking for similar images among {len(missing)}", total=len(missing), disable=not progress)
    with file.open("ab") as opened:
        opened.truncate(rows * _RECORD.itemsize)  # without the incomplete record of a killed writer
        for number, (sha256, hashes) in enumerate(zip(missing, seen, strict=True)):
            if not isinstance(hashes, decode.UnreadableError | decode.TooManyPixelsError):
                record = np.zeros(1, _RECORD)
                record["sha256"] = np.frombuffer(bytes.fromhex(sha256), np.uint8)
                record["hashes"] = 0 if isinstance(hashes, Exception) else hashes
                opened.write(record.tobytes())
            if number % _WRITTEN_AT_ONCE == 0:
                opened.flush()
