"""A photograph file → uint8 pixels of the size that the network sees."""

import hashlib
import io
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import joblib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from alu_defects.errors import UserError

UInt8 = npt.NDArray[np.uint8]
RESIZES = ("squash", "letterbox")
AHEAD = 2  # pictures a thread that are decoded before they are asked for: one that takes long does not stop the others
CLOCK_SKEW = 60  # seconds by which the clock of a file server may be behind
LETTERBOX_GREY = (128, 128, 128)  # about zero after normalisation


class UnreadableError(Exception):
    """Why a file has no pixels that may be a fine picture: the disk, the memory, or another file in its place."""


def decode(file: Path | BinaryIO, size: int, resize: str = "squash") -> UInt8:
    """Decode the whole frame of a photograph, upright, as RGB of `size` × `size`.

    Args:
        file: jpg, png, bmp, tif or webp; grey, palette, RGBA, CMYK or 16 bit. Of several frames the first is taken.
        size: side of the result in pixels.
        resize: `squash` changes the aspect ratio, as the paper does; `letterbox` keeps it and pads with grey.

    Returns:
        uint8 (size, size, 3).

    Raises:
        OSError, ValueError and what else Pillow raises for a file that it cannot decode.
    """
    with Image.open(file) as opened:
        opened.draft("RGB", (size, size))  # JPEG: decode at the smallest DCT scale that is not below the target
        picture = _rgb(ImageOps.exif_transpose(opened))
    if resize == "letterbox":
        picture = _letterbox(picture, size)
    elif picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)  # antialiased in Pillow
    return np.asarray(picture)


def _letterbox(picture: Image.Image, size: int) -> Image.Image:
    """Like `ImageOps.pad`, but a picture as narrow as a line keeps one pixel instead of none."""
    width, height = (max(1, round(side * size / max(picture.size))) for side in picture.size)
    result = Image.new("RGB", (size, size), LETTERBOX_GREY)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    result.paste(resized, ((size - width) // 2, (size - height) // 2))
    return result


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bit; Pillow's own conversion clips at 255
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values from {values.min()} to {values.max()} are not 16-bit grey levels")
        picture = Image.fromarray((values // 257).astype(np.uint8))
    elif picture.mode == "F":
        raise ValueError("floating-point pictures have no agreed range; save it with 8 or 16 bits")
    if picture.has_transparency_data:
        opaque = Image.new("RGBA", picture.size, "black")
        picture = Image.alpha_composite(opaque, picture.convert("RGBA"))
    return picture.convert("RGB")


def decode_all(
    paths: Sequence[Path],
    sha256s: Sequence[str],
    since: float,
    size: int,
    resize: str = "squash",
    *,
    threads: int | None = None,
) -> Iterator[UInt8 | Exception]:
    """Decode photographs in parallel, and make sure that they are the ones that were catalogued.

    Args:
        paths: of the files.
        sha256s: hash of the bytes of each.
        since: when the hashes were taken, in seconds since 1970; what was touched later is hashed again. To hash
            everything again would take a tenth of the time.
        size: see `decode`.
        resize: see `decode`.
        threads: None: one a core.

    Yields:
        For each in order its pixels, uint8 (size, size, 3), or why there are none.
    """

    def work(path: Path, sha256: str) -> UInt8 | Exception:
        try:
            return decode(io.BytesIO(_read(path, sha256, since)), size, resize)
        except MemoryError:
            return UnreadableError("there is not enough memory for it")
        except UnidentifiedImageError:  # whose message names the buffer in memory
            return UnidentifiedImageError("not a picture that Pillow knows")
        except Exception as error:  # Pillow raises many kinds for broken files; the caller names every one
            return error

    threads = threads or joblib.cpu_count()
    jobs: deque[Future[UInt8 | Exception]] = deque()
    with ThreadPoolExecutor(threads) as pool:  # Pillow releases the interpreter lock while it decodes
        for path, sha256 in zip(paths, sha256s, strict=True):
            jobs.append(pool.submit(work, path, sha256))
            if len(jobs) > AHEAD * threads:  # map would decode all, and hold what the caller has not taken yet
                yield jobs.popleft().result()
        while jobs:
            yield jobs.popleft().result()


def _read(path: Path, sha256: str, since: float) -> bytes:
    try:
        content, status = path.read_bytes(), path.stat()
    except OSError as error:
        raise UnreadableError(error.strerror) from error
    touched = max(status.st_mtime, status.st_ctime)  # moving another file here leaves its mtime as it was
    if touched > since - CLOCK_SKEW and hashlib.sha256(content).hexdigest() != sha256:
        raise UnreadableError("it has changed since it was catalogued")
    if not content:
        raise ValueError("the file is empty")
    return content


def cannot_decode(broken: Sequence[tuple[Path, Exception]], mend: str = "") -> UserError:
    """The error that names files without pixels, and why they have none; with a further mend."""
    lines = sorted(f"{path} ({type(error).__name__}: {error})" for path, error in broken)
    more = f"\n  and {len(lines) - 20} more" if len(lines) > 20 else ""
    shown = "\n  ".join(lines[:20])
    return UserError(f"{len(lines)} pictures cannot be decoded; replace or remove them{mend}:\n  {shown}{more}")
