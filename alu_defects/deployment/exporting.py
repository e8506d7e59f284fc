"""A trained classifier → files for other runtimes. Each is compared with the classifier before it is written."""

import contextlib
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alu_defects.deployment import onnx_network, openvino_network
from alu_defects.deployment.bundle import Bundle
from alu_defects.deployment.graph import INPUT, OUTPUTS, DecidingNetwork
from alu_defects.deployment.parity import MAX_DIFFERENCE, Parity
from alu_defects.deployment.predictor import Predictor
from alu_defects.errors import UserError
from alu_defects.evaluation.calibration import Floats
from alu_defects.io import write_json

FORMATS = ("onnx", "openvino")
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
_EXAMPLES = 2  # images; of one the size of the batch would be fixed


def export(
    predictor: Predictor,
    network: DecidingNetwork,
    formats: Sequence[str],
    images: Sequence[tuple[str, str]],
    output: Path,
    *,
    batch_size: int = 16,
) -> dict[str, Parity]:
    """Write model_fp32.onnx and model_fp32.xml with .bin, and beside each the bundle as .json.

    Args:
        predictor: decides by `network`: the reference.
        network: the trained one.
        formats: of `FORMATS`.
        images: path and label of those that the files are compared on.
        output: the folder of the files.
        batch_size: images that a network sees at once.

    Returns:
        How each file compares with the reference; by its name.

    Raises:
        UserError: a format whose package is not installed, an image that cannot be read, or a file that decides
            otherwise: it is not written.
    """
    paths, labels = [path for path, _ in images], [label for _, label in images]
    reference = _probabilities(predictor, paths, batch_size)
    found = {}
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".unfinished-") as folder:
        onnx = Path(folder, f"model_fp32{SUFFIXES['onnx']}")
        onnx.write_bytes(to_onnx(network, predictor.bundle))
        for form in formats:
            made = onnx if form == "onnx" else to_openvino(onnx, predictor.bundle)
            exported = _probabilities(Predictor.load(made), paths, batch_size)
            parity = Parity.measure(predictor.bundle, paths, labels, reference=reference, exported=exported)
            parity.check(made.name, max_difference=MAX_DIFFERENCE, min_agreement=1.0, max_drop=0.0)
            found[made.name] = parity
            beside = made.with_name(f"{made.name}.json")
            write_json(beside, predictor.bundle.as_dict() | {"parity": asdict(parity)})
            for file in (made.with_suffix(".bin"), beside, made):  # a network that is there is whole
                if file.exists():
                    shutil.copyfile(file, copy := Path(folder, "copy"))  # the next format may be made of it
                    copy.replace(output / file.name)
    return found


def to_onnx(network: DecidingNetwork, bundle: Bundle) -> bytes:
    """The network as ONNX with any number of images, and the bundle in its metadata."""
    _needs("onnx", "onnxscript", "onnxruntime")
    example = torch.zeros(_EXAMPLES, *bundle.image_size, 3, dtype=torch.uint8)
    names = OUTPUTS[: 2 if network.map_weights is None else 3]
    for name in ("onnxscript", "onnx_ir"):  # which tell of each constant
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of what the exporter itself is built on
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            input_names=[INPUT],
            output_names=names,
            verbose=False,
        )
    assert program is not None
    model: Any = program.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = onnx_network.METADATA_KEY, json.dumps(bundle.as_dict(), ensure_ascii=False)
    return bytes(model.SerializeToString())


def to_openvino(onnx: Path, bundle: Bundle) -> Path:
    """The .xml (and .bin) that OpenVINO makes of an .onnx file, beside it, with the bundle in its rt_info."""
    _needs("openvino")
    import openvino

    model = openvino.Core().read_model(str(onnx))  # convert_model would send telemetry
    model.set_rt_info(json.dumps(bundle.as_dict(), ensure_ascii=False), [openvino_network.METADATA_KEY])
    for key, value in model_api_entries(bundle).items():
        model.set_rt_info(value, ["model_info", key])
    path = onnx.with_suffix(".xml")
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return path


def model_api_entries(bundle: Bundle) -> dict[str, str]:
    """What OpenVINO's model_api reads of a classifier; preprocessing and softmax are in the file already."""
    return {
        "model_type": "Classification",
        "labels": " ".join(name.replace(" ", "_") for name in bundle.classes),
        "multilabel": "False",
        "output_raw_scores": "True",
        "resize_type": {"squash": "standard", "letterbox": "fit_to_window_letterbox"}[bundle.resize],
        "confidence_threshold": f"{bundle.ask_below:g}",
    }


def _probabilities(predictor: Predictor, paths: Sequence[str], batch_size: int) -> Floats:
    rows = []
    for one in predictor.predict(paths, batch_size=batch_size):
        if one.decision is None:
            raise UserError(f"{one.path} cannot be read ({one.error}); the export is compared on it: restore it")
        rows.append(list(one.decision.probabilities.values()))
    return np.array(rows)


def _needs(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(f"this export needs {' and '.join(missing)}: pip install {' '.join(missing)}")
