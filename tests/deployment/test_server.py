"""`alu_defects.serve`: the same decisions as predict over HTTP, whatever clients send, and however many."""

import contextlib
import http.client
import io
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from alu_defects.deployment import access, heat, server
from alu_defects.deployment.labels import Labels
from alu_defects.deployment.model_slot import ModelSlot
from alu_defects.deployment.predictor import Predictor
from alu_defects.deployment.table import as_row
from alu_defects.errors import UserError

CLASSES = ["normal", "pit", "scuffed"]


def png(grey: int = 200, size: tuple[int, int] = (20, 10), form: str = "PNG") -> bytes:
    Image.new("RGB", size, (grey, grey, grey)).save(content := io.BytesIO(), form)
    return content.getvalue()


@pytest.fixture(scope="module")
def client(running, make_predictor) -> Iterator[Any]:
    with running(make_predictor(), max_bytes=20_000) as client:
        yield client


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
def test_an_answer_is_a_line_of_predict(make_predictor, client, form, tmp_path):
    file = tmp_path / "桔皮 1.png"
    file.write_bytes(png(form=form))
    answer = client("POST", "/predict?path=" + "%E6%A1%94%E7%9A%AE%201.png", file.read_bytes())
    (expected,) = make_predictor().predict([file])
    assert answer.status == 200
    assert answer.json == as_row(expected) | {"path": "桔皮 1.png"}
    assert answer.json["decision"] == "reject"


def test_the_map_is_that_of_the_class_that_was_decided(running, make_predictor, client):
    predictor = make_predictor()
    for grey, own in ((255, 1), (0, 0)):
        answer = client("POST", "/predict?map=true", png(grey)).json
        assert answer["label"] == CLASSES[own]
        np.testing.assert_allclose(
            answer["map"], heat.strength(predictor.outputs(np.zeros((1, 8, 8, 3), np.uint8)).maps[0, own]), atol=1e-3
        )
    network = predictor._network
    predictor._network = lambda images, with_maps: network(images, with_maps)._replace(maps=None)
    with running(predictor) as other:
        assert other("POST", "/predict?map=true", png()).json["map"] is None


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "there is no image"),
        (b"no image", 415, "no JPEG, PNG, TIFF, BMP or WebP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", 415, "no JPEG"),  # Pillow would start Ghostscript
        (b"\0\0\0\x18ftypheic" + bytes(20), 415, "no JPEG"),
        (png()[:45], 422, "path=x"),
        (b"\xff\xd8\xff" + bytes(100), 422, "UnidentifiedImageError: not an image that Pillow knows"),
        (png(size=(1001, 1000)), 422, "more than"),
        (bytes(20_001), 413, "20000 bytes (max_bytes)"),
        (iter([bytes(15_000)] * 2), 413, "20000 bytes"),  # in chunks: how many is not said
    ],
)
def test_what_is_no_image_is_refused_and_named(client, content, status, message):
    answer = client("POST", "/predict?path=x", content)
    assert answer.status == status
    assert answer.json["status"] == "error"
    if message == "path=x":
        assert answer.json["path"] == "x"
    else:
        assert message in answer.json["error"]
    assert client("POST", "/predict", png()).status == 200


def test_a_compressed_bomb_is_refused_by_its_header(running, make_predictor):
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in parts
    ]
    before = psutil.Process().memory_info().rss
    with running(make_predictor()) as client:
        assert "900000000 pixels" in client("POST", "/predict", b"".join([png()[:8], *chunks])).json["error"]
    assert psutil.Process().memory_info().rss - before < 50e6


def test_beyond_the_queue_clients_are_told_to_try_again(running, make_predictor):
    with running(make_predictor(), queue=3) as client, contextlib.ExitStack() as stack:
        begun = [stack.enter_context(client.begin(len(png()), png()[:20])) for _ in range(3)]
        deadline = time.monotonic() + 10
        while (refused := client("POST", "/predict", png())).status != 503:  # the server may not have read all three
            assert time.monotonic() < deadline
        assert refused.headers["retry-after"] == "1"
        assert "3 images are in progress" in refused.json["error"]
        assert client("POST", "/predict", bytes(5_000_000)).status == 503  # the answer arrives all the same
        assert client("GET", "/health").status == 200
        for connection in begun:
            connection.sendall(png()[20:])
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert client("POST", "/predict", png()).status == 200


def test_slow_clients_are_cut_off_and_others_served_meanwhile(running, make_predictor):
    with running(make_predictor(), queue=3, timeout=1) as client:
        slow = [client.begin(1000, png()[:20]) for _ in range(2)]
        assert client("POST", "/predict", png()).status == 200
        for connection in slow:
            with contextlib.closing(connection):
                answer = connection.makefile("rb").read()  # until it is closed
                assert answer.startswith(b"HTTP/1.1 408")
                assert b"more than 1 s (timeout)" in answer
        assert client("POST", "/predict", png()).status == 200


def test_a_connection_without_a_whole_request_is_closed(running, make_predictor, monkeypatch):
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    with running(make_predictor()) as client:
        for sent in (b"", b"GET /health HTTP/1.1\r\nHost: ", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET "):
            with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
                connection.sendall(sent)
                begun = time.monotonic()
                answer = connection.makefile("rb").read()
                assert time.monotonic() - begun < 3
                assert bool(answer) == sent.endswith(b"GET ")


def test_clients_that_go_away_leave_their_place(running, make_predictor, caplog):
    with running(make_predictor(), queue=1) as client:
        client.begin(1000, b"half").close()
        deadline = time.monotonic() + 10
        while client("POST", "/predict", png()).status != 200:
            assert time.monotonic() < deadline
    assert "Traceback" not in caplog.text
    assert not caplog.records


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 403),  # DNS rebinding: its name leads to this machine
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "[evil"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://localhost:3000"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[evil"}, 403),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/label?label=pit", "/model"])
def test_other_websites_can_do_nothing(running, make_predictor, tmp_path, *, headers, status, path):
    with running(make_predictor(), Labels(tmp_path)) as client:
        assert client("POST", path, png(), headers).status == status
        assert client("GET", "/model", None, {"Host": "evil.example"}).status == 403
    assert (tmp_path / "labels.csv").exists() == (status == 200 and "label" in path)


def test_a_token_is_needed_for_all_but_the_page(running, make_predictor, tmp_path):
    token = "correct horse".replace(" ", "-") + "-battery"
    with running(make_predictor(), Labels(tmp_path), token=token) as client:
        for method, path in (("GET", "/model"), ("POST", "/model"), ("POST", "/predict"), ("POST", "/label?label=pit")):
            for wrong in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {token}"}):
                refused = client(method, path, png(), wrong)
                assert refused.status == 401
                assert refused.headers["www-authenticate"] == "Bearer"
            assert client(method, path, png(), {"Authorization": f"Bearer {token}"}).status == 200
        assert client("GET", "/x/../model").status == 401
        assert client("GET", "/", None, {"Host": "plant.example"}).status == 200
        assert client("GET", "/page.js").status == client("GET", "/health").status == 200


@pytest.mark.parametrize(
    ("host", "token", "message"),
    [
        ("127.0.0.1", None, ""),
        ("127.1.2.3", None, ""),
        ("::1", None, ""),
        ("localhost", None, ""),
        ("0.0.0.0", "x" * 16, ""),
        ("0.0.0.0", None, "can be reached by others"),
        ("::", None, "can be reached by others"),
        ("plant.example", None, "can be reached by others"),
        ("127.0.0.1", "short", "16 letters"),
        ("0.0.0.0", "口" * 16, "16 letters"),
        ("0.0.0.0", "with a blank in the middle", "16 letters"),
    ],
)
def test_a_host_that_others_reach_needs_a_token(host, token, message):
    if not message:
        access.check_access(host, token)
        return
    with pytest.raises(UserError, match=message):
        access.check_access(host, token)


def test_the_page_takes_nothing_from_elsewhere_and_allows_nothing_else(client):
    page = client("GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    for answer in (page, client("GET", "/model"), client("POST", "/predict", b"x"), client("GET", "/nothing")):
        assert answer.headers["content-security-policy"] == policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
    for file in access.PAGE.iterdir():
        assert client("GET", f"/{file.name}").body == file.read_bytes()
        addresses = re.findall(r"\w+://[^\s\"']+", file.read_text(encoding="utf-8"))
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, file
    text = page.body.decode()
    assert " style=" not in text
    assert " onclick=" not in text
    assert client("GET", "/../access.py").status == 404
    assert client("GET", "/..%2faccess.py").status == 404


def test_the_page_says_the_same_in_both_languages():
    text = (access.PAGE / "texts.js").read_text(encoding="utf-8")
    english, chinese = (dict(re.findall(r'(\w+): "([^"]*)"', part)) for part in text.partition("  zh: {")[::2])
    assert english.keys() == chinese.keys()
    for key in english:
        assert set(re.findall(r"{\w+}", english[key])) == set(re.findall(r"{\w+}", chinese[key])), key
    used = (access.PAGE / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'data-text="(\w+)"', used)) <= english.keys()


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_first_part(client):
    seconds = []
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)) as connection:
        for _ in range(20):
            begun = time.perf_counter()
            connection.request("POST", "/predict", png())
            connection.getresponse().read()
            seconds.append(time.perf_counter() - begun)
    assert min(seconds[5:]) < 0.03  # Linux acknowledges after 0.04 s


def test_another_network_is_loaded_without_losing_a_request(running, make_predictor):
    networks = {"first.onnx": 1.0, "second.onnx": 0.1}
    loads = iter(["first.onnx", *["second.onnx", "first.onnx"] * 10])
    decided = {name: make_predictor(name, b).predict([io.BytesIO(png())]) for name, b in networks.items()}
    expected = [as_row(next(one)) for one in decided.values()]

    def load() -> Predictor:
        name = next(loads)
        return make_predictor(name, networks[name])

    stop = threading.Event()
    with running(ModelSlot(load), queue=64) as client, ThreadPoolExecutor(4) as pool:

        def ask() -> list[Any]:
            answers = []
            while not stop.is_set():
                answers.append(client("POST", "/predict", png()))
            return answers

        asking = [pool.submit(ask) for _ in range(4)]
        for number in range(20):
            name = ("second.onnx", "first.onnx")[number % 2]
            assert client("POST", "/model").json["file"] == client("GET", "/model").json["file"] == name
        stop.set()
        answers = [answer for one in asking for answer in one.result()]
    assert {answer.status for answer in answers} == {200}
    assert all(answer.json in expected for answer in answers)
    assert {answer.json["label"] for answer in answers} == {"pit", "normal"}


@pytest.mark.parametrize("wrong", ["user error", "crash", "NaN"])
def test_a_network_that_cannot_be_loaded_leaves_the_previous_one(running, make_predictor, wrong):
    loaded = []

    def load() -> Predictor:
        loaded.append(1)
        if len(loaded) == 1:
            return make_predictor()
        if wrong == "user error":
            raise UserError("run=x cannot be read as ONNX (it is cut)")
        if wrong == "crash":
            raise MemoryError
        return make_predictor("second.onnx", brightness=np.nan)

    with running(ModelSlot(load)) as client:
        answer = client("POST", "/model")
        assert answer.status == 409
        assert "the network stays first.onnx: " in answer.json["error"]
        assert {"user error": "it is cut", "crash": "MemoryError", "NaN": "no numbers"}[wrong] in answer.json["error"]
        assert client("GET", "/model").json["file"] == "first.onnx"
        assert client("POST", "/predict", png()).json["label"] == "pit"


def test_a_label_is_kept_and_one_that_does_not_exist_is_named(running, make_predictor, tmp_path):
    with running(make_predictor(), Labels(tmp_path)) as client:
        assert client("GET", "/model").json["takes_labels"]
        row = client("POST", "/label?label=scuffed", png(form="JPEG")).json
        assert (tmp_path / row["path"]).read_bytes() == png(form="JPEG")
        assert row["path"].endswith(".jpg")
        wrong = client("POST", "/label?label=scufed", png())
        assert wrong.status == 422
        assert "did you mean scuffed?" in wrong.json["error"]
        assert client("POST", "/label?label=pit", png()[:45]).status == 422
        assert client("POST", "/label?label=pit", b"x").status == 415
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 2
    assert len(list((tmp_path / "images").iterdir())) == 1
    with running(make_predictor()) as client:
        assert client("POST", "/label?label=pit", png()).status == 403
        assert not client("GET", "/model").json["takes_labels"]


def test_a_full_disk_is_said(running, make_predictor, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    labels = Labels(tmp_path)
    monkeypatch.setattr(labels, "_write", full)
    with running(make_predictor(), labels) as client:
        answer = client("POST", "/label?label=pit", png())
        assert answer.status == 500
        assert "No space left on device" in answer.json["error"]


@pytest.fixture
def served(client_of, finished_run: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """The command on a link to a run."""
    (tmp_path / "current").symlink_to(finished_run)
    words = [sys.executable, "-m", "alu_defects.serve", f"run={tmp_path / 'current'}", "port=0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            yield process, client_of(int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1]))
        finally:
            process.kill()


def wait_until_nobody_new_is_served(client: Any) -> None:
    deadline = time.monotonic() + 20
    with contextlib.suppress(OSError, http.client.HTTPException):
        while time.monotonic() < deadline:
            client("GET", "/health")
        pytest.fail("it still serves")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_the_command_reloads_on_sighup_and_answers_before_it_ends(served, sweep, photographs, tmp_path):
    process, client = served
    before = client("GET", "/model").json
    other = max(path.parent for path in sweep.glob("*/run.json"))
    link = tmp_path / "link"
    link.symlink_to(other)
    link.replace(tmp_path / "current")
    process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 20
    while (after := client("GET", "/model").json)["about"]["run"] == before["about"]["run"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert after["about"]["run"] == other.name
    content = next(photographs.rglob("*.png")).read_bytes()
    with contextlib.closing(client.begin(len(content), content[:100])) as begun:
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        wait_until_nobody_new_is_served(client)
        begun.sendall(content[100:])
        answer = begun.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert process.wait(timeout=20) == 143
    assert "interrupted by SIGTERM" in (errors := process.stderr.read())
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run=nowhere"], "run=nowhere is not there"),
        (["host=0.0.0.0"], "host=0.0.0.0 can be reached by others"),
        (["token=123"], "16 letters"),
        (["host=no.such.host.invalid", "token=0123456789abcdef"], "host=no.such.host.invalid port=0 cannot be used"),
        (["port=70000"], "port=70000 must be"),
        (["queue=0"], "queue=0 must be"),
        (["timeout=0"], "timeout=0 must be"),
    ],
)
def test_wrong_settings_are_named(finished_run, typed, words, message):
    done = typed("serve", f"run={finished_run}", "port=0", *words)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_port_in_use_is_named(finished_run, typed):
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = typed("serve", f"run={finished_run}", f"port={other.getsockname()[1]}")
    assert done.returncode == 2
    assert "Address already in use" in done.stderr


@pytest.mark.soak
def test_memory_stays_the_same_over_10000_requests(running, make_predictor):
    content = png(size=(640, 480), form="JPEG")
    process = psutil.Process()
    with running(make_predictor(), queue=16) as client, ThreadPoolExecutor(4) as pool:

        def ask(number: int) -> None:
            assert {client("POST", "/predict?map=true", content).status for _ in range(number)} == {200}

        memory = []
        for _ in range(10):
            list(pool.map(ask, [250] * 4))
            memory.append(process.memory_info().rss)
    assert max(memory[1:]) - memory[1] < 5e6
