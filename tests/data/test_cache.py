"""Decoded once: by whom, after what, and that nothing is lost or taken for something else."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from alu_defects.data import cache, decode, duplicates
from alu_defects.data.cache import PixelCache
from alu_defects.errors import UserError

SIZE = 24
Known = tuple[list[Path], list[str]]


def save(path: Path, seed: int) -> None:
    """An image of its own for every seed."""
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)


def hashed(folder: Path) -> Known:
    """What the catalog knows of all files."""
    paths = sorted(folder.iterdir())
    return paths, [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


@pytest.fixture
def images(tmp_path: Path) -> Known:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(200):
        save(folder / f"{number:03}.png", number)
    return hashed(folder)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded."""
    names: list[str] = []
    decode_all = decode.decode_all

    def spy(paths, *args, **options):
        names.extend(path.name for path in paths)
        return decode_all(paths, *args, **options)

    monkeypatch.setattr(decode, "decode_all", spy)
    return names


def contents(cache: PixelCache) -> tuple[bytes, bytes]:
    return cache.pixels_file.read_bytes(), (cache.folder / "index").read_bytes()


def read_pixels(cache: PixelCache, sha256s: list[str]) -> np.ndarray:
    stored = np.fromfile(cache.pixels_file, np.uint8).reshape(-1, SIZE, SIZE, 3)
    return stored[cache.find_rows(sha256s)]


def test_images_are_decoded_once_and_found_by_what_they_hold(images: Known, tmp_path: Path, decoded: list[str]) -> None:
    paths, sha256s = images
    cache = PixelCache(tmp_path / "cache", (SIZE, SIZE), "squash")
    cache.fill(paths, sha256s, 0, progress=False)
    assert len(decoded) == len(cache) == 200
    expected = np.stack([decode.decode(path, (SIZE, SIZE)) for path in paths])
    assert np.array_equal(read_pixels(cache, sha256s), expected)
    assert np.array_equal(cache.hashes(cache.find_rows(sha256s)), duplicates.hash_images(expected))

    decoded.clear()
    moved = [path.rename(path.with_name(f"moved {path.name}")) for path in paths]
    again = PixelCache(tmp_path / "cache", (SIZE, SIZE), "squash")
    again.fill(moved[50:], sha256s[50:], 0, progress=False)
    assert np.array_equal(read_pixels(again, sha256s[50:]), expected[50:])
    assert not decoded


def test_one_changed_file_means_one_image_decoded(images: Known, tmp_path: Path, decoded: list[str]) -> None:
    paths, sha256s = images
    cache = PixelCache(tmp_path / "cache", (SIZE, SIZE), "squash")
    cache.fill(paths, sha256s, 0, progress=False)
    before = read_pixels(cache, sha256s)
    decoded.clear()
    save(paths[7], 1000)
    paths, changed = hashed(paths[0].parent)
    cache.fill(paths, changed, 0, progress=False)
    assert decoded == ["007.png"]
    assert np.array_equal(read_pixels(cache, changed)[7], decode.decode(paths[7], (SIZE, SIZE)))
    assert np.array_equal(read_pixels(cache, sha256s), before)  # whoever maps the file still sees the old ones


def test_each_size_and_resize_has_its_own_cache(images: Known, tmp_path: Path) -> None:
    paths, sha256s = (part[:2] for part in images)
    for size, resize in (
        ((SIZE, SIZE), "squash"),
        ((SIZE, SIZE), "letterbox"),
        ((16, 18), "squash"),
        ((18, 16), "squash"),
    ):
        cache = PixelCache(tmp_path / "cache", size, resize)
        assert len(cache) == 0
        cache.fill(paths, sha256s, 0, progress=False)
        stored = np.fromfile(cache.pixels_file, np.uint8).reshape(2, *size, 3)
        assert np.array_equal(stored[cache.find_rows(sha256s)[1]], decode.decode(paths[1], size, resize))


def test_folders_name_both_sides_where_they_differ(tmp_path: Path) -> None:
    names = [
        PixelCache(tmp_path, size, "squash", bits).folder.name for size, bits in (((24, 24), None), ((24, 36), 12))
    ]
    assert names == ["v1_24_squash", "v1_24x36_squash_12bits"]


@pytest.mark.parametrize("halves", [(0, 0), (100, 0), (3 * SIZE**2 * 3 + 1, 0), (3 * SIZE**2 * 2, 250)])
def test_what_a_killed_writer_left_is_finished_to_the_same_bytes(
    images: Known, tmp_path: Path, decoded: list[str], halves: tuple[int, int]
) -> None:
    """`halves` are bytes beyond the last complete record, of pixels and index."""
    paths, sha256s = images
    whole = PixelCache(tmp_path / "undisturbed", (SIZE, SIZE), "squash")
    whole.fill(paths, sha256s, 0, progress=False)
    pixel_bytes, index_bytes = contents(whole)
    decoded.clear()
    cache = PixelCache(tmp_path / "killed", (SIZE, SIZE), "squash")
    cache.folder.mkdir(parents=True)
    rows, record = 90, len(index_bytes) // 200
    cache.pixels_file.write_bytes(pixel_bytes[: rows * 3 * SIZE**2 + halves[0]])
    (cache.folder / "index").write_bytes(index_bytes[: rows * record] + b"\7" * halves[1])
    cache.fill(paths, sha256s, 0, progress=False)
    complete = rows + halves[1] // record  # a wrong record is only ever one that no image asks for
    assert decoded == [path.name for path in paths[rows:]]
    if complete == rows:
        assert contents(cache) == contents(whole)
    assert np.array_equal(read_pixels(cache, sha256s), read_pixels(whole, sha256s))


def test_an_index_without_its_pixels_is_no_cache(images: Known, tmp_path: Path, decoded: list[str]) -> None:
    paths, sha256s = images
    cache = PixelCache(tmp_path / "cache", (SIZE, SIZE), "squash")
    cache.fill(paths, sha256s, 0, progress=False)
    expected = read_pixels(cache, sha256s)
    for spoil in (cache.pixels_file.unlink, lambda: os.truncate(cache.pixels_file, 3 * SIZE**2 * 150 + 7)):
        decoded.clear()
        spoil()
        cache.fill(paths, sha256s, 0, progress=False)
        assert len(decoded) in (200, 50)
        assert np.array_equal(read_pixels(cache, sha256s), expected)


FILL = """
import sys
from pathlib import Path
from alu_defects.data import decode
from alu_defects.data.cache import PixelCache
sys.path.insert(0, {tests!r})
from test_cache import hashed
import time
original = decode.decode
decode.decode = lambda *args: (time.sleep({pause}), original(*args))[1]
import joblib
joblib.cpu_count = lambda: 1
PixelCache(Path({cache!r}), ({size}, {size}), "squash").fill(*hashed(Path({images!r})), 0, progress=False)
"""

Start = Callable[[Path], "subprocess.Popen[str]"]


@pytest.fixture
def start(images: Known) -> Start:
    """Fill a cache slowly in another process."""

    def run(cache: Path) -> subprocess.Popen[str]:
        words = {"tests": str(Path(__file__).parent), "cache": str(cache), "images": str(images[0][0].parent)}
        code = FILL.format(pause=0.02, size=SIZE, **words)
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    return run


def grown(path: Path) -> None:
    """Wait until something is in a file."""
    for _ in range(3000):
        if path.exists() and path.stat().st_size:
            return
        time.sleep(0.01)
    raise AssertionError(f"nothing in {path}")


def test_the_cache_of_a_killed_process_is_continued_to_the_same_bytes(
    images: Known, tmp_path: Path, start: Start, decoded: list[str]
) -> None:
    cache = PixelCache(tmp_path / "killed", (SIZE, SIZE), "squash")
    process = start(tmp_path / "killed")
    grown(cache.folder / "index")
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(cache)
    assert 0 < kept < 200
    cache.fill(*images, 0, progress=False)
    assert len(decoded) == 200 - kept
    whole = PixelCache(tmp_path / "undisturbed", (SIZE, SIZE), "squash")
    whole.fill(*images, 0, progress=False)
    assert contents(cache) == contents(whole)


@pytest.mark.slow
def test_of_two_processes_one_decodes_and_the_other_waits_with_a_message(
    images: Known, tmp_path: Path, start: Start, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = PixelCache(tmp_path / "cache", (SIZE, SIZE), "squash")
    process = start(tmp_path / "cache")
    grown(cache.folder / "index")
    cache.fill(*images, 0, progress=False)
    assert f"another process is decoding images into {cache.folder}; waiting for it" in capsys.readouterr().out
    assert process.wait() == 0
    assert not decoded
    assert len(cache) == 200


def test_broken_images_are_all_named_and_the_good_ones_kept(images: Known, tmp_path: Path) -> None:
    paths, _ = images
    for number in (3, 90, 199):
        paths[number].write_bytes(f"no image {number}".encode())
    known = hashed(paths[0].parent)
    cache = PixelCache(tmp_path / "cache", (SIZE, SIZE), "squash")
    broken = cache.fill(*known, 0, progress=False)
    assert sorted(path for path, _ in broken) == [paths[number] for number in (3, 90, 199)]
    assert all(isinstance(error, UnidentifiedImageError) for _, error in broken)
    assert len(cache) == 197
    assert len(cache.fill(*known, 0, progress=False)) == 3  # they are tried again, and not forgotten


def test_too_little_disk_space_is_refused_before_anything_is_decoded(
    images: Known, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=200 * 3 * SIZE**2))
    pixels = PixelCache(tmp_path / "cache", (SIZE, SIZE), "squash")
    with pytest.raises(UserError, match=r"200 images of data\.image_size=24 need .* are free; give another paths"):
        pixels.fill(*images, 0, progress=False)
    assert not decoded


def test_a_disk_that_fills_up_keeps_the_cache_intact(images: Known, tmp_path: Path, decoded: list[str]) -> None:
    cache = PixelCache(tmp_path / "cache", (SIZE, SIZE), "squash")
    cache.fill(images[0][:50], images[1][:50], 0, progress=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60 * 3 * SIZE**2, hard))
    try:
        with pytest.raises(UserError, match=r"cannot be written \(File too large\); what is in it is unharmed"):
            cache.fill(*images, 0, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert len(cache) == 50
    decoded.clear()
    cache.fill(*images, 0, progress=False)
    assert len(decoded) == 150
    expected = np.stack([decode.decode(path, (SIZE, SIZE)) for path in images[0]])
    assert np.array_equal(read_pixels(cache, images[1]), expected)


@pytest.mark.parametrize(("rows", "at_once"), [(50, 25), (1, 1), (1000, 64)])
def test_decoded_images_that_wait_to_be_written_are_bounded_by_bytes(
    images: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, at_once: int
) -> None:
    written: list[int] = []
    hashes = duplicates.hash_images
    monkeypatch.setattr(duplicates, "hash_images", lambda images: written.append(len(images)) or hashes(images))
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(cache, "BUFFER_BYTES", rows * 3 * SIZE**2)
    pixels = PixelCache(tmp_path / "cache", (SIZE, SIZE), "squash")
    pixels.fill(*images, 0, progress=False)
    assert max(written) == at_once
    assert sum(written) == 200
    expected = np.stack([decode.decode(path, (SIZE, SIZE)) for path in images[0]])
    assert np.array_equal(read_pixels(pixels, images[1]), expected)


def test_a_place_that_cannot_be_written_is_an_error_with_a_fix(images: Known, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written .* Give another paths\.cache, or do without"):
        PixelCache(tmp_path / "file", (SIZE, SIZE), "squash").fill(*images, 0, progress=False)
