"""A station that is killed again and again decides each file exactly once, and loses none."""

import csv
import hashlib
import io
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alu_defects.deployment.predictor import Predictor


def image(number: int) -> bytes:
    """An image that no other number makes."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 6, (32, 32, 3)) + rng.integers(0, 250, 3)
    Image.fromarray(pixels.astype(np.uint8)).save(content := io.BytesIO(), "png", compress_level=1)
    return content.getvalue()


def write(contents: list[bytes], source: Path, pause: float) -> None:
    """As a camera does: a folder for every thousand, some in two steps."""
    for number, content in enumerate(contents):
        file = source / str(number // 1000) / f"{number:06}.png"
        file.parent.mkdir(exist_ok=True)
        with file.open("wb", buffering=0) as opened:
            if number % 50 == 0:
                opened.write(content[:100])
                time.sleep(0.02)
                opened.write(content[100:])
            else:
                opened.write(content)
        time.sleep(pause)


def decided(output: Path) -> int:
    return sum(file.read_bytes().count(b"\n") - 1 for file in output.glob("decisions_*.csv"))


def kill_and_check(network: Path, folder: Path, *, files: int, kills: int, transfer: str, pause: float) -> None:
    """Watch a folder that fills, and kill at random moments."""
    seed = random.randrange(2**32)
    print(f"{files} files, {kills} kills, transfer={transfer}, seed {seed}")  # which pytest shows with a failure
    moments = random.Random(seed)
    source, output = folder / "source", folder / "out"
    source.mkdir()
    contents = [image(number) for number in range(files)]
    camera = threading.Thread(target=write, args=(contents, source, pause))
    words = [f"run={network}", f"source={source}", f"output={output}", f"transfer={transfer}", "settle=0.2", "poll=0.1"]
    command = [sys.executable, "-m", "alu_defects.watch", *words]
    begun = time.monotonic()
    camera.start()
    for reached in sorted(moments.randrange(files * 9 // 10) for _ in range(kills)):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            while decided(output) <= reached:
                assert process.poll() is None
                assert time.monotonic() - begun < 60 + files / 10
                time.sleep(0.01)
            time.sleep(moments.random() * 0.1)
            process.send_signal(signal.SIGKILL)
    camera.join()
    done = subprocess.run([*command, "once=true"], capture_output=True, text=True, check=True, timeout=60 + files / 10)
    print(f"{time.monotonic() - begun:.1f} s; the last one: {done.stdout.splitlines()[-1]}")
    assert done.stderr == ""
    check(network, source, output, contents, transfer)


def check(network: Path, source: Path, output: Path, contents: list[bytes], transfer: str) -> None:
    """Whether each content was decided exactly once, by files, tables and ledger."""
    rows: list[dict[str, str]] = []
    for table in sorted(output.glob("decisions_*.csv")):
        with table.open(newline="", encoding="utf-8") as opened:
            rows += list(csv.DictReader(opened))
    hashes = [hashlib.sha256(content).hexdigest() for content in contents]
    assert sorted(row["sha256"] for row in rows) == sorted(hashes)  # each once
    assert {row["status"] for row in rows} == {"ok"}
    with sqlite3.connect(output / "ledger.sqlite") as database:
        assert [row["sha256"] for row in rows] == [
            sha for (sha,) in database.execute("SELECT sha256 FROM rows ORDER BY number")
        ]
    placed = [file for file in output.glob("*/**/*") if file.is_file()]
    assert sorted(str(file.relative_to(output)) for file in placed) == sorted(row["placed"] for row in rows)
    by_hash = dict(zip(hashes, contents, strict=True))
    for row in rows:
        assert (output / row["placed"]).read_bytes() == by_hash[row["sha256"]]
    expected = Counter(str(one.decision.action) for one in Predictor.load(network).predict(map(io.BytesIO, contents)))
    assert Counter(row["decision"] for row in rows) == expected
    assert len(expected) == 3
    assert sum(file.is_file() for file in source.rglob("*")) == (len(contents) if transfer == "copy" else 0)


@pytest.mark.parametrize("transfer", ["copy", "move"])
def test_two_kills_lose_nothing(write_tiny: Callable[..., Path], tmp_path, transfer):
    kill_and_check(write_tiny(tmp_path / "t.onnx"), tmp_path, files=200, kills=2, transfer=transfer, pause=0.002)


@pytest.mark.parametrize(
    "place", ["Folders._write", "Folders.sync", "Ledger.add", "DayTables.append", "Station._release"]
)
def test_a_kill_between_two_steps_loses_nothing(write_tiny: Callable[..., Path], tmp_path, place):
    network, source, output = write_tiny(tmp_path / "t.onnx"), tmp_path / "source", tmp_path / "out"
    source.mkdir()
    contents = [image(number) for number in range(60)]
    write(contents, source, pause=0)
    words = [f"run={network}", f"source={source}", f"output={output}", "transfer=move", "once=true", "settle=0.05"]
    script = (
        "import os, signal, sys\n"
        "from alu_defects.deployment.watcher import DayTables, Folders, Ledger, Station\n"
        "from alu_defects.watch import main\n"
        f"original, calls = {place}, []\n"
        "def killed(*arguments):\n"
        "    original(*arguments)\n"
        "    calls.append(1)\n"
        "    if len(calls) == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{place} = killed\n"
        f"sys.argv = {['watch', *words]}\n"
        "main()"
    )
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL, check=False).returncode == -9
    subprocess.run([sys.executable, "-m", "alu_defects.watch", *words], stdout=subprocess.DEVNULL, check=True)
    check(network, source, output, contents, "move")
    assert list((output / "unfinished").iterdir()) == []


@pytest.mark.soak
@pytest.mark.parametrize("transfer", ["copy", "move"])
def test_twenty_thousand_files_and_ten_kills(write_tiny: Callable[..., Path], tmp_path, transfer):
    kill_and_check(write_tiny(tmp_path / "t.onnx"), tmp_path, files=20_000, kills=10, transfer=transfer, pause=0.001)
