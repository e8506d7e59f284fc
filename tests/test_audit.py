"""The audit: planted faults are found and nothing else, and the images stay as they are."""

import os
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from alu_defects.audit import audit
from alu_defects.auditing import checks
from alu_defects.auditing.checks import Audit
from alu_defects.auditing.findings import Kind, Severity
from alu_defects.config import compose
from alu_defects.data import folder
from alu_defects.data.files import Reason
from alu_defects.errors import UserError

ARCHIVE = "guangdong_round1_train2_20180916"
FOLDERS = {
    "normal": f"{ARCHIVE}/无瑕疵样本/正常",
    "scuffed": f"{ARCHIVE}/瑕疵样本/擦花/擦花",
    "convex_powder": f"{ARCHIVE}/瑕疵样本/凸粉/凸粉",
}


def photograph(seed: int) -> Image.Image:
    """A bright bar across a dark bench, with a texture of its own."""
    coarse = np.random.default_rng(seed).integers(0, 80, (24, 32, 3), dtype=np.uint8)
    pixels = np.array(Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC))
    pixels[40:85] += 120
    return Image.fromarray(pixels)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes in the layout of the archives, each shot in six sessions of two images."""
    start = pd.Timestamp("2018-09-11 08:00")
    for number, name in enumerate(FOLDERS.values()):
        for k in range(12):
            time = start + pd.Timedelta(hours=2 * number, minutes=10 * (k // 2), seconds=15 * (k % 2))
            path = tmp_path / "images" / f"{name}{time:%Y%m%d%H%M%S}对照样本.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph(100 * number + k).save(path, quality=92)
    return tmp_path / "images"


def state(root: Path) -> dict[str, tuple[int, str]]:
    """Modification time and content of everything below a root, and of itself."""
    contents = {p: sha256(p.read_bytes()).hexdigest() if p.is_file() else "" for p in (root, *root.rglob("*"))}
    return {str(path): (path.stat().st_mtime_ns, content) for path, content in contents.items()}


def audited(root: Path, *overrides: str, source: str = "tianchi") -> Audit:
    words = [f"data={source}", f"data.root={root}", f"output={root.parent / 'audit'}", "data.progress=false"]
    return audit(compose("audit", [*words, *overrides]))


def found(result: Audit) -> set[tuple[str, ...]]:
    """The findings as (severity, kind, path, other); only the names of the files."""
    rows = result.findings[["severity", "kind", "path", "other"]].itertuples(index=False)
    return {(severity, kind, Path(path).name, Path(other).name) for severity, kind, path, other in rows}


def images(result: Audit, label: str, split: str) -> list[Path]:
    table = result.table[(result.table["label"] == label) & (result.table["split"] == split)]
    return [result.root / path for path in table["path"]]


def test_images_without_a_fault_are_ready(root: Path, typed) -> None:
    before = state(root)
    done = typed("audit", "data=tianchi", f"data.root={root}", f"output={root.parent / 'audit'}")
    assert done.returncode == 0, done.stderr
    assert "Ready to train; nothing to look at." in done.stdout
    assert "convex_powder" in done.stdout
    assert "160×120" in done.stdout
    assert "sees no pixels" in done.stdout
    assert pd.read_csv(root.parent / "audit" / "audit.csv").empty
    assert "Ready to train" in (root.parent / "audit" / "audit.html").read_text()
    assert state(root) == before


def test_ten_planted_faults_are_found_and_nothing_else(root: Path, typed) -> None:
    clean = audited(root)
    train, test = images(clean, "scuffed", "train"), images(clean, "scuffed", "test")
    truncated, empty, *_ = images(clean, "normal", "train")
    truncated.write_bytes(truncated.read_bytes()[:2000])
    empty.write_bytes(b"")
    text = root / f"{FOLDERS['normal']}20180911120000对照样本.jpg"
    text.write_text("the card was full")
    shutil.copy(train[0], one := root / f"{FOLDERS['convex_powder']}20180911130000对照样本.jpg")
    shutil.copy(train[1], copy := root / f"{FOLDERS['scuffed']}20180911140000对照样本.jpg")
    with Image.open(train[2]) as shot:
        shot.resize((80, 60)).save(test[0], quality=60)
    folder = root / ARCHIVE / "瑕疵样本" / "擦花" / "folder.jpg"
    folder.mkdir()
    photograph(900).save(folder / "a.jpg")
    stranger = root / ARCHIVE / "瑕疵样本" / "划痕" / "划痕20180911150000对照样本.jpg"
    stranger.parent.mkdir()
    photograph(901).save(stranger)
    (train[0].parent / ".DS_Store").write_bytes(b"\0")
    photograph(902).save(png := root / f"{FOLDERS['normal']}20180911160000对照样本.jpg", format="PNG")

    before = state(root)
    result = audited(root)
    assert found(result) == {
        (Severity.ERROR, Kind.TRUNCATED, truncated.name, ""),
        (Severity.ERROR, Kind.EMPTY, empty.name, ""),
        (Severity.ERROR, Kind.NO_IMAGE, text.name, ""),
        (Severity.WARNING, Reason.TWO_LABELS, one.name, train[0].name),
        (Severity.INFO, Reason.SAME_CONTENT, copy.name, train[1].name),
        (Severity.WARNING, Kind.NEAR_ACROSS, *sorted([train[2].name, test[0].name])),
        (Severity.WARNING, Reason.FOLDER_FOR_FILE, "folder.jpg", ""),
        (Severity.WARNING, Reason.UNKNOWN_CLASS, stranger.name, ""),
        (Severity.INFO, Reason.HIDDEN, ".DS_Store", ""),
        (Severity.WARNING, Kind.OTHER_FORMAT, png.name, ""),
    }
    assert len(result.findings) == 10
    assert result.verdict == "Training would fail: 3 images cannot be decoded."
    details = dict(zip(result.findings["kind"], result.findings["detail"], strict=True))
    assert details[Kind.OTHER_FORMAT] == "the content is PNG"
    assert "the card was ful" in details[Kind.NO_IMAGE]
    assert "scuffed, train" in details[Kind.NEAR_ACROSS]
    assert "scuffed, test" in details[Kind.NEAR_ACROSS]
    assert {"scuffed", "convex_powder"} < set(details[Reason.TWO_LABELS].replace(";", "").split())
    assert details[Reason.FOLDER_FOR_FILE].endswith(": 1")

    done = typed("audit", "data=tianchi", f"data.root={root}", f"output={root.parent / 'again'}")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "Training would fail: 3 images cannot be decoded." in done.stdout
    assert pd.read_csv(root.parent / "again" / "audit.csv", keep_default_na=False).equals(result.findings)
    assert state(root) == before


def test_what_training_does_not_read_does_not_fail_it(root: Path) -> None:
    other = root / ARCHIVE / "瑕疵样本" / "其他" / "划伤" / "划伤20180911150000对照样本.jpg"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"")
    result = audited(root)
    assert not result.fails
    assert found(result) == {
        (Severity.WARNING, Kind.EMPTY, other.name, ""),
        (Severity.INFO, Reason.CLASS_OTHER, other.name, ""),
    }
    assert audited(root, "data.include_other=true", "split.name=random").fails


def test_images_that_cannot_be_split_are_still_inspected(root: Path) -> None:
    lonely = root / ARCHIVE / "瑕疵样本" / "脏点" / "脏点20180911150000对照样本.jpg"
    lonely.parent.mkdir()
    lonely.write_bytes(b"")
    result = audited(root)
    assert {kind for _, kind, *_ in found(result)} == {Kind.CANNOT_START, Kind.EMPTY}
    assert "dirty_spot" in result.findings["detail"].iloc[0]
    assert result.classes()["images"].to_dict() == {
        "normal": 12,
        "scuffed": 12,
        "convex_powder": 12,
        "dirty_spot": 1,
    }


def test_a_dead_link_is_an_error_and_the_others_are_inspected(root: Path) -> None:
    link = next((root / ARCHIVE).rglob("正常*.jpg")).with_name("正常20180911150000对照样本.jpg")
    link.symlink_to("/nowhere.jpg")
    next(root.rglob("擦花*.jpg")).write_bytes(b"")
    kinds = {kind for _, kind, *_ in found(audited(root))}
    assert kinds == {Kind.CANNOT_START, Reason.BROKEN, Kind.EMPTY}
    result = audited(root, "data.on_broken=exclude")
    assert {kind for _, kind, *_ in found(result)} == {Reason.BROKEN, Kind.EMPTY}


def test_images_of_one_class_are_still_inspected(root: Path) -> None:
    shutil.rmtree(root / ARCHIVE / "瑕疵样本")
    (broken := next(root.rglob("正常*.jpg"))).write_bytes(b"")
    result = audited(root)
    assert {(kind, name) for _, kind, name, _ in found(result)} == {(Kind.CANNOT_START, ""), (Kind.EMPTY, broken.name)}
    assert "one class only" in result.findings["detail"].iloc[0]
    assert result.sizes()["images"].sum() == 11
    assert result.verdict.startswith("Training would fail: ")


def test_near_duplicates_within_train_and_under_two_labels(root: Path) -> None:
    clean = audited(root)
    first, burst, second, _, third, _, fourth, _ = images(clean, "scuffed", "train")
    other = images(clean, "normal", "train")[0]
    with Image.open(first) as shot:
        shot.save(burst, quality=70)  # of the same session: to be expected
        shot.save(second, quality=50)
    with Image.open(third) as shot:
        shot.save(fourth, quality=60)
        shot.save(other, quality=50)
    assert found(audited(root)) == {
        (Severity.INFO, Kind.NEAR, first.name, second.name),
        (Severity.WARNING, Kind.NEAR_LABELS, other.name, third.name),
        (Severity.WARNING, Kind.NEAR_LABELS, other.name, fourth.name),
    }
    assert found(audited(root, "near_duplicates.max_distance=0")) == set()
    divided = audited(root, "split.name=random")
    assert divided.alike is not None
    assert divided.alike.pairs


def test_an_output_among_the_images_is_refused(root: Path) -> None:
    before = state(root)
    with pytest.raises(UserError, match="below the images"):
        audited(root, f"output={root / 'audit'}")
    assert state(root) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["split.val_fraction=1.5"], "split.val_fraction=1.5 and split.test_fraction=0.2: must be above 0"),
        (["split=kfold", "split.k=2"], "split.k=2 must be 3 or more"),
        (["split=kfold", "split.fold=5"], "split.fold=5 must be from 0 to 4"),
        (["split=kfold", "split.by=bar"], "split.by=bar does not exist. There are: session, image"),
        (["split=paper", "split.test_fraction=0.0"], "split.test_fraction=0.0: must be above 0"),
        (["split.gap=-1"], "split.gap=-1 must be 0 seconds or more"),
        (["split.name=sesion"], "split.name=sesion does not exist; did you mean session?"),
        (["split=file", "split.file=no such.csv"], "split.file=no such.csv cannot be read"),
        (["+split.k=5"], "split.name=auto: got an unexpected keyword argument 'k'"),
        (["data.round=3"], "data.round=3 does not exist; give one of 1, 2"),
        (["+data.size=3"], "data.source=tianchi: got an unexpected keyword argument 'size'"),
        (["near_duplicates.max_distance=-1"], "near_duplicates.max_distance=-1 must be from 0 to 1024"),
    ],
)
def test_wrong_settings_are_refused_before_any_file_is_listed_or_decoded(
    root: Path, typed, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    def read(*_):
        raise AssertionError("files are read")

    monkeypatch.setattr(folder, "list_files", read)
    monkeypatch.setattr(checks, "inspect_file", read)
    done = typed("audit", "data=tianchi", f"data.root={root}", f"output={root.parent / 'audit'}", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (root.parent / "audit").exists()


def test_a_root_that_does_not_exist_is_a_wrong_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder is not a folder"):
        audited(tmp_path / "no such folder", source="folder")
    assert not list(tmp_path.iterdir())


def test_strange_names_break_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root / ARCHIVE / "无瑕疵样本"
    strange = ["<script>\"&'.jpg", "line\nend.jpg", os.fsdecode(b"\xb2\xc1\xbb\xa8.jpg"), "[red]#%20.jpg"]
    for number, name in enumerate(strange):
        photograph(950 + number).save(folder / name, format="PNG")
    assert audited(root).verdict == "Ready to train; 4 things to look at."
    assert "/[red]#%20.jpg" in capsys.readouterr().out
    page = (root.parent / "audit" / "audit.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "%B2%C1%BB%A8.jpg" in page
    listed = pd.read_csv(root.parent / "audit" / "audit.csv", encoding_errors="surrogateescape")["path"]
    assert {Path(path).name for path in listed} == set(strange)


def test_the_page_needs_no_network_and_shows_the_images(root: Path) -> None:
    clean = audited(root)
    paths = images(clean, "scuffed", "train")
    with Image.open(paths[0]) as shot:
        shot.save(paths[2], quality=50)
    paths[4].write_bytes(paths[4].read_bytes()[:1500])
    audited(root)
    page = (root.parent / "audit" / "audit.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 2
    assert page.count("cannot be decoded") == 2  # the verdict, and instead of the image
    assert "http" not in page
    assert paths[4].as_uri() in page


def test_a_split_that_cuts_groups_is_a_finding(root: Path) -> None:
    assert Kind.SPLIT in set(audited(root, "split=random").findings["kind"])


def test_bad_data_are_reported_with_a_frame_by_the_shape_of_the_images(tmp_path: Path) -> None:
    (tmp_path / "one" / "pit").mkdir(parents=True)
    photograph(1).save(tmp_path / "one" / "pit" / "a.jpg")
    result = audited(tmp_path / "one", "data.image_size=auto", source="folder")
    assert Kind.CANNOT_START in set(result.findings["kind"])
