"""Photographs of every kind → the same uint8 RGB, and broken files named all at once."""

import hashlib
import os
import struct
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alu_defects.data import decode, folder

COLOUR = (200, 100, 50)


def filled(*values: int, dtype: str = "u1") -> np.ndarray:
    return np.full((12, 16, len(values)), values, dtype).squeeze(axis=2 if len(values) == 1 else ())


def halves(size: tuple[int, int], upper: tuple[int, ...] = COLOUR, lower: tuple[int, ...] = (0, 0, 255)) -> Image.Image:
    """An image that shows which side is up."""
    image = Image.new("RGB", size, lower)
    image.paste(upper, (0, 0, size[0], size[1] // 2))
    return image


def test_every_file_format_is_read_also_with_suffixes_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for number, suffix in enumerate(("jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp", "JPG", "PNG", "TIFF")):
        Image.new("RGB", (40 + number, 30), COLOUR).save(tmp_path / "ab"[number % 2] / f"{suffix}.{suffix}")
    table = folder.find_images(tmp_path).table
    assert len(table) == 10
    images = np.stack(
        list(decode.decode_all([tmp_path / path for path in table["path"]], table["sha256"], 0, (24, 24)))
    )
    assert images.shape == (10, 24, 24, 3)
    assert images.dtype == np.uint8
    assert np.abs(images.astype(int) - COLOUR).max() <= 3


def palette(path: Path, **options: int) -> None:
    image = Image.new("P", (16, 12), 1)
    image.putpalette([255, 255, 255, *COLOUR])
    image.save(path, **options)


def saved(image: np.ndarray | Image.Image) -> Callable[[Path], None]:
    return (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save


@pytest.mark.parametrize(
    ("name", "write", "expected", "tolerance"),
    [
        ("grey.jpg", saved(filled(90)), (90, 90, 90), 1),
        ("one bit.png", saved(Image.new("1", (16, 12), 1)), (255, 255, 255), 0),
        ("palette.png", palette, COLOUR, 0),
        ("transparent palette.png", partial(palette, transparency=1), (0, 0, 0), 0),
        ("grey alpha.png", saved(Image.new("LA", (16, 12), (200, 128))), (100, 100, 100), 1),
        ("opaque.png", saved(Image.new("RGBA", (16, 12), (*COLOUR, 255))), COLOUR, 0),
        ("see-through.png", saved(Image.new("RGBA", (16, 12), (*COLOUR, 0))), (0, 0, 0), 0),
        ("see-through.webp", saved(Image.new("RGBA", (16, 12), (*COLOUR, 0))), (0, 0, 0), 0),
        ("cmyk.jpg", saved(Image.new("CMYK", (16, 12), (0, 255, 255, 0))), (255, 0, 0), 2),
        ("16 bit.png", saved(filled(32768, dtype="u2")), (128, 128, 128), 1),
        ("16 bit white.png", saved(filled(65535, dtype="u2")), (255, 255, 255), 0),
        ("16 bit.tif", saved(filled(32768, dtype="u2")), (128, 128, 128), 1),
        ("16 bit big-endian.tif", saved(filled(32768, dtype=">u2")), (128, 128, 128), 1),
        ("32 bit.tif", saved(filled(32768, dtype="i4")), (128, 128, 128), 1),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(
    tmp_path: Path, name: str, write: Callable[[Path], None], expected: tuple[int, ...], tolerance: int
) -> None:
    write(tmp_path / name)
    image = decode.decode(tmp_path / name, (8, 8))
    assert image.shape == (8, 8, 3)
    assert np.abs(image.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize(("orientation", "turn"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90)])
def test_a_turned_photograph_comes_out_upright(tmp_path: Path, orientation: int, turn: Image.Transpose) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    halves((1280, 640)).transpose(turn).save(tmp_path / "x.jpg", exif=exif)  # large enough to be decoded reduced
    squashed = decode.decode(tmp_path / "x.jpg", (32, 32)).astype(int)
    assert np.abs(squashed[:14] - COLOUR).max() <= 5
    assert np.abs(squashed[18:] - (0, 0, 255)).max() <= 5
    boxed = decode.decode(tmp_path / "x.jpg", (32, 32), "letterbox").astype(int)
    assert (boxed[:8] == 128).all()  # still wider than high
    assert (boxed[24:] == 128).all()
    assert np.abs(boxed[10:14] - COLOUR).max() <= 5


def test_the_first_of_several_frames_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 12), colour) for colour in (COLOUR, (0, 0, 0), (9, 9, 9))]
    frames[0].save(tmp_path / "x.tif", save_all=True, append_images=frames[1:])
    assert (decode.decode(tmp_path / "x.tif", (8, 8)) == COLOUR).all()


@pytest.mark.parametrize("resize", ["squash", "letterbox"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "I;16"])
def test_an_image_of_the_aspect_ratio_fills_the_frame(tmp_path: Path, resize: str, orientation: int, mode: str) -> None:
    columns = np.linspace(0, 255, 1215)
    ramp = Image.fromarray(np.tile(columns, (459, 1)).astype(np.uint8))  # 9 times the frame: no multiple of a DCT scale
    image = Image.fromarray(np.asarray(ramp).astype(np.uint16) << 8) if mode == "I;16" else ramp.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    if orientation == 6:
        image = image.transpose(Image.Transpose.ROTATE_90)
    image.save(path := tmp_path / ("x.png" if mode == "I;16" else "x.jpg"), exif=exif)
    decoded = decode.decode(path, (51, 135), resize)
    assert decoded.shape == (51, 135, 3)
    expected = columns.reshape(135, 9).mean(axis=1)[None, :, None]
    assert np.abs(decoded - expected).max() < 6  # upright, and no grey at the edges


@pytest.mark.parametrize(
    ("size", "frame", "inner"),
    [
        ((640, 160), (64, 128), (32, 128)),
        ((160, 640), (64, 128), (64, 16)),
        ((50, 20), (100, 100), (40, 100)),  # small ones are enlarged, too
        ((640, 1), (64, 128), (1, 128)),
    ],
)
def test_a_letterbox_keeps_the_aspect_ratio_in_any_frame(
    tmp_path: Path, size: tuple[int, int], frame: tuple[int, int], inner: tuple[int, int]
) -> None:
    Image.new("RGB", size, COLOUR).save(tmp_path / "x.png")
    is_image = (decode.decode(tmp_path / "x.png", frame, "letterbox") == COLOUR).all(axis=2)
    down, across = (np.flatnonzero(is_image.any(axis=axis)) for axis in (1, 0))
    assert (len(down), len(across)) == inner
    assert is_image[down[0] : down[-1] + 1, across[0] : across[-1] + 1].all()
    for place, whole in ((down, frame[0]), (across, frame[1])):
        assert abs(place[0] - (whole - 1 - place[-1])) <= 1  # in the middle


def test_a_turned_jpeg_is_decoded_reduced_but_never_below_the_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1600, 800), COLOUR).save(tmp_path / "x.jpg", exif=exif)  # upright: 800 wide, 1600 high
    decoded: list[tuple[int, int]] = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a, **k: decoded.append(self.size) or resize(self, *a, **k))
    for frame in ((390, 190), (190, 390), (390, 700)):
        decode.decode(tmp_path / "x.jpg", frame)
    assert decoded == [(200, 400), (400, 800), (800, 1600)]


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp", "deep.png", "deep.tif"])
def test_the_limit_of_pixels_is_ours_in_every_thread(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    image = Image.new("I;16", (40, 30), 9) if "deep" in name else Image.new("RGB", (40, 30), COLOUR)
    image.save(path := tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow warns above it and refuses above 200
    paths, sha256s = [path] * 40, [hashed(path)] * 40
    for limit in (1200, 1199):
        found = list(decode.decode_all(paths, sha256s, 0, (8, 9), max_pixels=limit, threads=4))
        assert all(isinstance(one, decode.TooManyPixelsError) == (limit < 1200) for one in found)
    message = "40×30 are 1200 pixels, more than max_pixels=1199"
    assert {str(one) for one in found} == {message}
    assert message in str(decode.decoding_error([(path, found[0])]))
    assert decode.file_is_16_bit(path) == ("deep" in name)
    assert not recwarn.list
    assert Image.MAX_IMAGE_PIXELS == 100  # as it was for others


@pytest.mark.parametrize("size", [(12000, 1), (1, 12000)])
def test_a_line_of_pixels_is_still_seen(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, COLOUR).save(tmp_path / "x.png")
    assert (decode.decode(tmp_path / "x.png", (16, 16)) == COLOUR).all()
    boxed = decode.decode(tmp_path / "x.png", (16, 16), "letterbox")
    line = boxed if size[1] == 1 else boxed.transpose(1, 0, 2)
    assert (line == COLOUR).all(axis=(1, 2)).sum() == 1
    assert (line == 128).all(axis=(1, 2)).sum() == 15


@pytest.mark.parametrize("size", [(512, 256), (256, 512), (256, 256)])
def test_marks_at_all_four_edges_survive(tmp_path: Path, size: tuple[int, int]) -> None:
    frame = np.zeros((size[1], size[0], 3), np.uint8)
    for edge in (frame[:16], frame[-16:], frame[:, :16], frame[:, -16:]):
        edge[:] = 255
    Image.fromarray(frame).save(tmp_path / "x.png")
    squashed = decode.decode(tmp_path / "x.png", (64, 64))
    boxed = decode.decode(tmp_path / "x.png", (64, 64), "letterbox")
    across, down = (32 * side // max(size) for side in size)  # half the sides of the image in its box
    inner = boxed[32 - down : 32 + down, 32 - across : 32 + across]
    for image in (squashed, inner):
        for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
            assert edge.min() > 240
        assert image[len(image) // 2, image.shape[1] // 2].max() == 0
    assert (boxed == 128).all(axis=2).sum() == 64**2 - inner[:, :, 0].size


def test_reduced_decoding_is_close_to_full_decoding_and_never_below_the_size_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(60, 200, (48, 64, 3), dtype=np.uint8)).resize(
        (2560, 1920), Image.Resampling.BICUBIC
    )
    noise = rng.normal(0, 4, (1920, 2560, 1))
    image = Image.fromarray((np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8))
    image.save(tmp_path / "x.jpg", quality=90)
    with Image.open(tmp_path / "x.jpg") as file:
        full = np.asarray(file.convert("RGB").resize((400, 400), Image.Resampling.BILINEAR)).astype(float)
    assert np.abs(decode.decode(tmp_path / "x.jpg", (400, 400)) - full).mean() < 0.5

    decoded: list[tuple[int, int]] = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a, **k: decoded.append(self.size) or resize(self, *a, **k))
    for size in (240, 241, 480, 481, 960, 961):
        decode.decode(tmp_path / "x.jpg", (size, size))
    assert [height for _, height in decoded] == [240, 480, 480, 960, 960, 1920]


def bomb(path: Path) -> None:
    """A PNG of some bytes that claims to be 30000 × 30000."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def hashed(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_all_broken_files_are_named_at_once_and_no_good_one(tmp_path: Path) -> None:
    Image.effect_noise((200, 200), 50).save(tmp_path / "good.jpg")
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("no image", encoding="utf-8")
    Image.fromarray(np.full((9, 9), 0.5, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((9, 9), 70000, np.int32)).save(tmp_path / "range.tif")
    bomb(tmp_path / "bomb.png")
    names = ["bomb.png", "empty.png", "float.tif", "range.tif", "text.jpg", "truncated.jpg"]
    paths = [tmp_path / name for name in ("good.jpg", *reversed(names))]
    decoded = list(decode.decode_all(paths, [hashed(path) for path in paths], 0, (16, 16)))
    broken = [(path, found) for path, found in zip(paths, decoded, strict=True) if isinstance(found, Exception)]
    text = str(decode.decoding_error(broken))
    assert text.startswith("6 images cannot be decoded")
    assert "BytesIO" not in text
    lines = text.splitlines()[1:]
    assert [line.split(" (")[0].strip() for line in lines] == [str(tmp_path / name) for name in names]


def test_only_a_few_images_are_decoded_before_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    begun: list[int] = []
    original = decode.decode
    monkeypatch.setattr(decode, "decode", lambda *args: begun.append(1) or original(*args))
    sha256 = hashed(tmp_path / "a.png")
    for taken, _ in enumerate(decode.decode_all([tmp_path / "a.png"] * 100, [sha256] * 100, 0, (8, 8), threads=3), 1):
        time.sleep(0.002)  # as long as it takes to decode some
        assert len(begun) - taken <= 6  # two a thread
    assert len(begun) == taken == 100


def test_a_file_that_changed_since_it_was_cataloged_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        Image.effect_noise((20, 20), 50).save(tmp_path / f"{name}.png")
    paths = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "gone.png"]
    now = time.time()
    good, changed, gone = decode.decode_all(paths, [hashed(paths[0])] * 3, now, (8, 8))
    assert isinstance(good, np.ndarray)
    assert "changed since it was cataloged" in str(changed)
    assert isinstance(gone, decode.UnreadableError)
    os.utime(paths[1], (0, 0))  # as if another file had been moved here
    assert isinstance(
        next(iter(decode.decode_all(paths[1:2], [hashed(paths[0])], now, (8, 8)))), decode.UnreadableError
    )


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(640, 480)] * 3, (160, 224)),
        ([(200, 200)] * 3, (192, 192)),
        ([(100, 90)] * 3, (96, 96)),  # no larger than they are
        ([(8, 8)], (64, 64)),
        ([(960, 320), (960, 320), (300, 300)], (96, 320)),  # as most
        ([(4000, 40)], (64, 480)),  # longer than six to one is squashed
        ([], (192, 192)),
    ],
)
def test_a_frame_in_the_shape_of_the_images(tmp_path, sizes, expected):
    for number, size in enumerate(sizes):
        Image.new("L", size).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert decode.choose_size(sorted(tmp_path.iterdir())) == expected


def test_a_turned_image_counts_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (640, 480)).save(tmp_path / "turned.jpg", exif=exif)
    assert decode.choose_size([tmp_path / "turned.jpg"]) == (224, 160)
