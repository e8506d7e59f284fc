"""The small distribution: what a machine at the line installs."""

import json
import os
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHECKOUT = Path(__file__).parents[2]
MOST_BYTES = 300e6


def test_its_versions_are_those_of_the_whole_package():
    line = tomllib.loads((CHECKOUT / "line" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    whole = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = whole["optional-dependencies"]
    assert set(line["dependencies"]) <= {*whole["dependencies"], *extras["export"], *extras["serve"]}
    assert line["version"] == whole["version"]
    assert line["scripts"].items() <= whole["scripts"].items()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment that has the small distribution alone."""
    folder = tmp_path_factory.mktemp("line")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, str(CHECKOUT / "line")], capture_output=True, text=True, check=False)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    return folder / "bin"


@pytest.fixture
def network(write_tiny, tmp_path) -> Iterator[Path]:
    """Three images in a folder, and beside it a network for them."""
    for name, colour in (("good", (0, 200, 0)), ("bad", (200, 0, 0)), ("unsure", (100, 100, 0))):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(np.full((48, 64, 3), colour, np.uint8)).save(tmp_path / "images" / f"{name}.png")
    return write_tiny(tmp_path / "model.onnx")


@pytest.mark.slow
def test_it_is_small_and_has_no_torch(installed):
    size = sum(path.stat().st_size for path in installed.parent.rglob("*") if path.is_file() and not path.is_symlink())
    assert size <= MOST_BYTES
    names = {path.name for path in (installed.parent / "lib").glob("*/site-packages/*")}
    assert not names & {"torch", "lightning", "pandas", "scipy", "sklearn", "matplotlib"}


@pytest.mark.slow
def test_it_predicts_and_watches(installed, network, tmp_path):
    run, source = f"run={network}", f"source={tmp_path / 'images'}"
    words = [str(installed / "alu-predict"), run, source, "output=-", "format=jsonl", "progress=false"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    rows = {Path(row["path"]).stem: row["decision"] for row in map(json.loads, done.stdout.splitlines())}
    assert (rows["good"], rows["bad"]) == ("pass", "reject")
    words = [str(installed / "alu-watch"), run, source, f"output={tmp_path / 'out'}", "once=true", "settle=0.1"]
    subprocess.run(words, check=True, cwd=tmp_path)
    for name, decision in rows.items():
        assert (tmp_path / "out" / decision / f"{name}.png").is_file()


@pytest.mark.slow
def test_it_serves(installed, network, tmp_path):
    words = [str(installed / "alu-serve"), f"run={network}", "port=0"]
    environment = {key: value for key, value in os.environ.items() if key != "ALU_DEFECTS_TOKEN"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
        try:
            address = process.stdout.readline().split(" decides at ")[1].split()[0]
            body = (tmp_path / "images" / "bad.png").read_bytes()
            with urllib.request.urlopen(urllib.request.Request(f"{address}predict", body)) as answer:
                assert json.load(answer)["decision"] == "reject"
            with urllib.request.urlopen(address) as page:
                assert b"<html" in page.read()
        finally:
            process.terminate()
