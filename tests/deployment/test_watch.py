"""`alu_defects.watch`: each content is decided once, whatever happens to files, folders, disk and network meanwhile."""

import csv
import json
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from alu_defects.deployment import arrivals, heartbeat, ledger, watcher, webhook
from alu_defects.deployment.arrivals import Arrival, Arrivals
from alu_defects.deployment.folders import Folders
from alu_defects.deployment.ledger import DayTables, Ledger
from alu_defects.deployment.predictor import Predictor
from alu_defects.deployment.watcher import Station
from alu_defects.errors import UserError

SETTLE = 0.02


@pytest.fixture(scope="module")
def network(write_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("network") / "tiny.onnx")


@pytest.fixture(scope="module")
def predictor(network: Path) -> Predictor:
    return Predictor.load(network)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "RETRY", 0.01)
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.0)


RED, GREEN, GREY = (250, 20, 20), (20, 250, 20), (90, 90, 90)
FOLDERS = {RED: "reject", GREEN: "pass", GREY: "ask"}


def save(file: Path, colour: tuple[int, int, int] = GREEN, seed: int = 0) -> Path:
    """A noisy image that no other seed makes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 6, (32, 32, 3))
    Image.fromarray((np.array(colour) + noise - 3).astype(np.uint8)).save(file)
    return file


def watch(
    predictor: Predictor, source: Path, *, is_ending: Callable[[], bool] = lambda: False, once: bool = True, **options
):
    output = options.pop("output", source.parent / "out")
    with Station(predictor, str(source), str(output), settle=SETTLE, **options) as station:
        return station.run(once=once, poll=0.01, is_ending=is_ending)


def until(reached: Callable[[], bool], seconds: float = 10) -> Callable[[], bool]:
    """Ends a station when something is reached, or fails when it takes too long."""
    end = time.monotonic() + seconds

    def is_ending() -> bool:
        assert time.monotonic() < end
        return reached()

    return is_ending


def rows(output: Path) -> list[dict[str, str]]:
    found = []
    for file in sorted(output.glob("decisions_*.csv")):
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as opened:
            found += list(csv.DictReader(opened))
    return found


def beat(output: Path) -> dict:
    file = output / "heartbeat.json"
    return json.loads(file.read_text()) if file.exists() else {}


def placed(output: Path) -> list[str]:
    """The files in the folders of decisions."""
    return sorted(str(file.relative_to(output)) for file in output.glob("*/**/*") if file.is_file())


@pytest.mark.parametrize("transfer", ["copy", "move"])
def test_each_image_is_decided_and_lies_in_the_folder_of_its_decision(predictor, source, tmp_path, transfer):
    files = {colour: save(source / "camera 1" / f"{folder}.png", colour) for colour, folder in FOLDERS.items()}
    contents = {folder: files[colour].read_bytes() for colour, folder in FOLDERS.items()}
    os.utime(files[RED], (1_000_000_000, 1_000_000_000))
    expected = {one.path: one.decision for one in predictor.predict(map(str, files.values()))}
    out = tmp_path / "out"
    assert watch(predictor, source, transfer=transfer) == {"reject": 1, "pass": 1, "ask": 1}
    assert placed(out) == sorted(f"{folder}/camera 1/{folder}.png" for folder in contents)
    for folder, content in contents.items():
        assert (out / folder / "camera 1" / f"{folder}.png").read_bytes() == content
    assert (out / "reject/camera 1/reject.png").stat().st_mtime == 1_000_000_000  # when it was taken
    assert sum(file.is_file() for file in source.rglob("*")) == (3 if transfer == "copy" else 0)
    for row in rows(out):
        decision = expected[row["path"]]
        assert (row["label"], row["decision"]) == (decision.label, decision.action)
        assert float(row["confidence"]) == pytest.approx(decision.confidence)
        assert row["placed"] == f"{row['decision']}/camera 1/{row['decision']}.png"
        assert row["time"][:10] in str(list(out.glob("decisions_*.csv")))
    assert watch(predictor, source, transfer=transfer) == {}
    assert len(rows(out)) == 3


@pytest.mark.parametrize("transfer", ["copy", "move"])
def test_the_same_content_under_two_names_is_decided_once(predictor, source, tmp_path, transfer):
    save(source / "a.png")
    shutil.copy(source / "a.png", source / "b.png")
    assert watch(predictor, source, transfer=transfer) == {"pass": 1, "duplicate": 1}
    first, second = rows(tmp_path / "out")
    assert (second["status"], second["decision"]) == ("duplicate", "")
    assert second["error"] == f"same content as {first['path']}"
    assert (
        placed(tmp_path / "out")
        == {
            "copy": ["pass/a.png"],  # the second one stays where it is
            "move": sorted(["duplicate/" + Path(second["path"]).name, "pass/" + Path(first["path"]).name]),
        }[transfer]
    )
    assert watch(predictor, source, transfer=transfer) == {}


def test_a_file_that_is_only_touched_is_no_news(predictor, source, tmp_path):
    file = save(source / "a.png")
    watch(predictor, source)
    os.utime(file, (5, 5))
    assert watch(predictor, source) == {}
    assert len(rows(tmp_path / "out")) == 1


@pytest.mark.parametrize("transfer", ["copy", "move"])
def test_two_contents_under_one_name_are_both_kept(predictor, source, tmp_path, transfer):
    for seed in range(3):
        save(source / "a.png", seed=seed)
        os.utime(source / "a.png", (seed, seed))
        assert watch(predictor, source, transfer=transfer) == {"pass": 1}
    found = rows(tmp_path / "out")
    assert [row["placed"] for row in found] == ["pass/a.png", *(f"pass/a_{row['sha256'][:8]}.png" for row in found[1:])]
    assert placed(tmp_path / "out") == sorted(row["placed"] for row in found)


def test_what_lies_in_the_output_stays(predictor, source, tmp_path):
    mine = tmp_path / "out" / "pass" / "a.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    save(source / "a.png")
    watch(predictor, source)
    assert mine.read_text() == "mine"
    assert len(placed(tmp_path / "out")) == 2


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(arrivals.time, "monotonic", lambda: self.now)


def look(folder: Path, known: Callable[[Arrival], bool] = lambda file: False, **options) -> Arrivals:
    options = {"settle": 2, "recursive": True} | options
    return Arrivals(str(folder), str(folder / "out"), known, **options)


def test_a_file_is_complete_when_it_has_not_changed_for_a_while(source, monkeypatch):
    clock = Clock(monkeypatch)
    found, file = look(source), source / "a.png"
    file.write_bytes(b"half")
    for clock.now in (0.0, 1.9):
        assert found.poll() == []
    file.write_bytes(b"whole and longer")
    for clock.now in (2.0, 3.9):
        assert found.poll() == []
    clock.now = 4.0
    (complete,) = found.poll()
    assert arrivals.read(complete) == b"whole and longer"
    file.write_bytes(b"another one, longer")
    with pytest.raises(arrivals.ChangedError):
        arrivals.read(complete)
    assert found.poll() == []


def test_images_come_in_the_order_of_their_times_and_nothing_else_comes(source, monkeypatch):
    clock = Clock(monkeypatch)
    for number, name in enumerate(
        ["z.png", "a.JPG", "sub/b.tif", "a.txt", ".hidden.png", ".part/c.png", "d.jpg/e.png"]
    ):
        save(source / "x.png").rename((source / name).parent.mkdir(parents=True, exist_ok=True) or source / name)
        os.utime(source / name, (number, number))
    (source / "gone.png").symlink_to(source / "nowhere.png")
    (source / "circle").symlink_to(source)
    names = []
    for recursive in (True, False):
        found = look(source, recursive=recursive)
        clock.now += 2
        found.poll()
        clock.now += 2
        names.append([os.path.relpath(one.path, source) for one in found.poll()])
        assert found.unreadable == []
    assert names == [["z.png", "a.JPG", "sub/b.tif", "d.jpg/e.png"], ["z.png", "a.JPG"]]


def test_the_output_may_lie_in_the_source_and_is_never_decided(predictor, source):
    save(source / "a.png")
    save(source / "out" / "pass" / "by hand.png", seed=1)
    (source / "link").symlink_to(source / "out" / "pass")
    (source / "link.png").symlink_to(source / "out" / "pass" / "by hand.png")
    for _ in range(2):
        watch(predictor, source, output=source / "out")
    assert [row["placed"] for row in rows(source / "out")] == ["pass/a.png"]


def test_files_that_are_known_are_neither_read_nor_looked_up_again(source, monkeypatch):
    asked: list[Arrival] = []
    for number in range(50):
        (source / f"{number}.png").write_bytes(b"x")
    found = look(source, lambda file: asked.append(file) or True)
    for _ in range(3):
        assert found.poll() == []
    assert len(asked) == 50
    (source / "7.png").write_bytes(b"xx")
    found.poll()
    assert [one.size for one in asked[50:]] == [2]


def test_a_file_that_cannot_be_decoded_gets_a_second_look(predictor, source, tmp_path, monkeypatch):
    whole = save(tmp_path / "whole.png").read_bytes()
    (source / "late.png").write_bytes(whole[:500])
    (source / "empty.png").touch()
    (source / "broken.png").write_text("no image")
    put_off = Arrivals.put_off

    def complete(self, file, **options):
        if file.path.endswith("late.png"):
            (source / "late.png").write_bytes(whole)
        put_off(self, file, **options)

    monkeypatch.setattr(Arrivals, "put_off", complete)
    watch(predictor, source, once=False, is_ending=until(lambda: len(rows(tmp_path / "out")) == 3))
    found = {Path(row["path"]).name: row for row in rows(tmp_path / "out")}
    assert found["late.png"]["decision"] == "pass"
    assert "the file is empty" in found["empty.png"]["error"]
    assert "not an image that Pillow knows" in found["broken.png"]["error"]
    assert placed(tmp_path / "out") == ["error/broken.png", "error/empty.png", "pass/late.png"]


def test_an_image_that_the_memory_does_not_hold_is_tried_again_and_no_error(predictor, source, tmp_path, monkeypatch):
    save(source / "a.png")
    read = predictor.read
    left = [3]

    def reading(file):
        left[0] -= 1
        if left[0] >= 0:
            raise MemoryError
        return read(file)

    monkeypatch.setattr(predictor, "read", reading)
    assert watch(predictor, source) == {}  # once: it is left for the next time
    watch(predictor, source, once=False, is_ending=until(lambda: len(rows(tmp_path / "out")) == 1))
    assert [row["decision"] for row in rows(tmp_path / "out")] == ["pass"]


def test_once_leaves_a_file_that_changes_all_the_time(predictor, source, tmp_path):
    save(source / "a.png")
    growing = source / "growing.png"
    growing.touch()

    def grow() -> bool:
        with growing.open("ab") as file:
            file.write(b"x")
        return False

    assert watch(predictor, source, is_ending=until(grow)) == {"pass": 1}


def test_files_that_vanish_or_may_not_be_read_stop_nothing(predictor, source, tmp_path, monkeypatch, caplog):
    for number, name in enumerate(["a.png", "gone.png", "secret.png", "z.png"]):
        save(source / name, seed=number)
    read, secret = watcher.read, [True]

    def reading(file: Arrival) -> bytes:
        if file.path.endswith("gone.png"):
            with suppress(FileNotFoundError):
                Path(file.path).unlink()
        if file.path.endswith("secret.png") and secret[0]:
            raise PermissionError(13, "Permission denied")
        return read(file)

    monkeypatch.setattr(watcher, "read", reading)
    calls = [0]

    def ending() -> bool:
        calls[0] += 1
        if calls[0] == 60:
            assert "secret.png (Permission denied)" in beat(tmp_path / "out")["troubles"][0]
            secret[0] = False
        return calls[0] > 60 and len(rows(tmp_path / "out")) == 3

    with caplog.at_level(logging.WARNING):
        watch(predictor, source, once=False, is_ending=until(ending))
    assert sorted(Path(row["path"]).name for row in rows(tmp_path / "out")) == ["a.png", "secret.png", "z.png"]
    assert len(caplog.messages) == 2  # once, and when it is over
    assert "1 path in the source cannot be read or removed, such as" in caplog.messages[0]
    assert "works again" in caplog.messages[1]


def test_a_share_that_disappears_is_awaited(predictor, source, tmp_path, caplog):
    save(source / "a.png")
    calls = [0]

    def ending() -> bool:
        calls[0] += 1
        if calls[0] == 30:
            source.rename(tmp_path / "away")
        if calls[0] == 60:
            save(tmp_path / "away" / "b.png", seed=1)
            assert "cannot be read" in beat(tmp_path / "out")["troubles"][0]
            (tmp_path / "away").rename(source)
        return len(rows(tmp_path / "out")) == 2

    with caplog.at_level(logging.WARNING):
        watch(predictor, source, once=False, is_ending=until(ending))
    assert len(caplog.messages) == 2
    assert f"source={source} cannot be read (No such file or directory); trying again" in caplog.messages[0]
    assert "works again" in caplog.messages[1]
    shutil.rmtree(source)
    with pytest.raises(UserError, match="is not a folder"):
        watch(predictor, source)


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("where", "name", "error"),
    [
        (Folders, "place", FULL),
        (Folders, "sync", FULL),
        (Ledger, "add", sqlite3.OperationalError("database or disk is full")),
        (DayTables, "append", FULL),
    ],
)
def test_a_full_disk_stops_deciding_until_there_is_room(  # noqa: PLR0917
    predictor, source, tmp_path, monkeypatch, caplog, where, name, error
):
    for seed in range(5):
        save(source / f"{seed}.png", seed=seed)
    original, failures = getattr(where, name), [3]

    def full(self, *arguments):
        if failures[0]:
            failures[0] -= 1
            raise error
        return original(self, *arguments)

    monkeypatch.setattr(where, name, full)
    with caplog.at_level(logging.WARNING):
        watch(predictor, source, once=False, is_ending=until(lambda: len(rows(tmp_path / "out")) == 5))
    assert len(caplog.messages) == 2
    assert f"output={tmp_path / 'out'} cannot be written" in caplog.messages[0]
    assert len(placed(tmp_path / "out")) == 5
    failures[0] = 1
    save(source / "6.png", seed=6)
    with pytest.raises(UserError, match="cannot be written"):  # whoever calls with once wants to know
        watch(predictor, source)
    assert beat(tmp_path / "out")["status"] == "failed"
    assert watch(predictor, source) in ({"pass": 1}, {})
    assert len(rows(tmp_path / "out")) == 6


@pytest.mark.parametrize("damage", ["cut", "lost", "edited"])
def test_the_table_says_what_the_ledger_says(predictor, source, tmp_path, damage):
    for seed in range(6):
        save(source / f"{seed}.png", seed=seed)
    watch(predictor, source)
    (table,) = (tmp_path / "out").glob("decisions_*.csv")
    content = table.read_bytes()
    if damage == "lost":
        table.unlink()
    else:
        table.write_bytes(content[:-30] if damage == "cut" else content.replace(b"pass", b"fail", 1))
    watch(predictor, source)
    assert table.read_bytes() == content


def test_a_row_that_was_written_in_half_is_written_again(predictor, source, tmp_path, monkeypatch):
    for seed in range(6):
        save(source / f"{seed}.png", seed=seed)
    failures = [2]

    def fsync(number: int) -> None:
        if failures[0]:
            failures[0] -= 1
            os.ftruncate(number, os.fstat(number).st_size - 30)
            raise FULL
        os.fsync(number)

    monkeypatch.setattr(ledger, "os", SimpleNamespace(fsync=fsync, fsencode=os.fsencode, fsdecode=os.fsdecode))
    watch(
        predictor,
        source,
        batch_size=2,
        once=False,
        is_ending=until(lambda: beat(tmp_path / "out").get("decided") == {"pass": 6}),
    )
    assert failures == [0]
    assert sorted(Path(row["path"]).name for row in rows(tmp_path / "out")) == [f"{seed}.png" for seed in range(6)]
    assert [len(row["model"]) for row in rows(tmp_path / "out")] == [12] * 6


def test_an_output_that_cannot_be_written_at_the_start_is_named(predictor, source, tmp_path, monkeypatch):
    def full(*_):
        raise FULL

    monkeypatch.setattr(watcher.Folders, "__init__", full)
    with pytest.raises(UserError, match=r"out cannot be written \(.*No space left"):
        watch(predictor, source)


def test_a_move_that_was_killed_before_the_file_left_the_source(predictor, source, tmp_path, monkeypatch):
    file = save(source / "a.png")
    content = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Station, "_release", lambda *_: os._exit)
        patch.setattr(Arrivals, "forget", lambda *_, **__: None)
        calls = iter(range(50))
        watch(predictor, source, transfer="move", once=False, is_ending=lambda: next(calls, 50) == 50)
    assert file.exists()
    assert watch(predictor, source, transfer="move") == {}
    assert not file.exists()
    assert (tmp_path / "out/pass/a.png").read_bytes() == content
    assert len(rows(tmp_path / "out")) == len(placed(tmp_path / "out")) == 1


def test_a_file_that_becomes_another_one_while_it_is_decided_is_not_removed(predictor, source, tmp_path, monkeypatch):
    save(source / "a.png")
    add = Ledger.add

    def adding(self, *arguments):
        add(self, *arguments)
        save(source / "a.png", RED, seed=1)
        monkeypatch.setattr(Ledger, "add", add)

    monkeypatch.setattr(Ledger, "add", adding)
    watch(predictor, source, transfer="move", once=False, is_ending=until(lambda: len(rows(tmp_path / "out")) == 2))
    assert placed(tmp_path / "out") == ["pass/a.png", "reject/a.png"]


@pytest.mark.skipif(os.name != "posix", reason="names of bytes")
def test_strange_names_are_kept(predictor, source, tmp_path):
    names = [b"\xff\xfe.png", b'a,\n"b\r.png', b"n" * 250 + b".png", "桔皮.png".encode()]
    for number, name in enumerate(names):
        save(source / "x.png", seed=number).rename(source / os.fsdecode(name))
    assert watch(predictor, source) == {"pass": 4}
    assert {os.fsencode(Path(row["path"]).name) for row in rows(tmp_path / "out")} == set(names)
    assert len(placed(tmp_path / "out")) == 4
    for row in rows(tmp_path / "out"):
        assert (tmp_path / "out" / row["placed"]).read_bytes() == Path(row["path"]).read_bytes()
    assert watch(predictor, source) == {}


def test_a_name_that_the_output_does_not_take_becomes_the_hash(tmp_path):
    name = "d" * 200 + "/" + "e" * 251 + ".png"
    folders = Folders(tmp_path)
    assert folders.place(b"1", "pass", name[-255:], "ab" * 32, 0) == f"pass/{name[-255:]}"
    assert (
        folders.place(b"2", "pass", name[-255:], "cd" * 32, 0) == f"pass/{'cd' * 32}.png"
    )  # with a part of it: too long
    (tmp_path / "pass" / "x").write_text("a file")
    assert folders.place(b"3", "pass", "x/a.png", "ef" * 32, 0) == f"pass/{'ef' * 32}.png"
    folders.sync()
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_without_a_class_of_good_pieces_there_is_a_folder_a_class(write_tiny, source, tmp_path):
    classes = ("good", "../dent", "a/b")
    predictor = Predictor.load(write_tiny(tmp_path / "t.onnx", normal=None, classes=classes))
    save(source / "r.png", RED)
    save(source / "b.png", GREEN)
    save(source / "g.png", GREY)
    assert watch(predictor, source) == {"accept": 2, "ask": 1}
    assert placed(tmp_path / "out") == ["accept/%2E.%2Fdent/r.png", "accept/good/b.png", "ask/g.png"]


def test_two_stations_on_one_output_are_refused(predictor, source, tmp_path):
    with (
        Station(predictor, str(source), str(tmp_path / "out")),
        pytest.raises(UserError, match="another process is watching with output="),
    ):
        Station(predictor, str(source), str(tmp_path / "out"))
    watch(predictor, source)  # the lock was given back


def test_another_network_continues_and_other_classes_are_refused(write_tiny, predictor, source, tmp_path):
    save(source / "a.png")
    watch(predictor, source)
    bundle = predictor.bundle
    changed = type(bundle).from_dict(bundle.as_dict() | {"ask_below": 0.6})
    save(source / "b.png", seed=1)
    watch(Predictor(changed, predictor._network, predictor.source), source)
    assert len({row["model"] for row in rows(tmp_path / "out")}) == 2
    other = Predictor.load(write_tiny(tmp_path / "t.onnx", classes=("normal", "dent", "pit")))
    with pytest.raises(UserError, match="has decisions on the classes normal, dent, scratch"):
        watch(other, source)


def test_a_ledger_that_is_none_is_named(predictor, source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ledger.sqlite").write_text("no database, but long enough to look like one" * 50)
    with pytest.raises(UserError, match=r"ledger\.sqlite cannot be read"):
        watch(predictor, source)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """Takes rows, but not the first one that comes."""
    monkeypatch.setattr(webhook, "PAUSES", (0.01, 0.01))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.asked += 1
            self.send_response(500 if server.asked <= server.refused else 200)
            if server.asked > server.refused:
                server.rows.append(json.loads(body))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.refused, server.rows = 0, 1, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_webhook_gets_each_row(predictor, source, tmp_path, receiver):
    for seed in range(5):
        save(source / f"{seed}.png", seed=seed)
    watch(predictor, source, webhook=f"http://127.0.0.1:{receiver.server_port}/x?secret=1")
    assert [row["sha256"] for row in receiver.rows] == [row["sha256"] for row in rows(tmp_path / "out")]
    assert receiver.asked == 6
    assert receiver.rows[0]["decision"] == "pass"


def test_a_webhook_that_fails_stops_nothing(predictor, source, receiver, caplog, monkeypatch):
    monkeypatch.setattr(webhook, "LONGEST_QUEUE", 2)
    receiver.refused = 1000
    for seed in range(20):
        save(source / f"{seed}.png", seed=seed)
    with caplog.at_level(logging.WARNING):
        counts = watch(predictor, source, webhook=f"http://127.0.0.1:{receiver.server_port}/secret")
    assert counts == {"pass": 20}
    assert len([text for text in caplog.messages if "does not take rows" in text]) == 1
    assert not [text for text in caplog.messages if "secret" in text]


def test_the_heartbeat_says_how_it_is_doing(predictor, source, tmp_path):
    save(source / "a.png")
    out, seen = tmp_path / "out", set()

    def ending() -> bool:
        seen.add(beat(out).get("status"))
        return len(rows(out)) == 1

    watch(predictor, source, once=False, is_ending=until(ending))
    assert seen == {None, "running"}
    last = beat(tmp_path / "out")
    assert last["status"] == "ended"
    assert last["decided"] == last["decided_in_all"] == {"pass": 1}
    assert (last["queue"], last["troubles"], last["last_error"]) == (0, [], None)
    assert last["model"]["id"] == rows(tmp_path / "out")[0]["model"]
    assert last["drift"]["reference"] == "1 of 500 images of the reference"


def start(network: Path, source: Path, output: Path, *words: str) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        "-m",
        "alu_defects.watch",
        f"run={network}",
        f"source={source}",
        f"output={output}",
        *words,
    ]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(network, source, tmp_path, number):
    save(source / "a.png")
    process = start(network, source, tmp_path / "out", "settle=0", "poll=0.05")
    end = time.monotonic() + 30
    while not rows(tmp_path / "out"):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert output.endswith("1 image: 1 pass\n")
    assert beat(tmp_path / "out")["status"] == "ended"


def test_the_command_needs_neither_torch_nor_pandas(network, source, tmp_path):
    save(source / "a.png")
    words = ["watch", f"run={network}", f"source={source}", f"output={tmp_path / 'out'}", "once=true", "settle=0"]
    script = (
        "import runpy, sys\n"
        f"sys.argv = {words}\n"
        "runpy.run_module('alu_defects.watch', run_name='__main__')\n"
        "print(sorted({'torch', 'lightning', 'pandas', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["1 image: 1 pass", "[]"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["source=nowhere"], "is not a folder"),
        (["output=no/such/folder"], "cannot be made (No such file or directory)"),
        (["output=."], "lies in output="),
        (["transfer=mve"], "transfer=mve does not exist; did you mean move?"),
        (["poll=0"], "poll=0 must be"),
        (["settle=-1"], "settle=-1 must be"),
        (["reference_images=10"], "reference_images=10 must be 250 or more"),
        (["reference=nowhere.json"], "reference=nowhere.json cannot be read"),
        (["webhook=ftp://x"], "webhook=ftp://x is no address"),
        (["run=nowhere.onnx"], "run=nowhere.onnx is not there"),
    ],
)
def test_wrong_settings_are_named(typed, network, source, words, message):
    done = typed("watch", f"run={network}", f"source={source}", "output=out", "once=true", *words, cwd=source.parent)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_hours_are_compared_while_many_files_wait(predictor, source, tmp_path, monkeypatch):
    """A station that was off for a night decides for hours before it looks at the source again."""
    for seed in range(12):
        save(source / f"{seed}.png", seed=seed)
    compared = []
    monkeypatch.setattr(watcher.Drift, "close_hour", lambda self: compared.append(len(self._images_now)))
    watch(predictor, source, batch_size=4)
    assert {4, 8, 12} <= set(compared)
