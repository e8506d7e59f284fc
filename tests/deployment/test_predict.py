"""`alu_defects.predict`: one row an image, whatever becomes of it, and the same decisions as evaluate."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from alu_defects.data import decode
from alu_defects.deployment import map_files, table
from alu_defects.deployment.predictor import Predictor
from alu_defects.errors import UserError
from alu_defects.evaluation.operating import OperatingPoint
from alu_defects.runs.jobs import read_predictions
from alu_defects.runs.run import Run


@pytest.fixture(scope="session")
def predictor(finished_run: Path) -> Predictor:
    return Predictor.load(finished_run)


@pytest.fixture
def images(photographs: Path, tmp_path: Path) -> Path:
    """Good files, and files that are none."""
    folder = tmp_path / "images"
    shutil.copytree(photographs / "along", folder)
    good = Image.open(next(folder.glob("*.png"))).convert("RGB")
    good.convert("L").save(folder / "grey.png")
    good.convert("CMYK").save(folder / "cmyk.jpg")
    good.convert("P").save(folder / "palette.png")
    good.convert("RGBA").save(folder / "alpha.webp")
    turned = good.getexif()
    turned[0x0112] = 6
    good.save(folder / "turned.jpg", exif=turned)
    Image.fromarray(np.full((20, 30), 200, np.uint16)).save(folder / "16 bit.png")
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no image")
    content = (folder / "turned.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 3])
    (folder / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    Image.new("1", (9000, 9000)).save(folder / "bomb.png")
    return folder


BROKEN = {"empty.jpg", "text.jpg", "cut.jpg", "gone.jpg", "bomb.png"}


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def test_decisions_are_those_of_evaluate(finished_run, predictor):
    run = Run.existing(finished_run)
    known = read_predictions(finished_run)
    point = OperatingPoint.load(run.operating_file)
    made = list(predictor.predict([run.data_root() / path for path in known["path"]], batch_size=5))
    assert [one.decision.label for one in made] == known["prediction"].tolist()
    found = np.array([list(one.decision.probabilities.values()) for one in made])
    np.testing.assert_allclose(found, point.probabilities(known), atol=1e-6)


def test_maps_are_given_only_where_they_are_asked_for_and_add_up_to_the_logits(predictor):
    """With the bias of each class, which the calibrated probabilities tell but for a common constant."""
    size = predictor.bundle.image_size
    images = np.random.default_rng(0).integers(0, 256, (5, *size, 3), dtype=np.uint8)
    asked = []
    watched = lambda images, maps: asked.append(maps) or predictor._network(images, maps)  # noqa: E731
    found = Predictor(predictor.bundle, watched, predictor.source).outputs(images)
    assert found.maps.shape[:2] == (5, 3)
    assert (found.maps.dtype, found.probabilities.dtype) == (np.float32, np.float64)
    logits = np.log(found.probabilities) * predictor.bundle.calibration.temperature
    bias = logits - found.maps.mean(axis=(2, 3))
    np.testing.assert_allclose(bias - bias[:, :1], np.tile(bias[0] - bias[0, 0], (5, 1)), atol=1e-4)
    given = Predictor(predictor.bundle, watched, predictor.source).probabilities(images)
    np.testing.assert_array_equal(given, found.probabilities)
    assert asked == [True, False]
    assert predictor._network(images, False).maps is None


@pytest.mark.parametrize("name", ["best.ckpt", "model.safetensors"])
def test_files_of_a_run_decide_as_the_run(finished_run, predictor, photographs, name):
    files = sorted(photographs.rglob("*.png"))[:5]
    made = list(Predictor.load(finished_run / "checkpoints" / name).predict(files))
    for one, other in zip(made, predictor.predict(files), strict=True):
        assert one.decision.label == other.decision.label
        assert one.decision.confidence == pytest.approx(other.decision.confidence, abs=1e-6)


def test_each_file_is_a_row_and_broken_ones_have_their_error(predictor, images, tmp_path):
    predictor = Predictor(predictor.bundle, predictor._network, predictor.source, max_pixels=80_000_000)
    files = sorted(map(str, images.iterdir()))
    counts = table.write_predictions(predictor, files, str(tmp_path / "p.csv"), batch_size=4, progress=False)
    found = rows(tmp_path / "p.csv")
    assert [row["path"] for row in found] == files
    assert {Path(row["path"]).name for row in found if row["status"] == "error"} == BROKEN
    for row in found:
        if row["status"] == "ok":
            given = [float(value) for key, value in row.items() if key.startswith("p_")]
            assert sum(given) == pytest.approx(1)
            assert float(row["confidence"]) == max(given)
            assert row["decision"] in {"accept", "ask"}
            assert row["error"] == ""
        else:
            assert row["decision"] == row["label"] == row["confidence"] == ""
    errors = {Path(row["path"]).name: row["error"] for row in found}
    assert "the file is empty" in errors["empty.jpg"]
    assert "not an image that Pillow knows" in errors["text.jpg"]
    assert "No such file" in errors["gone.jpg"]
    assert "more than" in errors["bomb.png"]
    assert counts == Counter(row["decision"] or "error" for row in found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "p.csv"]


def test_json_lines_hold_the_largest_probabilities(predictor, images, tmp_path):
    files = [str(images / "grey.png"), str(images / "empty.jpg")]
    table.write_predictions(predictor, files, str(tmp_path / "p.jsonl"), top_k=2, progress=False)
    good, broken = (json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines())
    given = [value for key, value in good.items() if key.startswith("p_")]
    assert given == sorted(given, reverse=True)
    assert given[0] == good["confidence"]
    assert len(given) == 2
    assert broken == {"path": files[1], "status": "error", "error": "ValueError: the file is empty"}


def test_a_stopped_job_continues(predictor, photographs, tmp_path, monkeypatch):
    files = sorted(map(str, photographs.rglob("*.png")))
    straight, stopped = (str(tmp_path / name) for name in ("straight.csv", "stopped.csv"))
    table.write_predictions(predictor, files, straight, batch_size=4, progress=False)
    seen = []

    def read(self: Predictor, file: object) -> decode.UInt8:
        seen.append(file)
        if len(seen) == 20:
            raise KeyboardInterrupt
        return decode.decode(file, self.bundle.image_size)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "read", read)
        with pytest.raises(KeyboardInterrupt):
            table.write_predictions(predictor, files, stopped, batch_size=4, progress=False)
    unfinished = Path(stopped + table.UNFINISHED_SUFFIX)
    with unfinished.open("ab") as file:
        file.write(b'{"path": "half a l')  # what a killed process leaves
    kept = len(unfinished.read_text().splitlines()) - 2
    assert 0 < kept < len(files)
    asked, original = [], predictor._network
    monkeypatch.setattr(predictor, "_network", lambda images, maps: asked.append(len(images)) or original(images, maps))
    table.write_predictions(predictor, files, stopped, batch_size=4, progress=False)
    assert sum(asked) == len(files) - kept
    assert Path(stopped).read_text() == Path(straight).read_text()
    assert not unfinished.exists()


def test_a_table_that_was_begun_with_another_network_is_refused(predictor, photographs, tmp_path):
    file = tmp_path / "p.csv"
    Path(f"{file}{table.UNFINISHED_SUFFIX}").write_text('{"predictions_of": "x", "top_k": null}\n{"path": "a.png"}\n')
    with pytest.raises(UserError, match="was begun with another network"):
        table.write_predictions(predictor, [], str(file), progress=False)


def test_a_table_that_exists_stays(predictor, tmp_path):
    (tmp_path / "p.csv").write_text("mine")
    with pytest.raises(UserError, match=r"p\.csv exists"):
        table.write_predictions(predictor, [], str(tmp_path / "p.csv"), progress=False)
    assert (tmp_path / "p.csv").read_text() == "mine"


@pytest.mark.skipif(os.name != "posix", reason="names of bytes")
def test_names_that_are_not_utf8_survive(predictor, photographs, tmp_path):
    strange = os.fsdecode(os.fsencode(tmp_path) + b'/\xff,\n".png')
    shutil.copy(next(photographs.rglob("*.png")), strange)
    for name in ("p.csv", "p.jsonl"):
        table.write_predictions(predictor, [strange], str(tmp_path / name), progress=False)
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert next(csv.DictReader(file))["path"] == strange
    assert json.loads((tmp_path / "p.jsonl").read_text())["path"] == strange


def test_the_command_writes_a_table_and_counts(finished_run, images, typed, tmp_path):
    done = typed("predict", f"run={finished_run}", f"source={images}", "progress=false", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"table: {tmp_path / 'predictions.csv'}" in done.stdout
    assert "4 error" in done.stdout  # Pillow reads the large one, of fewer pixels than the default limit
    assert len(rows(tmp_path / "predictions.csv")) == len(list(images.iterdir()))


def test_the_command_answers_on_the_standard_output(finished_run, images, typed, tmp_path, monkeypatch):
    source = io.BytesIO((images / "grey.png").read_bytes())
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": source}))
    done = typed("predict", f"run={finished_run}", "source=-", "output=-", "format=jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == "-"
    assert list(tmp_path.iterdir()) == [images]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["source=nowhere"], "source=nowhere is not there"),
        (["source=-", "run=nowhere"], "run=nowhere is not there"),
        (["format=xml"], "format=xml does not exist"),
        (["device=cuda:99"], "device=cuda:99 cannot be used here"),
        (["device=gpu"], "device=gpu cannot be used here"),
        (["output=no/such/folder/p.csv"], "there is no folder"),
        (["batch_size=0"], "batch_size=0 must be"),
        (["top_k=0"], "top_k=0 must be"),
    ],
)
def test_wrong_settings_are_named(finished_run, images, typed, monkeypatch, *, words, message):
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": io.BytesIO(b"x.jpg")}))
    done = typed("predict", f"run={finished_run}", f"source={images}", *words, cwd=images.parent)
    assert done.returncode == 2
    assert message in done.stderr
    assert list(images.parent.iterdir()) == [images]


def test_a_file_outside_of_a_run_is_refused(finished_run, tmp_path):
    shutil.copy(finished_run / "checkpoints" / "model.safetensors", tmp_path)
    with pytest.raises(UserError, match="lies in no run folder"):
        Predictor.load(tmp_path / "model.safetensors")


def test_parquet_holds_the_same_rows(predictor, images, tmp_path):
    pytest.importorskip("pyarrow")
    files = sorted(map(str, images.iterdir()))
    for name in ("p.csv", "p.parquet"):
        table.write_predictions(predictor, files, str(tmp_path / name), progress=False)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "p.parquet"), pd.read_csv(tmp_path / "p.csv"))


def test_names_with_a_carriage_return_survive(predictor, tmp_path):
    files = ["a\rb.jpg", "c.jpg"]
    table.write_predictions(predictor, files, str(tmp_path / "p.csv"), progress=False)
    assert [row["path"] for row in rows(tmp_path / "p.csv")] == files
    assert b"\r\n" not in (tmp_path / "p.csv").read_bytes()


def test_rows_of_another_source_are_refused(predictor, tmp_path, monkeypatch):
    file = tmp_path / "p.csv"
    with monkeypatch.context() as patch:
        patch.setattr(table, "_write_table", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            table.write_predictions(predictor, ["a.jpg", "b.jpg"], str(file), progress=False)
    with pytest.raises(UserError, match=r"1 image that the source does not name, such as a\.jpg"):
        table.write_predictions(predictor, ["b.jpg", "c.jpg"], str(file), progress=False)
    table.write_predictions(predictor, [io.BytesIO(b"x")], str(file), progress=False)
    assert [row["path"] for row in rows(file)] == ["-"]


@pytest.mark.parametrize("content", [b"mine, without an end", b"\0\0\0\n", b"[1]\nx"])
def test_a_file_that_is_no_unfinished_table_stays(predictor, tmp_path, content):
    unfinished = tmp_path / f"p.csv{table.UNFINISHED_SUFFIX}"
    unfinished.write_bytes(content)
    with pytest.raises(UserError, match="remove it"):
        table.write_predictions(predictor, ["a.jpg"], str(tmp_path / "p.csv"), progress=False)
    assert unfinished.read_bytes() == content


def test_a_damaged_unfinished_table_is_named(predictor, tmp_path):
    unfinished = tmp_path / f"p.csv{table.UNFINISHED_SUFFIX}"
    identity = {"predictions_of": table.digest(predictor), "top_k": None}
    unfinished.write_bytes(json.dumps(identity).encode() + b"\n\0\0\n")
    with pytest.raises(UserError, match="is damaged"):
        table.write_predictions(predictor, ["a.jpg"], str(tmp_path / "p.csv"), progress=False)


def test_a_table_that_another_process_wrote_meanwhile_stays(predictor, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def wait(*_):
        (tmp_path / "p.csv").write_text("of the other")
        yield

    monkeypatch.setattr(table, "exclusive_lock", wait)
    with pytest.raises(UserError, match=r"p\.csv exists"):
        table.write_predictions(predictor, ["a.jpg"], str(tmp_path / "p.csv"), progress=False)
    assert (tmp_path / "p.csv").read_text() == "of the other"


def test_a_full_disk_is_said_and_the_job_continues(predictor, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(table, "_write_table", full)
        with pytest.raises(UserError, match=r"p\.csv cannot be written \(No space left on device\)"):
            table.write_predictions(predictor, ["a.jpg"], str(tmp_path / "p.csv"), progress=False)
    table.write_predictions(predictor, ["a.jpg"], str(tmp_path / "p.csv"), progress=False)
    assert len(rows(tmp_path / "p.csv")) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["device=meta"], "device=meta cannot be used here"),
        (["device=true"], "device=True cannot be used here"),
        (["device=[cpu]"], "cannot be used here"),
        (["output="], "is a folder"),
        ([f"output={'y' * 300}"], "cannot be written"),
        (["run=~nobody_of_this_name"], "is not there"),
        ([f"run={'r' * 300}"], "is not there"),
    ],
)
def test_strange_settings_are_named(finished_run, images, typed, *, words, message):
    done = typed("predict", f"run={finished_run}", f"source={images}", *words, cwd=images.parent)
    assert done.returncode == 2
    assert message in done.stderr


def test_last_ckpt_is_refused(finished_run):
    with pytest.raises(UserError, match=r"operating\.json is for best\.ckpt"):
        Predictor.load(finished_run / "checkpoints" / "last.ckpt")


def test_a_damaged_operating_json_is_named(finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    file = run / "operating.json"
    content = json.loads(file.read_text())
    for damaged in ({}, [], content | {"calibration": None}, content | {"new": 1}, {"classes": content["classes"]}):
        file.write_text(json.dumps(damaged))
        with pytest.raises(UserError, match=r"operating\.json is damaged or of another version"):
            Predictor.load(run)


def test_a_run_where_torch_is_not_installed_is_named(finished_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"run=.* needs torch, which is not installed; give an exported file"):
        Predictor.load(finished_run)


def test_maps_are_saved_beside_the_rows_that_name_them(finished_run, images, typed, tmp_path):
    """In the shape of each image as it is looked at, and the hottest place is that of the label's map."""
    shutil.copy(images / "grey.png", images / "sub.png")
    words = [f"run={finished_run}", f"source={images}", "save_maps=maps (new)/of", "progress=false"]
    done = typed("predict", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "predictions.csv")
    good = [row for row in found if row["status"] == "ok"]
    assert list(found[0])[-1] == "map"
    assert all(row["map"] == "" for row in found if row["status"] == "error")
    assert len({row["map"] for row in good}) == len(good) == len(list((tmp_path / "maps (new)" / "of").iterdir()))
    predictor = Predictor.load(finished_run)
    for row in good:
        shown = predictor.read_to_show(Path(row["path"]))
        drawn = np.asarray(Image.open(tmp_path / row["map"]))
        maps = predictor.outputs(np.stack([predictor.read(Path(row["path"]))])).maps[0]
        own = maps[predictor.bundle.classes.index(row["label"])]
        np.testing.assert_array_equal(drawn, predictor.draw(shown, own))
        assert drawn.shape == shown.shape == ((64, 48, 3) if "turned" in row["path"] else drawn.shape)


def test_a_stopped_job_with_maps_continues_with_the_same_folder_alone(predictor, photographs, tmp_path, monkeypatch):
    files, output = sorted(map(str, photographs.rglob("*.png"))), str(tmp_path / "p.jsonl")
    maps = tmp_path / "maps"
    save = Image.Image.save

    def full(self: Image.Image, *given: object) -> None:
        if len(list(maps.iterdir())) > 9:
            raise OSError(28, "No space left on device")
        save(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(UserError, match=r"save_maps=.*maps cannot be written \(No space left on device\)"):
            table.write_predictions(predictor, files, output, save_maps=str(maps), batch_size=4, progress=False)
    assert len(list(maps.iterdir())) == 9
    for other in (None, str(tmp_path / "others")):
        with pytest.raises(UserError, match="another network, threshold, top_k or save_maps"):
            table.write_predictions(predictor, files, output, save_maps=other, progress=False)
    table.write_predictions(predictor, files, output, save_maps=str(maps), progress=False)
    found = [json.loads(line) for line in Path(output).read_text().splitlines()]
    assert [row["path"] for row in found] == files
    assert {row["map"] for row in found} == set(map(str, maps.iterdir()))


def test_without_maps_nothing_is_written(predictor, images, tmp_path):
    bundle = replace(predictor.bundle, cells=None)
    without = Predictor(bundle, lambda *_: pytest.fail("an image was decided"), predictor.source)
    with pytest.raises(UserError, match="has no class-activation maps"):
        table.write_predictions(
            without, [str(images / "grey.png")], str(tmp_path / "p.csv"), save_maps=str(tmp_path / "m"), progress=False
        )
    assert list(tmp_path.iterdir()) == [images]


@pytest.mark.parametrize(
    "image", ["-", "", "../..", "a/b.jpg", "CON.png", "表" * 90, "𠀀" * 60, 'x\n"*?.png', "a\udcff.jpg"]
)
def test_names_of_maps_are_safe(image, tmp_path):
    name = map_files.file_name(image)
    assert re.fullmatch(r"[\w-]{0,50}_[0-9a-f]{12}\.png", name)
    map_files.MapFolder(str(tmp_path), "x").save(image, np.zeros((2, 2, 3), np.uint8))


def test_a_map_of_another_image_of_the_same_path_is_kept(tmp_path):
    """Of the standard input, or of a path that is relative to another folder."""
    folder = map_files.MapFolder(str(tmp_path), "x")
    images = [np.full((2, 2, 3), level, np.uint8) for level in (1, 2)]
    saved = [folder.save("-", image) for image in images]
    assert [np.asarray(Image.open(name)).max() for name in saved] == [1, 2]


def test_names_of_maps_tell_images_and_networks_apart():
    pairs = [("a.jpg", "x"), ("a.png", "x"), ("b/a.jpg", "x"), ("a.jpg", "y")]
    assert len({map_files.file_name(*pair) for pair in pairs}) == len(pairs)
