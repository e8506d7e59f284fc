"""Labels that people give: nothing is lost, the last one counts, and a training reads them."""

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from alu_defects.config import compose
from alu_defects.deployment.labels import COLUMNS, Labels
from alu_defects.errors import UserError
from alu_defects.train import train


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_last_label_of_an_image_counts(tmp_path):
    labels = Labels(tmp_path / "new" / "folder")
    first, other = labels.add(b"an image", ".png", "pit"), labels.add(b"another", ".jpg", "pit")
    second = labels.add(b"an image", ".png", "bruise, 碰伤")
    assert first["path"] == second["path"]
    assert rows(labels.folder) == [other, second]
    assert (labels.folder / second["path"]).read_bytes() == b"an image"


def test_many_may_label_at_once(tmp_path):
    several = [Labels(tmp_path) for _ in range(3)]  # as of three servers
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: several[number % 3].add(b"%d" % (number % 20), ".png", str(number)), range(60)))
    found = rows(tmp_path)
    assert len(found) == len(list((tmp_path / "images").iterdir())) == 20
    assert sorted(int(row["label"]) % 20 for row in found) == list(range(20))


def test_what_others_wrote_into_the_table_stays(tmp_path):
    labels = Labels(tmp_path)
    path = labels.add(b"an image", ".png", "pit")["path"]
    text = (tmp_path / "labels.csv").read_text()
    lines = [f"{line},{end}" for line, end in zip(text.splitlines(), ("split", "test"), strict=True)]
    (tmp_path / "labels.csv").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")  # as Excel does
    labels.add(b"an image", ".png", "bruise")
    labels.add(b"another", ".png", "pit")
    assert [(row["label"], row["split"]) for row in rows(tmp_path)] == [("bruise", "test"), ("pit", "")]
    assert rows(tmp_path)[0]["path"] == path


def test_a_killed_writer_leaves_nothing_that_counts(tmp_path, monkeypatch):
    labels = Labels(tmp_path)
    kept = labels.add(b"an image", ".png", "pit")
    with monkeypatch.context() as patch:
        patch.setattr(labels, "_write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            labels.add(b"another", ".png", "pit")
    (tmp_path / "images" / "x.png.1-a.part").write_bytes(b"half")
    (tmp_path / "labels.csv.1-a.part").write_bytes(b"half")
    labels = Labels(tmp_path)
    assert rows(tmp_path) == [kept]
    assert not list(tmp_path.rglob("*.part"))
    labels.add(b"another", ".png", "pit")
    assert len(rows(tmp_path)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path;label;time;labelled\n", "is not a table of labels"),
        ("path,label\na.png,pit\n", "is not a table of labels"),
        (f"{','.join(COLUMNS)}\na.png,pit\n", "is not a table of labels"),
        ("路径".encode("gb18030").decode("latin1"), "cannot be read"),
    ],
)
def test_another_table_is_refused_and_stays(tmp_path, content, message):
    (tmp_path / "labels.csv").write_bytes(content.encode("latin1"))
    with pytest.raises(UserError, match=rf"labels\.csv {message}"):
        Labels(tmp_path)
    assert (tmp_path / "labels.csv").read_bytes() == content.encode("latin1")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"labels=.*file.* cannot be written"):
        Labels(tmp_path / "file" / "labels")


@pytest.mark.parametrize(
    ("written", "time"), [("2018:08:30 16:45:45", "2018-08-30T16:45:45"), ("soon", ""), (None, "")]
)
def test_the_time_is_that_of_the_camera(tmp_path, written, time):
    image, content = Image.new("RGB", (8, 8)), io.BytesIO()
    if written:
        image.getexif().get_ifd(0x8769)[0x9003] = written
    image.save(content, "JPEG", exif=image.getexif())
    assert Labels(tmp_path).add(content.getvalue(), ".jpg", "pit")["time"] == time


def test_a_training_reads_them(tmp_path, photographs, small):
    labels = Labels(tmp_path / "labels")
    files = sorted(photographs.rglob("*.png"))
    for number, file in enumerate(files):
        labels.add(file.read_bytes(), ".png", "across" if number == 0 else file.parent.name)
    labels.add(files[0].read_bytes(), ".png", files[0].parent.name)  # it was a mistake
    words = [word for word in small if not word.startswith(("data=", "data.root="))]
    words += ["data=table", f"data.table={labels.table}", "debug=fast", f"run_dir={tmp_path / 'run'}"]
    train(compose("train", words))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    used = pd.read_csv(tmp_path / "run" / "catalog.csv")
    assert used["label"].value_counts().to_dict() == {"across": 12, "along": 12, "plain": 12}
    assert set(used["split"]) == {"train", "val", "test"}
