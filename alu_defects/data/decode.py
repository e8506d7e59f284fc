"""An image file → uint8 pixels of the size that the network sees."""

import hashlib
import io
import math
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import joblib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from alu_defects.config import Size
from alu_defects.errors import UserError, counted

S = TypeVar("S")
T = TypeVar("T")
UInt8 = npt.NDArray[np.uint8]
UInt16 = npt.NDArray[np.uint16]
BITS = (8, 10, 12, 14, 16)  # of cameras: what they put into 16-bit files is not stretched to 16 bits
MAX_PIXELS = 200_000_000  # of an image: three times those of the largest cameras of machine vision, 600 MB as RGB
DECODED_AHEAD_PER_THREAD = 2  # images that are decoded before they are asked for: a slow one does not stop the others
CLOCK_SKEW_SECONDS = 60  # by which a file server may tell the time too late
_BITS_PER_SAMPLE, _PLANAR_CONFIGURATION = 258, 284  # tags of TIFF
_ORIENTATION, _ON_THEIR_SIDE = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap width and height
_COLOURS = ("RGB", "RGBX", "RGBA")  # of which Pillow can read the lower bytes too
LETTERBOX_GREY = (128, 128, 128)  # about zero after normalisation


class UnreadableError(Exception):
    """Why an image that may be a good one cannot be read: the disk, the memory, or another file in its place."""


class NoMemoryError(UnreadableError):
    """The memory does not hold an image now; that may be no fault of the file."""


class TooManyPixelsError(ValueError):
    """An image has more pixels than `data.max_pixels`."""


class _Reading:
    """How many images are open, and Pillow's own limit, of which there is one for all threads."""

    lock = threading.Lock()
    images = 0
    limit: int | None = None


@contextmanager
def open_image(file: Path | BinaryIO, max_pixels: int | None = None) -> Iterator[ImageFile.ImageFile]:
    """Open an image as `Image.open` does, with `max_pixels` instead of Pillow's limit; None: to read its header alone.

    Pillow warns of its limit and refuses twice that, when it opens an image and again when it loads one. It is switched
    off while images are open in any thread, and then set as it was.

    Raises:
        TooManyPixelsError: it has more.
    """
    with _Reading.lock:
        if not _Reading.images:
            _Reading.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _Reading.images += 1
    try:
        with Image.open(file) as opened:
            width, height = opened.size
            if max_pixels and width * height > max_pixels:
                raise TooManyPixelsError(
                    f"{width}×{height} are {width * height} pixels, more than max_pixels={max_pixels}"
                )
            yield opened
    finally:
        with _Reading.lock:
            _Reading.images -= 1
            if not _Reading.images:
                Image.MAX_IMAGE_PIXELS = _Reading.limit


def decode(
    file: Path | BinaryIO,
    size: Size,
    resize: str = "squash",
    bits: int | None = 16,
    max_pixels: int = MAX_PIXELS,
) -> UInt8:
    """Decode the whole frame of an image, upright, as RGB of a size.

    Args:
        file: jpg, png, bmp, tif or webp; grey, palette, RGBA, CMYK or 16 bit. Of several frames the first is taken.
        size: of the result.
        resize: `squash` changes the aspect ratio, as the paper does; `letterbox` keeps it and pads with grey.
        bits: of `BITS`; white in a 16-bit image is 2^bits - 1. None: as few as its own values need, to look at a single
            image; those of a data set must be decoded alike.
        max_pixels: that an image may have.

    Returns:
        uint8 (height, width, 3).

    Raises:
        TooManyPixelsError: it has more.
        UnreadableError: a 16-bit image with values that need more bits.
        Exception: OSError, ValueError or what else Pillow raises for a file that it cannot decode.
    """
    height, width = size
    with open_image(file, max_pixels) as opened:
        if is_16_bit(opened):
            image = _rgb(_of_8_bits(file, opened, bits))
            whole = image.size
        else:
            whole = _upright_size(opened)
            # JPEG: decode at the smallest DCT scale that is not below the target
            opened.draft("RGB", (width, height) if whole == opened.size else (height, width))
            image = _rgb(ImageOps.exif_transpose(opened))
    left, top, right, bottom = place_in_frame(whole, size, resize)
    inner = right - left, bottom - top
    if image.size != inner:
        image = image.resize(inner, Image.Resampling.BILINEAR)  # antialiased in Pillow
    if inner != (width, height):
        frame = Image.new("RGB", (width, height), LETTERBOX_GREY)
        frame.paste(image, (left, top))
        image = frame
    return np.asarray(image)


def decode_to_show(file: Path | BinaryIO, largest: int, bits: int | None = 16, max_pixels: int = MAX_PIXELS) -> UInt8:
    """As `decode`, in the shape of the image itself, with no side above `largest` pixels."""
    with open_image(file, max_pixels) as opened:
        size = _upright_size(opened)
    width, height = size if max(size) <= largest else _inside(size, (largest, largest))
    return decode(file, (height, width), "squash", bits, max_pixels)


def place_in_frame(whole: tuple[int, int], size: Size, resize: str) -> tuple[int, int, int, int]:
    """Where in its frame `decode` puts an image of the width and height `whole`: left, top, right, bottom."""
    height, width = size
    across, down = _inside(whole, size) if resize == "letterbox" else (width, height)
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def _upright_size(opened: ImageFile.ImageFile) -> tuple[int, int]:
    """Width and height of an image as it is looked at."""
    return opened.size[::-1] if opened.getexif().get(_ORIENTATION) in _ON_THEIR_SIDE else opened.size


def _inside(whole: tuple[int, int], size: Size) -> tuple[int, int]:
    """Width and height with which an image of the width and height `whole` fills a frame in one direction.

    As `ImageOps.contain`, but an image as narrow as a line keeps one pixel instead of none.
    """
    across, down = whole
    height, width = size
    if across * height > down * width:
        return width, max(1, round(down * width / across))
    return max(1, round(across * height / down)), height


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point images have no agreed range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
    return image.convert("RGB")


AUTO_PIXELS = 192**2  # of a frame of data.image_size=auto
_MAX_ASPECT = 6  # of it: a longer image is squashed
_AUTO_STEP, _AUTO_LEAST = 32, 64  # pixels: the stride of most networks, and what is left of the last map


def choose_size(paths: Sequence[Path], max_pixels: int = MAX_PIXELS, sample: int = 200) -> Size:
    """A frame in the shape of most images, of about `AUTO_PIXELS` but no larger than they are, by the headers of some.

    The sides are multiples of 32 pixels. Files that cannot be read are not counted; of nothing else it is a square.
    """
    sizes = []
    for path in paths[:: max(1, len(paths) // sample)]:
        with suppress(Exception), open_image(path, max_pixels) as opened:  # decoding says what is wrong with it
            sizes.append(_upright_size(opened))
    if not sizes:
        sizes = [(math.isqrt(AUTO_PIXELS),) * 2]
    width, height = np.median(np.log(sizes), axis=0)
    pixels = min(AUTO_PIXELS, math.exp(width + height))
    aspect = np.clip(math.exp(width - height), 1 / _MAX_ASPECT, _MAX_ASPECT)
    sides = math.sqrt(pixels / aspect), math.sqrt(pixels * aspect)
    height, width = (max(_AUTO_LEAST, _AUTO_STEP * round(side / _AUTO_STEP)) for side in sides)
    return height, width


def is_16_bit(opened: ImageFile.ImageFile) -> bool:
    """Whether the channels of a file have 16 bits, read from its header: before it is loaded."""
    if opened.mode == "F":
        return False
    bits = getattr(opened, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))  # TIFF alone has tags
    return opened.mode.startswith("I") or max(bits) > 8 or any(";16" in _raw_mode(tile) for tile in opened.tile)


def file_is_16_bit(path: Path) -> bool:
    """Whether the channels of a file have 16 bits, mostly by its first bytes; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(25)
        if head.startswith((b"\xff\xd8", b"BM", b"RIFF")):
            return False
        if head.startswith(b"\x89PNG"):
            return head[24:] == b"\x10"
        with open_image(path) as opened:
            return is_16_bit(opened)
    except Exception:  # Pillow raises many kinds for broken files
        return False


def largest_value(file: Path | BinaryIO, max_pixels: int = MAX_PIXELS) -> int:
    """The largest value of a 16-bit image in any colour, from 0 to 65535; errors as of `decode`."""
    with open_image(file, max_pixels) as opened:
        return _largest_colour(_values(file, opened))


def fewest_bits(largest: int) -> int:
    """The fewest of `BITS` that hold a value."""
    return next(bits for bits in BITS if largest < 2**bits)


def _of_8_bits(file: Path | BinaryIO, opened: ImageFile.ImageFile, bits: int | None) -> Image.Image:
    """A 16-bit image with white at 2^bits - 1, upright, as one of 8 bits."""
    if bits == 16 and not opened.mode.startswith("I") and _has_upper_bytes(opened):
        return ImageOps.exif_transpose(opened)
    values = _values(file, opened)
    largest = _largest_colour(values)
    bits = bits or fewest_bits(largest)
    if largest >= 2**bits:
        raise UnreadableError(
            f"its largest value is {largest}, more than images of {bits} bits have ({2**bits - 1}); "
            f"train with data.bits={fewest_bits(largest)}"
        )
    levels = np.arange(2**16) * 255 // (2**bits - 1)
    image = levels.clip(max=255).astype(np.uint8)[values]
    if image.shape[2:] == (4,):
        image[:, :, 3] = values[:, :, 3] >> 8  # opacity does not come from the camera
    return Image.fromarray(image)


def _largest_colour(values: UInt16) -> int:
    return int(values[..., :3].max() if values.ndim == 3 else values.max())  # without opacity


def _values(file: Path | BinaryIO, opened: ImageFile.ImageFile) -> UInt16:
    """The values of a 16-bit image, upright: (H, W) if it is grey, else (H, W, 3 or 4)."""
    if opened.mode.startswith("I"):
        values = np.asarray(ImageOps.exif_transpose(opened)).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values from {values.min()} to {values.max()} are not 16-bit grey levels")
        return values.astype(np.uint16)
    raw_modes = {_raw_mode(tile) for tile in opened.tile}
    in_planes = getattr(opened, "tag_v2", {}).get(_PLANAR_CONFIGURATION, 1) == 2
    if in_planes or not raw_modes <= {f"{colours};16{order}" for colours in _COLOURS for order in "LBN"}:
        hint = ", or give data.bits=16 if its values use all of them" if _has_upper_bytes(opened) else ""
        raise ValueError(
            f"Pillow cannot read all 16 bits of {', '.join(sorted(raw_modes))}{' in planes' if in_planes else ''}; "
            f"save it as interleaved RGB, as grey or with 8 bits{hint}"
        )
    upper = np.asarray(ImageOps.exif_transpose(opened))
    with open_image(file) as again:  # Pillow keeps the upper byte of each value: told the other order, the lower one
        again.tile = [tile._replace(args=_in_other_order(tile.args)) for tile in again.tile]
        lower = np.asarray(ImageOps.exif_transpose(again))
    return np.asarray(upper.astype(np.uint16) << 8 | lower)


def _has_upper_bytes(opened: ImageFile.ImageFile) -> bool:
    """Whether Pillow reads the upper byte of each value of a 16-bit file; of uncompressed planes it reads noise."""
    return all(";16" in _raw_mode(tile) for tile in opened.tile)


def _raw_mode(tile: Any) -> str:
    """How Pillow reads a part of a file, such as RGB;16L."""
    args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    return str(args[0]) if args else ""


def _in_other_order(args: Any) -> Any:
    if isinstance(args, tuple):
        return (_in_other_order(args[0]), *args[1:])
    little = args[-1] == "L" or (args[-1] == "N" and sys.byteorder == "little")
    return args[:-1] + ("B" if little else "L")


def decode_all(
    paths: Sequence[Path],
    sha256s: Sequence[str],
    since: float,
    size: Size,
    resize: str = "squash",
    *,
    bits: int = 16,
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
) -> Iterator[UInt8 | Exception]:
    """Decode images in parallel, see `read_all` and `decode`: each uint8 (height, width, 3), or the error."""
    return read_all(lambda file: decode(file, size, resize, bits, max_pixels), paths, sha256s, since, threads=threads)


def read_all(
    read: Callable[[BinaryIO], T],
    paths: Sequence[Path],
    sha256s: Sequence[str],
    since: float,
    *,
    threads: int | None = None,
) -> Iterator[T | Exception]:
    """Read images in parallel, and make sure that they are the ones that were cataloged.

    Args:
        read: is called with the content of each.
        paths: of the files.
        sha256s: hash of the bytes of each.
        since: when the hashes were taken or, remembered ones, the files were as they had been then, in seconds since
            1970; only files that changed later are hashed again.
        threads: None: one a core.

    Yields:
        For each in order what `read` returns, or the error.
    """

    def work(file: tuple[Path, str]) -> T:
        return read(io.BytesIO(_read(*file, since)))

    return read_in_order(work, zip(paths, sha256s, strict=True), threads=threads)


def read_in_order(
    read: Callable[[S], T], files: Iterable[S], *, threads: int | None = None, ahead: int = 0
) -> Iterator[T | Exception]:
    """Call `read` with each file, in threads, and yield in their order what it returns, or the error.

    Args:
        read: may raise anything.
        files: what it is called with.
        threads: None: one a core.
        ahead: how many files may be read before the caller asks for them, if more than two for each thread.
    """

    def work(file: S) -> T | Exception:
        try:
            return read(file)
        except MemoryError:
            return NoMemoryError("there is not enough memory for it")
        except UnidentifiedImageError:  # whose message names the buffer in memory
            return UnidentifiedImageError("not an image that Pillow knows")
        except Exception as error:  # Pillow raises many kinds for broken files; the caller names every one
            return error

    threads = threads or joblib.cpu_count()
    jobs: deque[Future[T | Exception]] = deque()
    with ThreadPoolExecutor(threads) as pool:  # Pillow releases the interpreter lock while it decodes
        for file in files:
            jobs.append(pool.submit(work, file))
            # pool.map would decode all images, and keep in memory what the caller has not taken yet
            if len(jobs) > max(DECODED_AHEAD_PER_THREAD * threads, ahead):
                yield jobs.popleft().result()
        while jobs:
            yield jobs.popleft().result()


def _read(path: Path, sha256: str, since: float) -> bytes:
    content = read_content(path)
    try:
        status = path.stat()
    except OSError as error:
        raise UnreadableError(error.strerror) from error
    touched = max(status.st_mtime, status.st_ctime)  # moving another file here leaves its mtime as it was
    if touched > since - CLOCK_SKEW_SECONDS and hashlib.sha256(content).hexdigest() != sha256:
        raise UnreadableError("it has changed since it was cataloged")
    return content


def read_content(path: Path) -> bytes:
    """The bytes of a file; an `UnreadableError`, or a ValueError where there are none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableError(error.strerror) from error
    if not content:
        raise ValueError("the file is empty")
    return content


def decoding_error(broken: Sequence[tuple[Path, Exception]], fix: str = "") -> UserError:
    """The error that names the images that cannot be decoded and why; `fix` is a further thing to do."""
    lines = sorted(f"{path} ({type(error).__name__}: {error})" for path, error in broken)
    more = f"\n  and {len(lines) - 20} more" if len(lines) > 20 else ""
    shown = "\n  ".join(lines[:20])
    return UserError(f"{counted(len(lines), 'image')} cannot be decoded; replace or remove them{fix}:\n  {shown}{more}")
