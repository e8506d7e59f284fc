"""A folder of class folders → catalog, and the folders that are refused."""

import logging
from pathlib import Path

import pytest

from alu_defects.data import catalog, folder, sources
from alu_defects.errors import UserError


def make(root: Path, *names: str, **contents: bytes) -> Path:
    """Write files, each with its name as content unless another one is given."""
    for name, content in {**{name: name.encode() for name in names}, **contents}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    root.mkdir(exist_ok=True)
    return root


def test_the_first_folder_is_the_class_however_deep_the_image_lies(tmp_path: Path) -> None:
    result = folder.find_images(make(tmp_path, "pit/2018/day 1/x.jpg", "pit/y.jpg", "dent/IMG_20180830_164545.jpg"))
    assert list(zip(result.table["path"], result.table["label"], result.table["time"], strict=True)) == [
        ("dent/IMG_20180830_164545.jpg", "dent", "2018-08-30T16:45:45"),
        ("pit/2018/day 1/x.jpg", "pit", ""),
        ("pit/y.jpg", "pit", ""),
    ]
    assert tuple(result.table.columns) == catalog.COLUMNS
    assert result.table["labels"].tolist() == result.table["label"].tolist()
    assert set(result.table["archive"]) == set(result.table["boxes"]) == {""}
    assert catalog.count_by_archive(result.table).to_dict() == {"total": {"dent": 1, "pit": 2, "total": 3}}


def test_what_is_no_image_is_excluded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = folder.find_images(
            make(tmp_path, "a/x.jpg", "b/x.jpg", "a/.DS_Store", "a/Thumbs.db", "notes.txt", "b/y.png/z")
        )
    assert dict(zip(result.excluded["path"], result.excluded["reason"], strict=True)) == {
        "a/.DS_Store": "hidden",
        "a/Thumbs.db": "not an image",
        "b/y.png": "a folder where a file is expected",
        "b/y.png/z": "a folder where a file is expected",
        "notes.txt": "not an image",
    }
    assert "2 × not an image, such as a/Thumbs.db" in caplog.text


def test_a_copy_in_the_same_class_is_excluded(tmp_path: Path) -> None:
    result = folder.find_images(make(tmp_path, "pit/x.jpg", "dent/x.jpg", **{"pit/copy of x.jpg": b"pit/x.jpg"}))
    assert result.table["path"].tolist() == ["dent/x.jpg", "pit/copy of x.jpg"]
    assert result.excluded.iloc[0].tolist() == ["pit/x.jpg", "", "pit", "", "same content", "pit/copy of x.jpg"]


def test_an_image_in_two_classes_is_excluded_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = folder.find_images(
        make(tmp_path, "pit/x.jpg", "dent/x.jpg", **dict.fromkeys(("dent/y.jpg", "pit/z.jpg"), b"y"))
    )
    assert result.table["path"].tolist() == ["dent/x.jpg", "pit/x.jpg"]
    assert result.excluded[["path", "reason", "detail"]].to_numpy().tolist() == [
        ["dent/y.jpg", "same content under another label", "pit/z.jpg"],
        ["pit/z.jpg", "same content under another label", "dent/y.jpg"],
    ]
    assert "one image under several labels, excluded: dent/y.jpg, pit/z.jpg" in caplog.text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no images"),
        (("a/notes.txt", "b/.x.png"), "holds no images"),
        (("val/a/x.png", "Test/a/x.png"), r"Test, val are named like splits.* \(train must be there\)"),
        (("train/a/x.png", "test/a/y.png", "pit/z.png"), "test, train are named like splits"),
        (("train/images/x.png", "train/labels/x.png", "val/images/y.png"), "images, labels are named like splits"),
        (("unlabelled/x.png", "pit/x.png"), "unlabelled is named like splits"),
        (
            ("cap/train/good/x.png", "cap/test/good/y.png", "nut/train/good/x.png", "nut/test/good/y.png"),
            r"cap, nut are no class, but an object .*root/cap, or several, data\.root=\[.*root/cap,.*root/nut\]",
        ),
        (("TRAIN/good/x.png", "pit/x.png"), "TRAIN is named like splits.* rename the folder if it really"),
        (
            ("images/x.png", "masks/x.png", "json/x.json"),
            "images, masks are named like splits, or .* Give a data.root",
        ),
        (("Ground Truth/x.png", "pit/x.png"), "Ground Truth is named like splits, or like folders of images, masks"),
        (("pit/x.png", "dent/images/x.png", "dent/masks/x.png"), r"dent/masks/x.png would be .* Move such folders out"),
        (("pit/x.png", "dent/day 1/Ground-Truth/b/x.png"), "would be an image of the class dent, but lies in Ground-T"),
    ],
)
def test_folders_without_images_or_with_names_of_splits_are_refused(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        folder.find_images(make(tmp_path / "root", *names))


@pytest.mark.parametrize("names", [("valid", "invalid"), ("mask", "no_mask"), ("test", "rust"), ("masking", "pit")])
def test_one_class_may_be_called_as_a_split_or_a_mask(tmp_path: Path, names: tuple[str, str]) -> None:
    result = folder.find_images(make(tmp_path, *(f"{name}/{name}.png" for name in names)))
    assert set(result.table["label"]) == set(names)


def test_masks_beside_their_images_are_refused(tmp_path: Path) -> None:
    root = make(tmp_path, "good/0.png", "good/1_new.png", "pit/0.jpg", "pit/0_mask.png")
    with pytest.raises(UserError, match=r"0_mask\.png would be an image .* the mask of pit/0\.jpg"):
        folder.find_images(root)


def test_folders_named_like_splits_inside_a_class_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("pit/train/x.jpg", "pit/test/y.jpg", "dent/train/z.jpg", "dent/images/x.jpg")
    with caplog.at_level(logging.WARNING):
        result = folder.find_images(make(tmp_path, *names))
    assert result.table["label"].tolist() == ["dent", "dent", "pit", "pit"]
    assert len(caplog.records) == 1
    assert "test, train are named like splits, but folders inside a class do not split its images" in caplog.text


def test_folders_without_images_may_be_named_as_they_like(tmp_path: Path) -> None:
    result = folder.find_images(make(tmp_path, "pit/x.jpg", "dent/y.jpg", "json/x.json", "pit/annotations/x.xml"))
    assert result.table["label"].tolist() == ["dent", "pit"]


def test_folders_of_splits_hold_classes_and_give_the_split(tmp_path: Path) -> None:
    names = ("Train/pit/x.jpg", "Train/dent/day 1/x.jpg", "valid/pit/y.jpg", "test/dent/z.jpg", "test/0.jpg")
    result = folder.find_images(make(tmp_path, *names, "unlabelled/pit/u.jpg", "notes.txt"))
    assert result.table[["path", "label", "given_split"]].to_numpy().tolist() == [
        ["Train/dent/day 1/x.jpg", "dent", "train"],
        ["test/dent/z.jpg", "dent", "test"],
        ["Train/pit/x.jpg", "pit", "train"],
        ["valid/pit/y.jpg", "pit", "val"],
        ["test/0.jpg", "", "test"],
        ["unlabelled/pit/u.jpg", "", "unlabelled"],
    ]
    sources.check_trainable("folder", tmp_path, result.table)
    other = make(tmp_path / "other", "train/lost.jpg", "train/a/x.jpg", "train/b/x.jpg")
    table = folder.find_images(other).table
    with pytest.raises(UserError, match=r"train/lost\.jpg and 0 other images lie in no class folder"):
        sources.check_trainable("folder", other, table)


def test_the_masks_of_mvtec_are_no_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ("train/good/000.png", "test/good/000.png", "test/bent/000.png", "ground_truth/bent/000_mask.png")
    contents = {name: name.encode() for name in names}
    with caplog.at_level(logging.WARNING):
        result = folder.find_images(make(tmp_path, **contents))
    assert result.table["path"].tolist() == ["test/bent/000.png", "test/good/000.png", "train/good/000.png"]
    assert result.excluded[["path", "reason"]].to_numpy().tolist() == [["ground_truth/bent/000_mask.png", "a mask"]]
    assert not caplog.records


def test_a_copy_in_two_given_splits_stays_in_test(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ("train/a/x.jpg", "train/b/x.jpg", "val/b/x.jpg", "test/b/x.jpg")
    copies = dict.fromkeys(("train/a/copy.jpg", "test/a/copy.jpg", "val/a/copy.jpg"), b"copy")
    result = folder.find_images(make(tmp_path, *names, **copies))
    assert result.table["path"].tolist() == ["test/a/copy.jpg", "train/a/x.jpg", *sorted(names[1:])]
    assert set(result.excluded["path"]) == {"train/a/copy.jpg", "val/a/copy.jpg"}
    assert set(result.excluded["reason"]) == {"same content in two given splits"}
    assert "2 × same content in two given splits, such as train/a/copy.jpg (test/a/copy.jpg)" in caplog.text


def test_several_roots_have_the_classes_of_all_and_no_copies(tmp_path: Path) -> None:
    one = make(tmp_path / "one", "pit/x.jpg", "dent/y.jpg", ".hidden")
    two = make(tmp_path / "two", "scuff/z.jpg", "pit/x.jpg")
    root = catalog.existing_root([str(one), str(two)])
    result = folder.find_images(root)
    assert result.table["path"].tolist() == ["1/dent/y.jpg", "1/pit/x.jpg", "2/scuff/z.jpg"]
    assert result.excluded[["path", "detail"]].to_numpy().tolist() == [
        ["1/.hidden", ""],
        ["2/pit/x.jpg", "1/pit/x.jpg"],
    ]
    assert [(root / path).is_file() for path in result.table["path"]] == [True] * 3
    assert folder.list_images(root) == ["1/dent/y.jpg", "1/pit/x.jpg", "2/pit/x.jpg", "2/scuff/z.jpg"]
    moved = two.rename(tmp_path / "moved")
    root = catalog.existing_root([str(one), str(moved)])
    catalog.verify_files(root, catalog.compare_files(root, result.table))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a/in"], "a/in lies in .*a; give each image once"),
        (["a", "a"], "give each image once"),
        (["a", "no"], "no is not a folder"),
        ([], "names no folder"),
    ],
)
def test_roots_that_hold_each_other_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    make(tmp_path, "a/in/x.jpg")
    with pytest.raises(UserError, match=message):
        catalog.existing_root([str(tmp_path / name) for name in names])
