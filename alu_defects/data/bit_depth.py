"""How many bits the 16-bit images of a data set use: one number for all of them.

A camera of 10, 12 or 14 bits puts its values into 16-bit files as they are, and nothing in a file says so. The largest
value of the data set does. Finding it takes a complete decoding, so a file beside the pixel caches keeps that of each
image by content, in records that are only ever appended.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from alu_defects.data import decode
from alu_defects.errors import UserError
from alu_defects.io import exclusive_lock

log = logging.getLogger(__name__)

# a record never crosses a page: after a power cut it is there, or its hash is zero and nobody asks for it
_RECORD = np.dtype({"names": ["sha256", "largest"], "formats": [("u1", 32), "<u4"], "itemsize": 64})


def check_bits(bits: int | str) -> None:
    """Refuse with a `UserError` what is neither auto nor one of `decode.BITS`."""
    if bits not in ("auto", *decode.BITS):
        raise UserError(f"data.bits={bits} is not auto, {', '.join(map(str, decode.BITS))}")


def find_16_bit(paths: Sequence[Path]) -> list[int]:
    """Which of the files hold 16-bit images, as positions."""
    with ThreadPoolExecutor() as pool:
        return [position for position, found in enumerate(pool.map(decode.file_is_16_bit, paths)) if found]


def choose_bits(
    bits: int | str,
    paths: Sequence[Path],
    sha256s: Sequence[str],
    since: float,
    folder: Path,
    *,
    max_pixels: int = decode.MAX_PIXELS,
    progress: bool = True,
) -> int:
    """The bits of a data set, logged: a number, or as few as hold the largest value of all 16-bit images (`auto`).

    The other arguments are those of `largest_values`; without 16-bit images, or if none can be decoded, `auto` is 8.
    """
    found = ""
    if not isinstance(bits, int):
        how: dict[str, Any] = {"max_pixels": max_pixels, "progress": progress}
        values = largest_values(paths, sha256s, since, folder, **how).values()
        if not values:  # nothing to decode, or decoding names every file with its error; 16 bits would hide some errors
            return decode.BITS[0]
        bits, found = decode.fewest_bits(max(values)), f": their largest value is {max(values)}"
    if paths:
        log.info("data.bits=%d for %d images with 16 bits a channel%s", bits, len(paths), found)
    return bits


def largest_values(
    paths: Sequence[Path],
    sha256s: Sequence[str],
    since: float,
    folder: Path,
    *,
    max_pixels: int = decode.MAX_PIXELS,
    progress: bool = True,
) -> dict[str, int]:
    """SHA-256 → largest value of 16-bit images, without those that cannot be decoded.

    Args:
        paths: of the images.
        sha256s: hash of the bytes of each.
        since: when the hashes were taken, see `decode.read_all`.
        folder: of all pixel caches.
        max_pixels: that an image may have to be decoded.
        progress: show a progress bar.

    Raises:
        UserError: the largest values cannot be written there.
    """
    wanted, folder = dict(zip(sha256s, paths, strict=True)), folder.expanduser().absolute()
    file = folder / "largest_values"
    if wanted.keys() - _known(file).keys():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with exclusive_lock(file, "looking for the largest values of 16-bit images"):
                _append(file, wanted, since, max_pixels, progress)
        except OSError as error:
            raise UserError(
                f"{file} cannot be written ({error.strerror or error}). Give another paths.cache, or the bits of the "
                "camera, such as data.bits=12: then nothing is written"
            ) from error
    known = _known(file)
    return {sha256: known[sha256] for sha256 in wanted if sha256 in known}


def _known(file: Path) -> dict[str, int]:
    """What complete records say."""
    if not file.exists():
        return {}
    records = np.fromfile(file, _RECORD, file.stat().st_size // _RECORD.itemsize)
    return {record["sha256"].tobytes().hex(): int(record["largest"]) for record in records}


def _append(file: Path, wanted: Mapping[str, Path], since: float, max_pixels: int, progress: bool) -> None:
    known = _known(file)  # another process may have had the same images
    missing = {sha256: path for sha256, path in wanted.items() if sha256 not in known}
    with file.open("ab") as out:
        out.truncate(out.tell() // _RECORD.itemsize * _RECORD.itemsize)  # without the half that a killed writer left
        largest_value = partial(decode.largest_value, max_pixels=max_pixels)
        found = decode.read_all(largest_value, list(missing.values()), list(missing), since)
        what = f"finding the largest values of {len(missing)} 16-bit images"
        for sha256, value in zip(missing, track(found, what, total=len(missing), disable=not progress), strict=True):
            if not isinstance(value, Exception):  # decoding names those that are broken
                out.write(np.array((list(bytes.fromhex(sha256)), value), _RECORD).tobytes())
        out.flush()
        os.fsync(out.fileno())
