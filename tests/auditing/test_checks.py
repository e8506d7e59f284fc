"""The inspection of single files: what cannot be decoded, and what is odd."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alu_defects.auditing.checks import inspect_all, inspect_file
from alu_defects.auditing.findings import UNDECODABLE, Kind
from alu_defects.data import decode

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (90, 120, 3), dtype=np.uint8))


def kinds(path: Path) -> list[Kind]:
    return [kind for kind, _ in inspect_file(path, (64, 64)).remarks]


MODES = {
    "a.jpg": ["RGB", "L", "CMYK"],
    "a.JPEG": ["RGB"],
    "a.png": ["RGB", "L", "1", "P", "RGBA", "LA", "I;16"],
    "a.tif": ["RGB", "L", "CMYK", "I;16"],
    "a.bmp": ["RGB", "L", "P"],
    "a.webp": ["RGB", "RGBA"],
}


@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name, modes in MODES.items() for mode in modes])
def test_whatever_training_can_read_is_without_remark(tmp_path: Path, name: str, mode: str) -> None:
    grey16 = Image.fromarray(RNG.integers(0, 60000, (90, 120), dtype=np.uint16))
    (grey16 if mode == "I;16" else NOISE.convert(mode)).save(tmp_path / name)
    seen = inspect_file(tmp_path / name, (64, 64))
    assert seen.remarks == ()
    assert (seen.width, seen.height) == (120, 90)
    assert seen.format == {"jpg": "JPEG", "JPEG": "JPEG", "tif": "TIFF"}.get(name[2:], name[2:].upper())
    assert seen.hash.any()


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.bmp"])
@pytest.mark.parametrize("kept", [0.5, 0.98])
def test_a_truncated_file_is_truncated(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    NOISE.save(path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert kinds(path) == [Kind.TRUNCATED]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", Kind.EMPTY),
        (b"hello", Kind.NO_IMAGE),
        (b"\xff\xd8\xff", Kind.NO_IMAGE),
        (b"\0" * 5000, Kind.NO_IMAGE),
    ],
)
def test_files_without_an_image_get_their_kind(tmp_path: Path, content: bytes, kind: Kind) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert kinds(tmp_path / "a.jpg") == [kind]


def test_what_training_refuses_is_broken(tmp_path: Path) -> None:
    Image.fromarray(RNG.random((50, 50), dtype=np.float32)).save(tmp_path / "float.tif")
    assert kinds(tmp_path / "float.tif") == [Kind.BROKEN]
    assert kinds(tmp_path / "missing.jpg") == [Kind.BROKEN]


@pytest.mark.parametrize(("size", "kind"), [((120, 31), Kind.TINY), ((400, 79), Kind.NARROW), ((79, 400), Kind.NARROW)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int], kind: Kind) -> None:
    NOISE.resize(size).save(tmp_path / "a.png")
    assert kinds(tmp_path / "a.png") == [kind]


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_only_the_limit_of_pixels_makes_an_image_huge(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    NOISE.save(path := tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90 * 30)  # Pillow refuses it
    pixels = NOISE.width * NOISE.height
    refused, taken = (inspect_all([path], (64, 64), limit, progress=False)[0] for limit in (pixels - 1, pixels))
    assert [kind for kind, _ in refused.remarks] == [Kind.HUGE]
    assert f"{pixels} pixels, more than max_pixels={pixels - 1}" in refused.remarks[0][1]
    assert refused.width == 0
    assert not taken.remarks
    assert not recwarn.list
    assert Image.MAX_IMAGE_PIXELS == 90 * 30


def test_narrow_is_what_the_frame_squashes(tmp_path: Path) -> None:
    NOISE.resize((400, 50)).save(path := tmp_path / "a.png")
    assert [kind for kind, _ in inspect_file(path, (64, 128)).remarks] == []
    assert [kind for kind, _ in inspect_file(path, (128, 64)).remarks] == [Kind.NARROW]


def test_one_colour_other_format_turned_and_several_frames(tmp_path: Path) -> None:
    Image.new("RGB", (100, 80), (9, 8, 7)).save(tmp_path / "plain.png")
    assert inspect_file(tmp_path / "plain.png", (64, 64)).remarks == ((Kind.ONE_COLOUR, "all pixels are (9, 8, 7)"),)
    NOISE.save(tmp_path / "a.jpg", format="PNG")
    assert inspect_file(tmp_path / "a.jpg", (64, 64)).remarks == ((Kind.OTHER_FORMAT, "the content is PNG"),)
    exif = Image.Exif()
    exif[0x0112] = 6
    NOISE.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert kinds(tmp_path / "turned.jpg") == [Kind.TURNED]
    NOISE.rotate(-90, expand=True).save(tmp_path / "upright.jpg", quality=95)
    hashes = [inspect_file(tmp_path / name, (64, 64)).hash for name in ("turned.jpg", "upright.jpg")]
    assert np.bitwise_count(hashes[0] ^ hashes[1]).sum() < 100
    NOISE.save(tmp_path / "two.tif", save_all=True, append_images=[NOISE])
    assert inspect_file(tmp_path / "two.tif", (64, 64)).remarks == ((Kind.FRAMES, "2 frames"),)
    NOISE.save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[NOISE])
    assert kinds(tmp_path / "phone.jpg") == [Kind.FRAMES]  # and no other format


def test_stripes_are_not_one_colour(tmp_path: Path) -> None:
    stripes = np.zeros((80, 100, 3), np.uint8)
    stripes[::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    assert kinds(tmp_path / "a.png") == []


def test_the_inspection_and_the_training_agree(tmp_path: Path) -> None:
    NOISE.save(tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:-700])
    (tmp_path / "text.jpg").write_text("text")
    paths = [tmp_path / name for name in ("good.jpg", "cut.jpg", "text.jpg")]
    for path, seen in zip(paths, inspect_all(paths, (64, 64), progress=False), strict=True):
        broken = bool({kind for kind, _ in seen.remarks} & UNDECODABLE)
        try:
            decode.decode(path, (64, 64))
        except OSError:
            assert broken
        else:
            assert not broken
