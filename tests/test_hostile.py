"""Files as nobody would make them: each is used, or excluded with a message, and none takes another's place."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from alu_defects.runs.run import Run


def save(path: Path, shape: tuple[int, int] = (48, 64)) -> Path:
    rng = np.random.default_rng(list(os.fsencode(f"{path.parent.name}/{path.name}")))  # the split follows the content
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (*shape, 3), dtype=np.uint8)).save(path)
    return path


def bomb(path: Path) -> None:
    """A hundred bytes that say they are 10 GB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(bytes(9)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + content + chunk(b"IEND", b""))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for label in ("normal", "pit"):
        for number in range(10):
            save(root / label / f"{number}.png")
    return root


NAMES = (
    "起坑 样本.png",
    'a b\'s "quoted".png',
    "line\nend.png",
    246 * "x" + ".png",
    "-dash.png",
    "$HOME;rm.png",
    "%s{0}.png",
)


@pytest.fixture
def words(root: Path) -> list[str]:
    given = ["data=folder", f"data.root={root}", "data.image_size=32", "model.width=0.5", "trainer=cpu"]
    return [*given, "trainer.max_epochs=1", "trainer.enable_progress_bar=false"]


@pytest.mark.slow
def test_odd_names_shapes_and_links_are_no_obstacle(typed, root, words, tmp_path):
    odd = [save(root / "pit" / name).name for name in NAMES]
    odd += [save(root / "pit" / "wide.png", (1, 12_000)).name, save(root / "pit" / "tall.png", (12_000, 1)).name]
    (root / "pit" / os.fsdecode(b"\xff\xfe.png")).write_bytes(save(tmp_path / "x.png").read_bytes())
    (root / "pit" / "loop").symlink_to(root)
    (root / "normal" / "self").symlink_to(root / "normal")
    run = tmp_path / "run"
    done = typed("train", *words, f"run_dir={run}")
    assert done.returncode == 0, done.stderr
    names = [Path(path).name for path in Run(run).catalog()["path"]]
    assert len(names) == 2 * 10 + len(odd) + 1
    assert set(odd) < set(names)
    assert typed("evaluate", f"run={run}", "split=test").returncode == 0
    assert typed("audit", *words[:2], f"output={tmp_path / 'audit'}").returncode == 0


@pytest.mark.slow
def test_what_is_no_image_is_named_all_at_once_or_excluded(typed, root, words, tmp_path):
    pit = root / "pit"
    (pit / "zero.jpg").touch()
    (pit / "text.jpg").write_text("no image", encoding="utf-8")
    bomb(pit / "bomb.png")
    whole = save(pit / "truncated.png").read_bytes()
    (pit / "truncated.png").write_bytes(whole[: len(whole) // 2])
    broken = ["pit/bomb.png", "pit/text.jpg", "pit/truncated.png", "pit/zero.jpg"]
    done = typed("train", *words, f"run_dir={tmp_path / 'refused'}")
    assert done.returncode == 2
    assert "4 images cannot be decoded" in done.stderr
    for path in broken:
        assert str(root / path) in done.stderr
    run = tmp_path / "run"
    done = typed("train", *words, "data.on_broken=exclude", f"run_dir={run}")
    assert done.returncode == 0, done.stderr
    excluded = pd.read_csv(run / "excluded.csv").set_index("path")["detail"]
    assert sorted(excluded.index) == broken
    assert "the file is empty" in excluded["pit/zero.jpg"]
    assert "more than max_pixels=200000000" in excluded["pit/bomb.png"]
    assert len(Run(run).catalog()) == 20
    assert typed("evaluate", f"run={run}", "split=test").returncode == 0
    done = typed("audit", *words[:2], f"output={tmp_path / 'audit'}")
    assert done.returncode == 1  # training would fail
    assert set(broken) <= set(pd.read_csv(tmp_path / "audit" / "audit.csv")["path"].dropna())


@pytest.mark.parametrize("target", ["/nowhere/gone.png", "link.png"])
def test_a_link_that_leads_nowhere_is_named(typed, root, words, tmp_path, target):
    (root / "pit" / "link.png").symlink_to(target)
    done = typed("train", *words, f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "1 image cannot be decoded; replace or remove them, or train without them" in done.stderr
    assert f"{root / 'pit' / 'link.png'} (OSError: a link to {target}, which is not there)" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["pit", "pit/0.png"])
def test_what_may_not_be_read_is_named(typed, root, words, tmp_path, name):
    (root / name).chmod(0)
    done = typed("train", *words, f"run_dir={tmp_path / 'run'}")
    (root / name).chmod(0o755)
    assert done.returncode == 2
    assert f"{root / name} cannot be read (Permission denied)" in done.stderr
