"""A trained classifier → files for other runtimes. Each is compared with the classifier before it is written."""

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alu_defects.data import decode
from alu_defects.deployment import onnx_network, openvino_network
from alu_defects.deployment.bundle import Bundle
from alu_defects.deployment.graph import INPUT, OUTPUTS, DecidingNetwork
from alu_defects.deployment.parity import MAX_DIFFERENCE, Parity
from alu_defects.deployment.predictor import Predictor
from alu_defects.errors import UserError
from alu_defects.evaluation.calibration import Floats
from alu_defects.io import atomic_write, exclusive_lock, write_json

FORMATS = ("onnx", "openvino")
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
_EXAMPLES = 2  # images; of one the size of the batch would be fixed
_UNFINISHED = ".unfinished-"  # of folders


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
        UserError: a format whose package is not installed, an image that cannot be read, a network that the format
            cannot hold, no room, or a file that decides otherwise: it is not written.
    """
    _check_packages(formats)
    paths, labels = [path for path, _ in images], [label for _, label in images]
    found = {}
    with _disk_errors(output), _unfinished_folder(output) as folder:
        reference = _probabilities(predictor, paths, batch_size)
        onnx = folder / f"model_fp32{SUFFIXES['onnx']}"
        onnx.write_bytes(to_onnx(network, predictor.bundle))
        for form in formats:
            made = onnx if form == "onnx" else to_openvino(onnx, predictor.bundle)
            exported = _probabilities(Predictor.load(made, max_pixels=predictor.max_pixels), paths, batch_size)
            parity = Parity.measure(predictor.bundle, paths, labels, reference=reference, exported=exported)
            parity.check(made.name, max_difference=MAX_DIFFERENCE, min_agreement=1.0, max_drop=0.0)
            found[made.name] = parity
            write_json(_beside(made), predictor.bundle.as_dict() | {"parity": asdict(parity)})
            _publish(made, output)
    return found


@contextmanager
def _unfinished_folder(output: Path) -> Iterator[Path]:
    """An empty folder in the output, which is removed in the end; and so are those that killed exports left."""
    output.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(output / ".export", f"exporting to {output}"):
        for left in output.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        try:
            with tempfile.TemporaryDirectory(dir=output, prefix=_UNFINISHED, ignore_cleanup_errors=True) as folder:
                yield Path(folder)
        finally:
            with suppress(PermissionError):  # of Windows: it is in use
                (output / ".export.lock").unlink(missing_ok=True)


@contextmanager
def _disk_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"output={output} cannot be written ({error.strerror}); make room or rights, or give another output"
        ) from error


def _beside(made: Path) -> Path:
    return made.with_name(f"{made.name}.json")


def _publish(made: Path, output: Path) -> None:
    """Copy a network with what belongs to it, the network last: one that is there is whole."""
    files = [_beside(made), made]
    if made.suffix == SUFFIXES["openvino"]:
        files.insert(0, made.with_suffix(".bin"))
        (output / made.name).unlink(missing_ok=True)  # the one that is replaced would compute with the new .bin
    for file in files:
        with file.open("rb") as content, atomic_write(output / file.name) as copy:
            shutil.copyfileobj(content, copy)  # not moved: the next format may be made of it


def to_onnx(network: DecidingNetwork, bundle: Bundle) -> bytes:
    """The network as ONNX with any number of images, and the bundle in its metadata."""
    example = torch.zeros(_EXAMPLES, *bundle.image_size, 3, dtype=torch.uint8)
    names = OUTPUTS[: 2 if network.map_weights is None else 3]
    for name in ("onnxscript", "onnx_ir"):  # which tell of each constant
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of what the exporter itself is built on
        with _conversion_errors(bundle, "ONNX"):
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
            entry.key, entry.value = onnx_network.METADATA_KEY, bundle.as_json()
            return bytes(model.SerializeToString())


@contextmanager
def _conversion_errors(bundle: Bundle, form: str) -> Iterator[None]:
    """A `UserError` of whatever an exporter raises: not every network can be exported."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"model.name={bundle.about.get('model')} cannot be written as {form} ({type(error).__name__}: {reason}); "
            "give another format, or train another network for it"
        ) from error


def to_openvino(onnx: Path, bundle: Bundle) -> Path:
    """The .xml (and .bin) that OpenVINO makes of an .onnx file, beside it, with the bundle in its rt_info."""
    openvino = openvino_network.import_openvino()
    path = onnx.with_suffix(".xml")
    with _conversion_errors(bundle, "OpenVINO"):
        model = openvino.Core().read_model(str(onnx))
        model.set_rt_info(bundle.as_json(), [openvino_network.METADATA_KEY])
        for key, value in model_api_entries(bundle).items():
            model.set_rt_info(value, ["model_info", key])
        openvino.save_model(model, str(path), compress_to_fp16=False)
        # which .bin belongs to it is known only now; saved again, that is the same
        model.set_rt_info(openvino_network.weights_digest(path), [openvino_network.WEIGHTS_KEY])
        openvino.save_model(model, str(path), compress_to_fp16=False)
    return path


def model_api_entries(bundle: Bundle) -> dict[str, str]:
    """What OpenVINO's model_api reads of a classifier; preprocessing and softmax are in the file already."""
    labels = " ".join(name.replace(" ", "_") for name in bundle.classes)
    padding = {"pad_value": str(decode.LETTERBOX_GREY[0])} if bundle.resize == "letterbox" else {}
    return padding | {
        "model_type": "Classification",
        "labels": labels.encode("utf-8", "backslashreplace").decode(),
        "multilabel": "False",
        "output_raw_scores": "True",
        "resize_type": {"squash": "standard", "letterbox": "fit_to_window_letterbox"}[bundle.resize],
        "confidence_threshold": f"{bundle.ask_below:g}",
    }


def _probabilities(predictor: Predictor, paths: Sequence[str], batch_size: int) -> Floats:
    rows = []
    alone = predictor.predict(paths[:1], batch_size=1)  # a graph may be right for several images only
    for one in chain(alone, predictor.predict(paths[1:], batch_size=batch_size)):
        if one.decision is None:
            raise UserError(f"{one.path} cannot be read ({one.error}); the export is compared on it: restore it")
        rows.append(list(one.decision.probabilities.values()))
    return np.array(rows)


def _check_packages(formats: Sequence[str]) -> None:
    needed = dict.fromkeys(name for form in ("onnx", *formats) for name in PACKAGES[form])  # all are made of ONNX
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UserError(f"this export needs {' and '.join(missing)}: pip install {' '.join(missing)}")
