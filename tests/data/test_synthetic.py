"""The generated set: its layout, that it is the same every time, and that a killed write leaves nothing."""

import re
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alu_defects.data.synthetic import write
from alu_defects.data.synthetic.defects import PAINTERS
from alu_defects.data.synthetic.scene import Scene
from alu_defects.data.synthetic.writer import picture
from alu_defects.taxonomy import CLASSES, DEFECTS, DefectClass

write_small = partial(write, width=80, height=60)


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_layout_is_that_of_the_archive(tmp_path: Path) -> None:
    write_small(tmp_path / "set", pictures_per_class=3)
    files = contents(tmp_path / "set")
    archive = "guangdong_round1_train2_20180916"
    patterns = [rf"{archive}/无瑕疵样本/正常(\d{{14}})对照样本\.jpg"]
    patterns += [rf"{archive}/瑕疵样本/{c.folder}/{c.folder}(\d{{14}})对照样本\.jpg" for c in DEFECTS]
    times = [[m[1] for m in map(re.compile(pattern).fullmatch, sorted(files)) if m] for pattern in patterns]
    assert [len(set(t)) for t in times] == [3] * 11
    assert len(set(chain(*times))) == len(files) == 33  # no second is used twice
    assert list(tmp_path.iterdir()) == [tmp_path / "set"]


def test_pictures_open_as_rgb_jpeg_of_the_size_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "set", pictures_per_class=1, width=90, height=50)
    for path in (tmp_path / "set").rglob("*.jpg"):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (90, 50))


def test_same_bytes_every_time_and_a_larger_set_contains_a_smaller(tmp_path: Path) -> None:
    write_small(tmp_path / "a", pictures_per_class=2)
    write_small(tmp_path / "b", pictures_per_class=3)
    write_small(tmp_path / "other", pictures_per_class=2, seed=1)
    a, b, other = (contents(tmp_path / name) for name in ("a", "b", "other"))
    assert len(a) == 22
    assert a.items() <= b.items()
    assert a.keys() == other.keys()
    assert not set(a.values()) & set(other.values())
    assert len(set(b.values())) == 33


def test_progress_counts_up_to_the_last_picture(tmp_path: Path) -> None:
    seen: list[int] = []
    write_small(tmp_path / "set", pictures_per_class=2, progress=seen.append)
    assert seen == list(range(1, 23))


def test_killed_write_leaves_nothing(tmp_path: Path) -> None:
    def kill(done: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_small(tmp_path / "set", pictures_per_class=1, progress=kill)
    assert not list(tmp_path.iterdir())


def test_existing_root_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        write_small(tmp_path / "set", pictures_per_class=1)
    assert contents(tmp_path) == {}


def test_second_of_two_writers_is_told(tmp_path: Path) -> None:
    root = tmp_path / "set"
    with pytest.raises(FileExistsError, match="another process"):
        write_small(root, pictures_per_class=1, progress=lambda _: write_marker(root))
    assert contents(root) == {"marker": b"first"}


def write_marker(root: Path) -> None:
    root.mkdir(exist_ok=True)
    (root / "marker").write_bytes(b"first")


def test_every_defect_class_has_its_painter() -> None:
    assert list(PAINTERS) == [c.name for c in DEFECTS]


@pytest.mark.parametrize("defect", DEFECTS, ids=[c.name for c in DEFECTS])
def test_defect_marks_a_visible_part_of_the_bar_and_not_all_of_it(defect: DefectClass) -> None:
    for number in range(12):
        scene = Scene(np.random.default_rng([0, defect.id, number]), 320, 240)
        PAINTERS[defect.name](scene)
        on_bar = np.abs(scene.v) < scene.half
        marked = (np.abs(scene.tone) > 0.15) | (scene.bare > 0)
        share = marked[on_bar].mean()
        assert 0.002 < share < 0.7, f"{defect.name} {number}: {share:.1%} of the bar"


def test_classes_cannot_be_told_by_mean_colour() -> None:
    means = np.array(
        [[picture(c, n, width=80, height=60).mean((0, 1)) for n in range(12)] for c in CLASSES]
    )  # (class, n, RGB)
    between = means.mean(1).std(0)
    within = means.std(1).mean(0)
    assert (between < within).all()
