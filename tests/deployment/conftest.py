"""Small networks of a few lines, and a server of one in a thread."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from alu_defects.deployment import server
from alu_defects.deployment.bundle import Bundle, Cells, Outputs
from alu_defects.deployment.labels import Labels
from alu_defects.deployment.model_slot import ModelSlot
from alu_defects.deployment.onnx_network import METADATA_KEY
from alu_defects.deployment.predictor import Predictor
from alu_defects.evaluation.calibration import Calibration

CLASSES = ["normal", "pit", "scuffed"]
MAPS = np.array([[[-1, 2], [0, 1]], [[4, 1], [0, -2]], [[0, 0], [0, 3]]], np.float32)


def _make_predictor(name: str = "first.onnx", brightness: float = 1.0) -> Predictor:
    """Says normal of dark images and pit of bright ones; it decides otherwise with another brightness."""

    def compute(images: np.ndarray, with_maps: bool) -> Outputs:
        pit = brightness * images.mean(axis=(1, 2, 3)) / 255 * 0.9
        probabilities = np.stack([0.9 - pit, pit, np.full(len(pit), 0.1)], axis=1)
        return Outputs(probabilities, np.repeat(MAPS[None], len(pit), axis=0) if with_maps else None)

    bundle = Bundle(
        classes=CLASSES,
        titles=["无瑕疵样本", "起坑", "擦花"],
        image_size=(8, 8),
        resize="squash",
        bits=8,
        mean=[0.5],
        std=[0.5],
        calibration=Calibration(1.0, 10),
        tta=[],
        normal="normal",
        threshold={"score": 0.4},
        ask_below=0.6,
        about={"model": "tiny", "run": "a_run"},
        temperature_inside=1.0,
        cells=Cells(1.5, 1.5, 4, 4),
    )
    return Predictor(bundle, compute, Path(name), max_pixels=1_000_000)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks one server; each request has a connection of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def begin(self, length: int, sent: bytes) -> socket.socket:
        """A connection on which an upload has begun."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(
            f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n".encode() + sent
        )
        return connection


@contextlib.contextmanager
def _running(slot: ModelSlot | Predictor, labels: Labels | None = None, **options: Any) -> Iterator[Client]:
    """A server in a thread, and a client of it."""
    own = slot if isinstance(slot, ModelSlot) else ModelSlot(lambda: slot)
    with server.listen("127.0.0.1", 0) as listening:
        made = server.create_server(server.Service(own, labels, **options).app())
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Client(listening.getsockname()[1])
        finally:
            made.should_exit = True
            thread.join(timeout=20)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def make_predictor() -> Callable[..., Predictor]:
    """Make the small network: `make_predictor(name, brightness)`."""
    return _make_predictor


@pytest.fixture(scope="session")
def running() -> Callable[..., contextlib.AbstractContextManager[Client]]:
    """Serve a predictor or a slot: `with running(predictor, labels, queue=3) as client`."""
    return _running


@pytest.fixture(scope="session")
def client_of() -> type[Client]:
    """Ask a server that runs already: `client_of(port)`."""
    return Client


@pytest.fixture(scope="session")
def write_tiny() -> Callable[..., Path]:
    """Write a network that calls red images dented and green ones normal, as .onnx.

    Of 32 pixels; it rejects from 50 % on, and asks below a confidence of 50 %.
    """
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return _write_tiny


def _write_tiny(
    path: Path, *, normal: str | None = "normal", classes: tuple[str, ...] = ("normal", "dent", "scratch")
) -> Path:
    from onnx import TensorProto, checker, helper, numpy_helper, save

    weights = np.array([[-0.1, 0.1, 0.0], [0.1, -0.1, 0.0], [0, 0, 0]], np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 32, 32, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("colour", TensorProto.FLOAT, ["batch", 3]),  # the features
        ],
        [numpy_helper.from_array(np.array([1, 2]), "axes"), numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    bundle = Bundle(
        classes=list(classes),
        titles=list(classes),
        image_size=(32, 32),
        resize="squash",
        bits=8,
        mean=[0.0] * 3,
        std=[1.0] * 3,
        calibration=Calibration(1.0, 100),
        tta=[],
        normal=normal,
        threshold={"score": 0.5} if normal else None,
        ask_below=0.5,
        about={"model": "tiny"},
        temperature_inside=1.0,
    )
    helper.set_model_props(model, {METADATA_KEY: bundle.as_json()})
    checker.check_model(model)
    save(model, str(path))
    return path
