"""Cameras of 10 to 14 bits in 16-bit files: every level is kept, and one number holds for the whole data set."""

import hashlib
import io
import json
import logging
import os
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alu_defects.audit import audit
from alu_defects.auditing.findings import Kind, Severity
from alu_defects.config import compose
from alu_defects.data import bit_depth, decode
from alu_defects.data.datamodule import DefectData
from alu_defects.errors import UserError
from alu_defects.evaluate import evaluate
from alu_defects.train import train
from alu_defects.training import checkpoint

SPLIT = {"name": "random", "val_fraction": 0.25, "test_fraction": 0.25, "seed": 0}


def png(values: np.ndarray) -> bytes:
    """A 16-bit PNG of (H, W) or (H, W, channels), which Pillow cannot write in colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = np.atleast_3d(values).shape
    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2").reshape(height, -1))
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(
    values: np.ndarray, order: str = "<", deflate: bool = False, alpha: int | None = None, planes: int = 1
) -> bytes:
    """A 16-bit TIFF of (H, W) or (H, W, channels)."""
    height, width, channels = np.atleast_3d(values).shape
    strips = [values] if planes == 1 else list(values.transpose(2, 0, 1))
    data = [np.ascontiguousarray(strip).astype(f"{order}u2").tobytes() for strip in strips]
    data = [zlib.compress(strip) for strip in data] if deflate else data
    tags: dict[int, list[int]] = {
        256: [width],
        257: [height],
        258: [16] * channels,
        259: [8 if deflate else 1],
        262: [2 if channels > 2 else 1],
        273: [0] * len(data),
        277: [channels],
        278: [height],
        279: [len(strip) for strip in data],
        284: [planes],
    }
    if alpha is not None:
        tags[338] = [alpha]
    beside = 8 + 2 + 12 * len(tags) + 4
    start = beside + sum(4 * len(entry) for entry in tags.values() if len(entry) > 1)
    tags[273] = [start + sum(len(strip) for strip in data[:k]) for k in range(len(data))]
    directory, more = b"", b""
    for tag, entry in tags.items():
        packed = struct.pack(f"{order}{len(entry)}I", *entry)
        directory += struct.pack(f"{order}HHI", tag, 4, len(entry))
        directory += packed if len(entry) == 1 else struct.pack(f"{order}I", beside + len(more))
        more += packed if len(entry) > 1 else b""
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return head + directory + b"\0\0\0\0" + more + b"".join(data)


def ramp(bits: int, channels: int = 1) -> np.ndarray:
    """64 × 64 values from 0 to the largest, other ones in each channel."""
    values = np.linspace(0, 2**bits - 1, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    turned = [np.rot90(values, k) for k in range(channels)]
    return values if channels == 1 else np.stack(turned, axis=2)


GREY = {"png": png, "tif": tiff, "big-endian tif": lambda v: tiff(v, ">"), "deflated tif": lambda v: tiff(v, ">", True)}
COLOUR = {
    "png": png,
    "tif": tiff,
    "big-endian tif": lambda v: tiff(v, ">"),
    "deflated tif": lambda v: tiff(v, "<", True),
    "deflated big-endian tif": lambda v: tiff(v, ">", True),
}


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("kind", GREY)
def test_a_ramp_of_few_bits_keeps_its_grey_levels(kind: str, bits: int) -> None:
    file = io.BytesIO(GREY[kind](ramp(bits)))
    decoded = decode.decode(file, (64, 64), "squash", bits)
    assert np.array_equal(decoded, np.stack([ramp(bits).astype(int) * 255 // (2**bits - 1)] * 3, axis=2))
    assert len(np.unique(decoded)) == 256
    assert decode.largest_value(file) == 2**bits - 1
    assert np.array_equal(decode.decode(file, (64, 64), "squash", None), decoded)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", COLOUR)
def test_a_colour_ramp_of_few_bits_keeps_its_levels(kind: str, channels: int, bits: int) -> None:
    values = ramp(bits, channels)
    if channels == 4:
        values[:, :, 3] = 65535  # opaque, whatever the camera has
    alpha = {"alpha": 2} if channels == 4 and kind == "tif" else {}
    file = io.BytesIO(tiff(values, **alpha) if alpha else COLOUR[kind](values))
    decoded = decode.decode(file, (64, 64), "squash", bits)
    assert np.array_equal(decoded, values[:, :, :3].astype(int) * 255 // (2**bits - 1))
    assert decode.largest_value(file) == 2**bits - 1


def test_images_of_16_bits_are_decoded_as_before() -> None:
    values = ramp(16, 3)
    assert np.array_equal(decode.decode(io.BytesIO(png(values)), (64, 64)), values >> 8)
    grey = decode.decode(io.BytesIO(png(ramp(16))), (64, 64))[:, :, 0]
    assert np.array_equal(grey, ramp(16) // 257)


@pytest.mark.parametrize(
    ("content", "bits", "message"),
    [
        (png(ramp(12, 2)), 12, r"all 16 bits of LA;16B; save it as .* or give data\.bits=16 if its"),
        (tiff(ramp(12, 4), alpha=1), 12, "all 16 bits of RGBa;16L; save it as interleaved RGB"),
        (tiff(ramp(12, 3), deflate=True, planes=2), 12, "in planes; save it as interleaved RGB"),
        (tiff(ramp(16, 3), planes=2), 16, "in planes; save it as interleaved RGB, as grey or with 8 bits$"),
    ],
)
def test_layouts_of_which_pillow_reads_only_one_byte_are_refused(content: bytes, bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode.decode(io.BytesIO(content), (64, 64), "squash", bits)


def test_values_above_the_bits_are_refused_with_the_fix() -> None:
    with pytest.raises(decode.UnreadableError, match=r"is 4095, more than images of 10 bits .*data\.bits=12"):
        decode.decode(io.BytesIO(png(ramp(12, 3))), (64, 64), "squash", 10)


def test_16_bits_are_known_from_the_content_of_a_file(tmp_path: Path) -> None:
    contents = {
        "grey.png": png(ramp(12)),
        "colour.png": png(ramp(12, 3)),
        "named.jpg": png(ramp(12)),
        "grey.tif": tiff(ramp(12)),
        "colour.tif": tiff(ramp(12, 3), ">"),
        "planes.tif": tiff(ramp(12, 3), planes=2),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert decode.file_is_16_bit(tmp_path / name), name
    image = Image.fromarray(np.zeros((9, 9, 3), np.uint8))
    for suffix in ("png", "jpg", "bmp", "webp", "tif"):
        image.save(tmp_path / f"8.{suffix}")
        assert not decode.file_is_16_bit(tmp_path / f"8.{suffix}")
    (tmp_path / "text.tif").write_text("no image")
    assert not decode.file_is_16_bit(tmp_path / "text.tif")
    assert not decode.file_is_16_bit(tmp_path / "missing.png")


@pytest.fixture
def images(tmp_path: Path) -> tuple[list[Path], list[str]]:
    """Eight 16-bit images with the largest values 100, 200, ... and what the catalog knows of them."""
    paths = [tmp_path / f"{number}.png" for number in range(8)]
    for number, path in enumerate(paths):
        path.write_bytes(png(np.full((4, 4), 100 * (number + 1))))
    return paths, [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The largest values that were found by decoding."""
    values: list[int] = []
    largest_value = decode.largest_value
    monkeypatch.setattr(
        decode, "largest_value", lambda file, **limit: values.append(largest_value(file, **limit)) or values[-1]
    )
    return values


def test_the_largest_value_of_all_images_decides(images: Any, tmp_path: Path) -> None:
    paths, sha256s = images
    assert bit_depth.choose_bits("auto", paths[:2], sha256s[:2], 0, tmp_path / "cache", progress=False) == 8
    assert bit_depth.choose_bits("auto", paths, sha256s, 0, tmp_path / "cache", progress=False) == 10
    assert bit_depth.choose_bits("auto", [], [], 0, tmp_path / "none", progress=False) == 8
    assert bit_depth.choose_bits(14, paths, sha256s, 0, tmp_path / "none", progress=False) == 14
    assert not (tmp_path / "none").exists()


def test_the_largest_value_of_an_image_is_read_once(images: Any, tmp_path: Path, looked_at: list[int]) -> None:
    paths, sha256s = images
    expected = {sha256: 100 * number for number, sha256 in enumerate(sha256s, 1)}
    assert bit_depth.largest_values(paths[:5], sha256s[:5], 0, tmp_path / "cache", progress=False)
    file = tmp_path / "cache" / "largest_values"
    with file.open("ab") as out:
        out.write(b"\7" * 20)  # half a record, as a killed process leaves it
    paths = [path.rename(path.with_name(f"moved {path.name}")) for path in paths]
    assert bit_depth.largest_values(paths, sha256s, 0, tmp_path / "cache", progress=False) == expected
    assert sorted(looked_at) == sorted(expected.values())
    assert bit_depth.largest_values(paths, sha256s, 0, tmp_path / "cache", progress=False) == expected
    assert len(looked_at) == 8


def test_processes_that_look_for_largest_values_share_the_work(
    images: Any, tmp_path: Path, looked_at: list[int]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(bit_depth.largest_values, *images, 0, tmp_path / "cache", progress=False) for _ in range(4)]
        assert all(len(job.result()) == 8 for job in jobs)
    assert len(looked_at) == 8


def test_broken_and_changed_images_do_not_count_for_bits(images: Any, tmp_path: Path) -> None:
    paths, sha256s = images
    paths[7].write_bytes(png(np.full((4, 4), 60000)))  # not what was cataloged
    found = bit_depth.largest_values(paths, sha256s, time.time(), tmp_path / "cache", progress=False)
    assert max(found.values()) == 700


@pytest.mark.parametrize(
    ("content", "reason"),
    [(png(ramp(12))[:200], "truncated"), (png(ramp(12, 2)), r"cannot read all 16 bits of LA;16B")],
    ids=["truncated", "grey with opacity"],
)
@pytest.mark.parametrize("cache", ["disk", "none"])
def test_where_no_16_bit_image_can_be_decoded_the_reasons_of_the_files_are_raised(
    tmp_path: Path, content: bytes, reason: str, cache: str, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(8):
        (tmp_path / "data" / f"class {number % 2}").mkdir(parents=True, exist_ok=True)
        own = content[: 200 - number] if reason == "truncated" else content + bytes([number])  # no copies
        (tmp_path / "data" / f"class {number % 2}" / f"{number}.png").write_bytes(own)
    data = make(tmp_path / "data", cache=cache, cache_dir=str(tmp_path / "cache"))

    def decode() -> None:
        data.prepare_data()  # without a cache, reading the pixels decodes
        data.read_images(np.arange(8))

    with caplog.at_level(logging.INFO), pytest.raises(UserError, match=reason):
        decode()
    assert "data.bits" not in caplog.text


def test_a_place_that_cannot_be_written_is_an_error_with_the_fix(images: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"largest_values cannot be written .* such as data\.bits=12"):
        bit_depth.choose_bits("auto", *images, 0, tmp_path / "file", progress=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 12-bit images in 16-bit files, of which only a few use more than 10 bits; and one of 8 bits."""
    folder, rng = tmp_path_factory.mktemp("deep"), np.random.default_rng(0)
    for label in ("dark", "light", "ordinary"):
        (folder / label).mkdir()
        for number in range(8):
            values = rng.integers(0, 200, (40, 40, 3)) + (700 if label == "light" else 0)
            if number == 0:
                values += 3000
            if label == "ordinary":
                Image.fromarray((values % 256).astype(np.uint8)).save(folder / label / f"{number}.png")
            else:
                suffix, write = ("png", png) if number % 2 else ("tif", tiff)
                (folder / label / f"{number}.{suffix}").write_bytes(write(values))
    return folder


def make(root: Path, **options: Any) -> DefectData:
    place = {"cache_dir": os.environ["ALU_DEFECTS_CACHE"]}
    defaults = {"source": "folder", "root": str(root), "image_size": 32, "batch_size": 4, "split": SPLIT}
    return DefectData(**{**defaults, **place, "progress": False, **options})


def test_one_number_holds_for_all_images_of_a_data_set(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make(root)
    with caplog.at_level(logging.INFO):
        data.prepare_data()
    assert data.bits == 12
    lines = [record.message for record in caplog.records if "data.bits" in record.message]
    assert len(lines) == 1
    assert lines[0].startswith("data.bits=12 for 16 images with 16 bits a channel: their largest value is 3")
    paths = data.catalog["path"]
    expected = np.stack([decode.decode(root / path, (32, 32), "squash", 12) for path in paths])
    assert expected[paths.str.startswith("light/").to_numpy()].mean() > 40  # no longer black
    for cache in ("disk", "none"):
        data = make(root, cache=cache)
        data.prepare_data()
        assert np.array_equal(data.read_images(np.arange(len(paths))), expected)


def test_each_number_of_bits_has_its_own_cache(root: Path, tmp_path: Path) -> None:
    found = []
    for bits in (12, 14, 16, 12):
        data = make(root, bits=bits, cache_dir=tmp_path)
        data.prepare_data()
        found.append(data.read_images(data.find_rows("train")))
    assert np.array_equal(found[0], found[3])
    deep = ~data.catalog.iloc[data.find_rows("train")]["path"].str.startswith("ordinary").to_numpy()
    assert found[0][deep].mean() > 3 * found[1][deep].mean() > 9 * found[2][deep].mean()
    assert np.array_equal(found[0][~deep], found[2][~deep])


def test_8_bit_data_sets_do_not_look_for_bits(
    photographs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for bits in ("auto", 12):
            make(photographs, bits=bits, cache_dir=tmp_path).prepare_data()
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["hashes.sqlite3", "similar_v1", "v1_32_squash"]  # where they were before
    assert "data.bits" not in caplog.text


@pytest.mark.parametrize("on_broken", ["error", "exclude"])
def test_too_few_bits_are_an_error_that_names_the_file(root: Path, on_broken: str) -> None:
    with pytest.raises(UserError, match=r"dark/0\.tif .*largest value is 3\d\d\d, more than images of 10 bits"):
        make(root, bits=10, on_broken=on_broken).prepare_data()


@pytest.mark.parametrize("bits", [11, 0, "12", None])
def test_other_numbers_are_refused(root: Path, bits: Any) -> None:
    with pytest.raises(UserError, match=rf"data\.bits={bits} is not auto, 8, 10, 12, 14, 16"):
        make(root, bits=bits)


@pytest.fixture
def words(root: Path, small: list[str], tmp_path: Path) -> list[str]:
    """A training of which the val and test images alone need 10 bits."""
    parts = {1: "val", 2: "test"}
    split = make(root).catalog.assign(split=[parts.get(k % 8, "train") for k in range(24)])
    split.to_csv(tmp_path / "split.csv", index=False)
    own = [f"data.root={root}", "split=file", f"split.file={tmp_path / 'split.csv'}", f"run_dir={tmp_path / 'run'}"]
    return [*small, *own, "trainer.max_epochs=1"]


@pytest.mark.slow
def test_evaluate_decodes_as_the_training_did(
    words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results, run = train(compose("train", words)), tmp_path / "run"
    assert json.loads((run / "run.json").read_text())["bits"] == 12
    assert checkpoint.load_classifier(run / "checkpoints" / "best.ckpt").about["bits"] == 12
    (tmp_path / "split.csv").unlink()  # the run has its catalog
    with caplog.at_level(logging.INFO):
        again = evaluate(compose("evaluate", [f"run={run}", "trainer=cpu", f"output={tmp_path / 'out'}"]))
    assert "data.bits=12 for 4 images" in caplog.text
    assert again["test"]["loss"] == pytest.approx(results["test"]["loss"], rel=1e-6)


@pytest.mark.slow
def test_a_resumed_run_decodes_as_it_did_before(words: list[str], tmp_path: Path) -> None:
    train(compose("train", words))
    run = tmp_path / "run"
    status = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**status, "status": "interrupted", "bits": 14}))  # not what auto would be
    train(compose("train", [f"resume={run}"]))
    assert json.loads((run / "run.json").read_text())["bits"] == 14


def test_audit_reports_the_bits_of_16_bit_images(root: Path, tmp_path: Path) -> None:
    words = ["data=folder", f"data.root={root}", "split=random", "data.progress=false", f"output={tmp_path / 'audit'}"]
    result = audit(compose("audit", words))
    (found,) = result.findings[result.findings["kind"] == Kind.SIXTEEN_BITS].to_dict("records")
    assert found["severity"] == Severity.INFO
    assert found["detail"].startswith(
        "16, of which training would read 16; with data.bits=12 white is 4095, and their largest value 3"
    )
    assert not result.fails
    result = audit(compose("audit", [*words, "data.bits=10"]))
    above = result.findings[result.findings["kind"] == Kind.ABOVE_BITS]
    assert above["path"].tolist() == ["dark/0.tif", "light/0.tif"]
    assert set(above["severity"]) == {Severity.ERROR}  # training would refuse them
    assert "images with 16 bits a channel" in (tmp_path / "audit" / "audit.html").read_text(encoding="utf-8")
