"""Each layout of data, from the command line: audited, trained on, and evaluated."""

import json
import shutil
from pathlib import Path

import pytest

from alu_defects.data.catalog import load_catalog

SMALL = ["data.image_size=32", "model.width=0.5", "trainer.max_epochs=1"]
CPU = ["trainer=cpu", "trainer.enable_progress_bar=false"]


def copies(photographs: Path, root: Path, splits: tuple[str, ...]) -> Path:
    """The photographs, each in the folder of a split, in turn."""
    for number, file in enumerate(sorted(photographs.rglob("*.png"))):
        target = root / splits[number % len(splits)] / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return root


def given(photographs: Path, folder: Path) -> list[str]:
    return ["data=folder", f"data.root={copies(photographs, folder, ('train', 'train', 'val', 'test'))}"]


def without_val(photographs: Path, folder: Path) -> list[str]:
    return ["data=folder", f"data.root={copies(photographs, folder, ('train', 'train', 'test'))}"]


def mvtec(photographs: Path, folder: Path) -> list[str]:
    for label in ("across", "along", "plain"):
        shutil.copytree(photographs / label, folder / "test" / label)
    for file in sorted((folder / "test" / "plain").iterdir())[:6]:
        (folder / "train" / "plain").mkdir(parents=True, exist_ok=True)
        file.rename(folder / "train" / "plain" / file.name)
    shutil.copytree(photographs / "across", folder / "ground_truth" / "across")
    return ["data=folder", f"data.root={folder}", "split=session"]


def table(photographs: Path, folder: Path) -> list[str]:
    lines = ["file;label;line"]
    lines += [f"{file};{file.parent.name};{number}" for number, file in enumerate(sorted(photographs.rglob("*.png")))]
    folder.mkdir()
    (folder / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    words = ["data=table", f"data.table={folder / 'labels.csv'}", "data.columns.path=file"]
    return [*words, f"data.root={photographs}"]


def several(photographs: Path, folder: Path) -> list[str]:
    copies(photographs, folder, ("one", "two"))
    return ["data=folder", f"data.root=[{folder / 'one'},{folder / 'two'}]"]


@pytest.mark.parametrize(
    ("layout", "split"),
    [
        (given, "given"),
        (table, "session"),
        pytest.param(without_val, "given", marks=pytest.mark.slow),
        pytest.param(mvtec, "session", marks=pytest.mark.slow),
        pytest.param(several, "session", marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_layout_is_audited_trained_on_and_evaluated(typed, photographs, tmp_path, layout, split) -> None:
    words, run = layout(photographs, tmp_path / "data"), tmp_path / "run"
    done = typed("audit", *words, f"output={tmp_path / 'audit'}", "data.progress=false")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ready to train; nothing to look at." in done.stdout
    done = typed("train", *words, *SMALL, *CPU, f"run_dir={run}")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "run.json").read_text())["split"] == split
    catalog = load_catalog(run / "catalog.csv")
    assert len(catalog) == 36
    if layout is given:
        assert (catalog["split"] == catalog["given_split"]).all()
    moved: list[str] = []
    if layout is several:
        (tmp_path / "data" / "two").rename(tmp_path / "moved")
        done = typed("evaluate", f"run={run}", *CPU)
        assert (done.returncode, "are no longer in" in done.stderr) == (2, True)
        done = typed("evaluate", f"run={run}", f"data.root={tmp_path / 'moved'}", *CPU)
        assert (done.returncode, "lie below 2 folders" in done.stderr) == (2, True)
        moved = [f"data.root=[{tmp_path / 'data' / 'one'},{tmp_path / 'moved'}]"]
    done = typed("evaluate", f"run={run}", *moved, *CPU)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "evaluation" / "test" / "metrics.json").read_text())["test"]["accuracy"] >= 0
