"""A network that decides in no time: the redder an image and the less green, the more probably it is dented."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alu_defects.deployment.bundle import Bundle
from alu_defects.deployment.onnx_network import METADATA_KEY
from alu_defects.evaluation.calibration import Calibration

CLASSES = ("normal", "dent", "scratch")


@pytest.fixture(scope="session")
def write_tiny() -> Callable[..., Path]:
    """Write it as .onnx: 32 pixels, reject from 50 % on, ask below a confidence of 50 %."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return _write


def _write(path: Path, *, normal: str | None = "normal", classes: tuple[str, ...] = CLASSES) -> Path:
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
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
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
