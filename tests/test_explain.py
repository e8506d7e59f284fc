"""`alu_defects.explain` on the command line: the worst images first, and errors that say what to give instead."""

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alu_defects.config import compose
from alu_defects.explain import explain
from alu_defects.runs.jobs import read_predictions


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, which pages are written into."""
    return Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("explain") / "run"))


def test_a_split_is_explained_in_the_run_the_worst_images_first(run, typed):
    done = typed("explain", f"run={run}", "split=test", "images=5", "progress=false")
    assert done.returncode == 0, done.stderr
    known = read_predictions(run)
    mistakes = int((known["label"] != known["prediction"]).sum())
    counted = f"{mistakes} mistake{'s' * (mistakes != 1)} in {len(known)} images; the worst 5 are explained"
    assert counted in done.stdout
    page = (run / "explain" / "explain.html").read_text(encoding="utf-8")
    assert counted in page
    assert page.count("<section>") == 5
    pictures = set(re.findall(r'<a href="([^"]+\.png)">', page))
    assert {path.name for path in (run / "explain").glob("*.png")} == pictures
    assert len(pictures) == 5
    assert 'src="data:image/jpeg' in page
    assert not re.search(r'src="(?!data:)', page)  # the page needs nothing beside it


def test_mistakes_come_before_the_least_confident(run, tmp_path):
    found = explain(compose("explain", [f"run={run}", f"output={tmp_path}", "images=1000", "progress=false"]))
    known = read_predictions(run)
    assert len(found) == len(known)
    wrong = [one.label != one.decision.label for one in found]
    assert wrong == sorted(wrong, reverse=True)
    assert sum(wrong) == (known["label"] != known["prediction"]).sum()
    for is_wrong in (True, False):
        confidences = [one.decision.confidence for one, own in zip(found, wrong, strict=True) if own == is_wrong]
        assert confidences == sorted(confidences, reverse=is_wrong)
    for one, is_wrong in zip(found, wrong, strict=True):
        assert len(one.panels) == 3 + is_wrong  # the image, its label's map and the true one's, Grad-CAM


def test_any_image_of_a_source_is_explained_and_a_broken_one_named(run, photographs, typed, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    good = Image.open(next((photographs / "along").glob("*.png"))).convert("RGB")
    good.convert("L").save(folder / "grey.png")
    Image.fromarray(np.full((20, 30), 200, np.uint16)).save(folder / "16 bit.png")
    turned = good.getexif()
    turned[0x0112] = 6
    good.save(folder / "<b>turned.jpg", exif=turned)
    (folder / "text.jpg").write_text("no image")
    words = [f"run={run / 'checkpoints' / 'model.safetensors'}", f"source={folder}", "layer=stage2", "output=out"]
    done = typed("explain", *words, "progress=false", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 images; the worst 3 are explained" in done.stdout
    page = (tmp_path / "out" / "explain.html").read_text(encoding="utf-8")
    assert "text.jpg (UnidentifiedImageError" in page
    assert "Grad-CAM of stage2" in page
    assert "&lt;b&gt;turned.jpg" in page
    assert "<b>turned" not in page


def test_classes_choose_labels_or_decisions(run, photographs, tmp_path):
    words = [f"run={run}", f"output={tmp_path}", "progress=false"]
    found = explain(compose("explain", [*words, "classes=[along,plain]", "images=100"]))
    known = read_predictions(run)["label"]
    assert sorted(one.label for one in found) == sorted(known[known.isin(["along", "plain"])])
    (one,) = explain(compose("explain", [*words, f"source={photographs}", "images=1"]))
    chosen = explain(compose("explain", [*words, f"source={photographs}", f"classes={one.decision.label}", "images=3"]))
    assert {other.decision.label for other in chosen} == {one.decision.label}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run=model.onnx"], "run=model.onnx: an exported file gives no gradients; give the run"),
        (["run=nowhere"], "run=nowhere is not there"),
        (["split=train"], "split=train is not one of val, test"),
        (["layer=stage9"], "layer=stage9 does not exist"),
        (["classes=[along,alnog]"], "classes=alnog does not exist; did you mean along"),
        (["images=0"], "images=0 must be"),
        (["source=nowhere"], "source=nowhere is not there"),
        (["source=-"], "source=-: the standard input is an image"),
        (["source=text.jpg"], "there is no image to explain: text.jpg"),
        (["data.root=empty"], "is missing"),
        (["output=text.jpg", "images=1"], "output=text.jpg cannot be written"),
        (["device=cuda:99"], "device=cuda:99 cannot be used here"),
    ],
)
def test_wrong_settings_are_named(run, typed, tmp_path, monkeypatch, *, words, message):
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": io.BytesIO(b"\xff\xd8\xff and so on")}))
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty").mkdir()
    done = typed("explain", f"run={run}", "progress=false", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "text.jpg"]
