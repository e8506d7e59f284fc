"""Every image decoded once, for all runs: pixels in one file that each process maps into its memory.

A folder for each size and way of resizing, and for each `data.bits` of data sets with 16-bit images, holds

    pixels    uint8 (R, height, width, 3), row after row
    index     R records: SHA-256 of the image's file, perceptual hash of its pixels

Images are found by the content of their files, not by their paths: for another data set with the same images, another
split or the test images alone nothing is decoded again, and a changed file means one more row. A row is added to the
index when its pixels are safe on the disk, and never changed: readers need no lock, and a killed writer loses only what
it was just decoding.
"""

import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import joblib
import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from torch import Tensor

from alu_defects.config import Size, size_text
from alu_defects.data import decode, duplicates
from alu_defects.data.decode import UInt8
from alu_defects.errors import UserError
from alu_defects.io import exclusive_lock

BUFFER_BYTES = 256_000_000  # bytes of decoded images that wait to be written
# raise it when the same file gives other pixels or another hash, so that old ones are not used
CACHE_VERSIONS = {"squash": 1, "letterbox": 2}
_RECORD = np.dtype([("sha256", "u1", 32), ("hash", "u1", duplicates.HASH_BITS // 8)])


class PixelCache:
    """Images decoded in one way, in a folder of their own below `root`; `bits`: None where no image has 16 bits.

    `max_pixels` says what is decoded, not how.
    """

    def __init__(
        self, root: Path, size: Size, resize: str, bits: int | None = None, max_pixels: int = decode.MAX_PIXELS
    ) -> None:
        height, width = size
        sides = f"{height}" if height == width else f"{height}x{width}"
        deep = f"_{bits}bits" if bits else ""
        self.folder = root.expanduser().absolute() / f"v{CACHE_VERSIONS[resize]}_{sides}_{resize}{deep}"
        self.size, self.resize, self.bits, self.max_pixels = size, resize, bits or 16, max_pixels
        self.pixels_file, self._index_file = self.folder / "pixels", self.folder / "index"
        self._row_bytes = 3 * height * width

    def fill(
        self, paths: Sequence[Path], sha256s: Sequence[str], since: float, *, progress: bool = True
    ) -> list[tuple[Path, Exception]]:
        """Decode what is not there yet, in the order given; returns the images that cannot be decoded, and why.

        Args:
            paths: of the images.
            sha256s: hash of the bytes of each.
            since: when the hashes were taken, see `decode.read_all`.
            progress: show a progress bar.

        Raises:
            UserError: too little space on the disk, or no right to write there.
        """
        wanted = dict(zip(sha256s, paths, strict=True))
        if not self._missing(wanted):
            return []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with exclusive_lock(self.pixels_file, f"decoding images into {self.folder}"):
                missing = self._missing(wanted)  # the other process may have had the same ones
                needed = len(missing) * (self._row_bytes + _RECORD.itemsize)
                if needed > (free := shutil.disk_usage(self.folder).free):
                    raise UserError(
                        f"{len(missing)} images of data.image_size={size_text(self.size)} need {needed / 1e9:.1f} GB "
                        f"in {self.folder}, where {free / 1e9:.1f} GB are free; give another paths.cache, a smaller "
                        "data.image_size, or data.cache=none, which decodes again in every epoch"
                    )
                return self._append(missing, since, progress)
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written ({error.strerror or error}); what is in it is unharmed. "
                "Give another paths.cache, or do without: data.cache=none"
            ) from error

    def find_cached(self, sha256s: Sequence[str]) -> list[str]:
        """Those of the images that are there."""
        known = self._known()
        return [sha256 for sha256 in sha256s if sha256 in known]

    def find_rows(self, sha256s: Sequence[str]) -> npt.NDArray[np.int64]:
        """Where in `pixels` the images are, (N,); they must be there."""
        known = self._known()
        return np.array([known[sha256] for sha256 in sha256s], np.int64)

    def hashes(self, rows: npt.NDArray[np.int64]) -> UInt8:
        """The perceptual hashes of rows, uint8 (N, `duplicates.HASH_BITS` / 8)."""
        hashes: UInt8 = self._index()["hash"][rows]
        return hashes

    def __len__(self) -> int:
        """How many images are there."""
        return len(self._index())

    def _index(self) -> npt.NDArray[np.void]:
        """The records whose pixels are there; one that is just being written is none yet."""
        if not (self._index_file.exists() and self.pixels_file.exists()):
            return np.empty(0, _RECORD)
        complete = self._index_file.stat().st_size // _RECORD.itemsize
        return np.fromfile(self._index_file, _RECORD, complete)[: self.pixels_file.stat().st_size // self._row_bytes]

    def _known(self) -> dict[str, int]:
        digests = np.ascontiguousarray(self._index()["sha256"]).tobytes().hex()
        return {digests[start : start + 64]: start // 64 for start in range(0, len(digests), 64)}

    def _missing(self, wanted: Mapping[str, Path]) -> list[tuple[str, Path]]:
        known = self._known()
        return [(sha256, path) for sha256, path in wanted.items() if sha256 not in known]

    def _append(
        self, missing: Sequence[tuple[str, Path]], since: float, progress: bool
    ) -> list[tuple[Path, Exception]]:
        """Decode and write; returns what cannot be decoded."""
        broken: list[tuple[Path, Exception]] = []
        rows = len(self)
        # what a killed writer loses, and two of it are held in memory: one is filled while the other is written
        at_once = max(1, min(32 * joblib.cpu_count(), BUFFER_BYTES // 2 // self._row_bytes))
        images, done = np.empty((at_once, *self.size, 3), np.uint8), list[str]()
        sha256s, paths = [sha256 for sha256, _ in missing], [path for _, path in missing]
        how = self.size, self.resize
        decoded = decode.decode_all(paths, sha256s, since, *how, bits=self.bits, max_pixels=self.max_pixels)
        what = f"decoding {len(missing)} images ({len(missing) * self._row_bytes / 1e6:,.0f} MB)"
        seen = track(decoded, what, total=len(missing), disable=not progress)
        with (
            self.pixels_file.open("ab") as pixels_file,
            self._index_file.open("ab") as index_file,
            ThreadPoolExecutor(1) as writer,  # the next images are decoded while the last are written
        ):
            pixels_file.truncate(rows * self._row_bytes)  # without the incomplete rows of a killed writer
            index_file.truncate(rows * _RECORD.itemsize)
            writing: Future[None] | None = None
            for path, sha256, image in zip(paths, sha256s, seen, strict=True):
                if isinstance(image, Exception):
                    broken.append((path, image))
                else:
                    images[len(done)] = image
                    done.append(sha256)
                if len(done) == at_once:
                    if writing:
                        writing.result()
                    writing = writer.submit(_write, images, done, pixels_file, index_file)
                    images, done = np.empty_like(images), []
            if writing:
                writing.result()
            if done:
                _write(images[: len(done)], done, pixels_file, index_file)
        return broken


def _write(images: UInt8, sha256s: Sequence[str], pixels_file: BinaryIO, index_file: BinaryIO) -> None:
    records = np.zeros(len(images), _RECORD)
    records["sha256"] = np.frombuffer(bytes.fromhex("".join(sha256s)), np.uint8).reshape(-1, 32)
    records["hash"] = duplicates.hash_images(images)
    for file, rows in ((pixels_file, images), (index_file, records)):
        file.write(rows.view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())  # the pixels first: the index never names what a power cut took


DEVICE_FRACTION = 0.25  # of the free memory of a GPU that cache=auto gives to pixels; the network needs the rest


class CachedPixels:
    """Images of a pixel cache: the `rows`, int64 (N,), of a file that holds uint8 (R, height, width, 3)."""

    def __init__(self, file: Path, size: Size, rows: Tensor) -> None:
        self.file, self.size, self.rows = file, size, rows
        shape = (file.stat().st_size // (3 * size[0] * size[1]), *size, 3)
        with warnings.catch_warnings():  # PyTorch knows no read-only memory; nothing here writes
            warnings.simplefilter("ignore")
            # not a private mapping that may be written: the system would have to reserve memory for all of it
            self.images = torch.from_numpy(np.memmap(file, np.uint8, "r", shape=shape))
        self._positions: Tensor | None = rows  # in `images`; None: the images are there in their order

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is mapped again, instead of being copied."""
        return CachedPixels, (self.file, self.size, self.rows)

    @property
    def device(self) -> torch.device:
        """Where `gather` takes its index and puts its images."""
        return self.images.device

    @property
    def nbytes(self) -> int:
        """Of the images."""
        return len(self.rows) * self.images[0].numel()

    def load(self, device: torch.device) -> None:
        """Copy the images from the disk into the memory of a device; a `UserError` if they do not fit."""
        if self._positions is None and self.device == device:
            return
        try:
            if device.type == "cpu" and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):  # not on Windows
                memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
                if self.nbytes > memory:
                    raise _too_large(self.nbytes, "this machine", f"{memory / 1e9:.1f} GB of memory")
            loaded = torch.empty((len(self.rows), *self.size, 3), dtype=torch.uint8, device=device)
            at_once = max(1, BUFFER_BYTES // self.images[0].numel())
            for start in range(0, len(self.rows), at_once):
                part = torch.arange(start, min(start + at_once, len(self.rows)), device=self.device)
                loaded[start : start + at_once] = self.gather(part).permute(0, 2, 3, 1)
        except torch.OutOfMemoryError as error:
            raise _too_large(self.nbytes, str(device), "less memory free") from error
        self.images, self._positions = loaded, None

    def gather(self, index: Tensor) -> Tensor:
        """The images of an index (B,): uint8 (B, 3, height, width) in channels_last.

        `tensor[index]` was seven times slower and numpy's `array[index]` two times.
        """
        rows = index if self._positions is None else self._positions.index_select(0, index)
        return self.images.index_select(0, rows).permute(0, 3, 1, 2)


class DecodeOnDemand:
    """Images that are decoded whenever they are asked for, where the disk is too small for a cache."""

    device = torch.device("cpu")

    def __init__(
        self,
        paths: Sequence[Path],
        sha256s: Sequence[str],
        since: float,
        size: Size,
        resize: str,
        *,
        bits: int,
        max_pixels: int = decode.MAX_PIXELS,
    ) -> None:
        self.paths, self.sha256s, self.since = paths, sha256s, since
        self.size, self.resize, self.bits, self.max_pixels = size, resize, bits, max_pixels

    def gather(self, index: Tensor) -> Tensor:
        """The images of an index (B,), as `CachedPixels.gather`; a `UserError` if some cannot be decoded."""
        chosen = index.tolist()
        if not chosen:
            return torch.empty((0, 3, *self.size), dtype=torch.uint8)
        paths, sha256s = [self.paths[i] for i in chosen], [self.sha256s[i] for i in chosen]
        threads = 1 if torch.utils.data.get_worker_info() else None  # there is a worker for each core
        how: dict[str, Any] = {"bits": self.bits, "max_pixels": self.max_pixels, "threads": threads}
        images = list(decode.decode_all(paths, sha256s, self.since, self.size, self.resize, **how))
        if broken := [(path, image) for path, image in zip(paths, images, strict=True) if isinstance(image, Exception)]:
            raise decode.decoding_error(broken)
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # type: ignore[arg-type]


def _too_large(needed: int, where: str, has: str) -> UserError:
    return UserError(
        f"the images need {needed / 1e9:.1f} GB, {where} has {has}; data.cache=disk leaves them on the disk"
    )
