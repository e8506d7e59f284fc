"""What belongs together: by time, likeness, folder, column or path; and what is refused."""

import hashlib
import io
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from alu_defects.data import grouping, similarity, splits
from alu_defects.data.datamodule import DefectData
from alu_defects.errors import UserError

SPLIT = {"name": "session", "seed": 0}


def table(*paths: str, **columns: list[str]) -> pd.DataFrame:
    found = pd.DataFrame({"path": paths, "label": [path.split("/")[0] for path in paths], "time": ""}, dtype=str)
    return found.assign(sha256=[hashlib.sha256(path.encode()).hexdigest() for path in paths], **columns)


TABLE = table("pit/s1/a_1.png", "pit/s1/a_2.png", "good/s2/b_1.png", part=["x", "y", "x"])


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("folder", ["pit/s1", "pit/s1", "good/s2"]),
        ("part", ["x", "y", "x"]),
        (r"([ab])_\d", ["a", "a", "b"]),
        (r"s\d", ["s1", "s1", "s2"]),
    ],
)
def test_folder_column_and_expression(group: str, names: list[str]) -> None:
    assert grouping.find_groups(TABLE, group, 60).tolist() == names


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("prat", r"data\.group=prat is not one of auto, time, similar, folder, part.*3 of the 3.*did you mean part"),
        ("a_(", r"no regular expression either"),
        ("pit/", r"does not match 1 of the 3 paths, such as good/s2/b_1\.png"),
        ("label", r"does not match"),
    ],
)
def test_a_wrong_group_is_named(group: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        grouping.find_groups(TABLE, group, 60)


def test_an_empty_cell_is_named() -> None:
    with pytest.raises(UserError, match=r"the column is empty for 1 of 3 images, such as pit/s1/a_2\.png"):
        grouping.find_groups(TABLE.assign(part=["x", "", "y"]), "part", 60)


def test_one_group_of_most_images_is_refused_unless_groups_are_ignored() -> None:
    images = table(*(f"{label}/{n}.png" for label in ("pit", "good") for n in range(9)))
    with pytest.raises(UserError, match=r"puts 18 of 18 images into one group .*they look alike"):
        splits.split_catalog(images, group="auto", find_similar=lambda rows: np.zeros(len(rows), np.int64), **SPLIT)
    ignored = {"name": "random", "seed": 0}
    splits.split_catalog(images, group="auto", find_similar=lambda rows: np.zeros(len(rows), np.int64), **ignored)


def test_auto_takes_the_time_where_there_is_one() -> None:
    images = TABLE.assign(time=["2018-08-30T16:45:45", "", ""])
    asked: list[str] = []

    def find_similar(rows: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        asked.extend(rows["path"])
        return np.zeros(len(rows), np.int64)

    first, second, third = grouping.find_groups(images, "auto", 60, find_similar)
    assert first == "pit 2018-08-30T16:45:45"
    assert second == third
    assert asked == images["path"].tolist()[1:]


def texture(number: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.normal(0.5, 0.16, (24, 24)).astype(np.float32)).resize(
        (96, 96), Image.Resampling.BICUBIC
    )
    return (np.asarray(coarse) + rng.normal(0, 0.03, (96, 96))).clip(0.02, 1)


@pytest.fixture(scope="module")
def exposures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four pieces in two classes, six exposures each."""
    root = tmp_path_factory.mktemp("exposures")
    variants = [(0.5, 1), (2, 1), (1, 0.6), (1, 1.5), (0.7, 1.2), (1.4, 1.3)]
    for piece in range(24):
        folder = root / ("pit" if piece % 2 else "good")
        folder.mkdir(exist_ok=True)
        for number, (gamma, gain) in enumerate(variants):
            levels = (255 * (gain * texture(piece) ** gamma).clip(0, 1)).round().astype(np.uint8)
            name = hashlib.sha256(f"{piece} {number}".encode()).hexdigest()[:8]
            Image.fromarray(levels).save(folder / f"{name}_{piece}.jpg", quality=80)
    return root


def make(root: Path, place: Path, **options: object) -> DefectData:
    how = {"image_size": 32, "batch_size": 4, "split": SPLIT, "cache_dir": str(place), "progress": False}
    return DefectData(**{"source": "folder", "root": str(root), **how, **options})  # type: ignore[arg-type]


def test_exposures_of_a_piece_are_one_group_and_others_are_not(exposures: Path, tmp_path: Path) -> None:
    found = make(exposures, tmp_path).catalog
    assert found["session"].nunique() == 24
    assert found.groupby(found["path"].str.extract(r"_(\d+)\.jpg")[0])["session"].nunique().max() == 1
    assert found.groupby("session")["split"].nunique().max() == 1


def test_groups_are_remembered_whatever_the_size_and_the_cache(
    exposures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(exposures, tmp_path).catalog
    monkeypatch.setattr(similarity, "hash_image", None)
    monkeypatch.setattr(similarity, "group_hashes", None)
    again = make(exposures, tmp_path, image_size=64, cache="none").catalog
    pd.testing.assert_frame_equal(first, again)


def test_a_broken_image_leaves_the_split_of_the_others(exposures: Path, tmp_path: Path) -> None:
    root = tmp_path / "images"
    before = make(exposures, tmp_path / "cache").catalog.set_index("path")["split"]
    for path in before.index:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes((exposures / path).read_bytes())
    (root / "pit" / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    data = make(root, tmp_path / "cache", on_broken="exclude")
    data.prepare_data()
    after = data.catalog.set_index("path")["split"]
    assert after.reindex(before.index).equals(before)
    assert "pit/broken.jpg" in data.excluded["path"].to_list()


def test_random_says_that_it_ignores_groups_and_near_duplicates_are_loud(
    exposures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    data = make(exposures, tmp_path, split={"name": "random", "seed": 0}, image_size=96)
    data.prepare_data()
    assert re.search(
        r"split=random does not keep groups together: \d+ are in several splits; 24 groups by", caplog.text
    )
    found = data.find_near_duplicates()
    assert found
    assert found.are_many
    assert len(data.notes) == 2
    assert "have a near-duplicate in train" in data.notes[1]


def test_an_image_hashed_from_bytes_without_structure_is_alone() -> None:
    file = io.BytesIO()
    Image.new("RGB", (50, 50), "white").save(file, "PNG")
    hashes = np.stack([similarity.hash_image(Image.open(file))] * 3)
    assert not hashes.any()
    assert similarity.group_hashes(hashes).tolist() == [0, 1, 2]


def test_groups_are_remembered_beside_an_image_that_is_broken(
    exposures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [*sorted(exposures.rglob("*.jpg"))[:6], tmp_path / "broken.jpg"]
    paths[-1].write_bytes(b"no image")
    sha256s = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    found = similarity.find_groups(tmp_path, paths, sha256s, 0, progress=False)
    monkeypatch.delattr(similarity, "group_hashes")
    assert similarity.find_groups(tmp_path, paths, sha256s, 0, progress=False).tolist() == found.tolist()
    assert (found == found[-1]).sum() == 1
