"""A trained classifier → files for other runtimes. Each is compared with the classifier before it is written."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alu_defects.deployment import conversion, openvino_network
from alu_defects.deployment.bundle import Bundle
from alu_defects.deployment.conversion import SUFFIXES
from alu_defects.deployment.graph import DecidingNetwork
from alu_defects.deployment.parity import MAX_DIFFERENCE, MIN_AGREEMENT, Parity
from alu_defects.deployment.predictor import Predictor
from alu_defects.errors import UserError
from alu_defects.evaluation.calibration import Floats
from alu_defects.io import atomic_write, exclusive_lock, write_json

FORMATS = tuple(SUFFIXES)
PRECISIONS = ("fp32", "bf16", "int8")
MIN_CALIBRATION = 300  # images for int8
_UNFINISHED = ".unfinished-"  # of folders


class Kind(NamedTuple):
    """Of an exported file."""

    form: str  # of `FORMATS`
    precision: str  # of `PRECISIONS`; there is no ONNX in bf16


@dataclass(frozen=True)
class Exported:
    """A file that was asked for.

    Attributes:
        name: such as model_int8.onnx.
        parity: how it compares with its reference.
        megabytes: its size, that of a .bin included.
        refusal: why it was not written; "" if it was.
    """

    name: str
    parity: Parity
    megabytes: float
    refusal: str


def export(
    predictor: Predictor,
    network: DecidingNetwork,
    kinds: Sequence[Kind],
    images: Sequence[tuple[str, str]],
    output: Path,
    *,
    calibration: Sequence[str] = (),
    max_drop: float = 0.002,
    batch_size: int = 16,
) -> list[Exported]:
    """Write model_<precision>.onnx, and .xml with .bin, and beside each its bundle as .json.

    A file is written only if it decides as the network does. In fp32 that is the same label for all images and
    probabilities that differ by no more than `MAX_DIFFERENCE`; in bf16 and int8 it is `MIN_AGREEMENT` of the labels, no
    loss of macro F1 above `max_drop`, and no more defective images that pass.

    Args:
        predictor: decides by `network`: the reference.
        network: the trained one.
        kinds: of the files.
        images: path and label of those that the files are compared on.
        output: the folder of the files.
        calibration: paths of the images that int8 takes the ranges of its numbers from.
        max_drop: of macro F1, as a fraction.
        batch_size: images that a network sees at once.

    Returns:
        How each file compares with the reference, also those that were not written.

    Raises:
        UserError: a package that is not installed, an image that cannot be read, a network that the format cannot
            hold, no room, or bf16 on a processor that computes it in another way.
    """
    _check_packages(kinds)
    if Kind("openvino", "bf16") in kinds:
        openvino_network.check_bf16()
    paths, labels = [path for path, _ in images], [label for _, label in images]
    found = []
    with _disk_errors(output), _unfinished_folder(output) as folder:
        reference = _probabilities(predictor, paths, batch_size)
        for made, bundle in _make(folder, network, predictor, kinds, calibration):
            exported = _probabilities(Predictor.load(made, max_pixels=predictor.max_pixels), paths, batch_size)
            parity = Parity.measure(bundle, paths, labels, reference=reference, exported=exported)
            if bundle.about["precision"] == "fp32":
                wrong = parity.differences(max_difference=MAX_DIFFERENCE, min_agreement=1.0, max_drop=0.0)
            else:
                wrong = parity.differences(max_difference=1.0, min_agreement=MIN_AGREEMENT, max_drop=max_drop)
            megabytes = sum(file.stat().st_size for file in _files(made)) / 1e6
            found.append(Exported(made.name, parity, megabytes, parity.refusal(made.name, wrong) if wrong else ""))
            if not wrong:
                write_json(_beside(made), bundle.as_dict() | {"parity": asdict(parity)})
                _publish(made, output)
    return found


def _make(
    folder: Path, network: DecidingNetwork, predictor: Predictor, kinds: Sequence[Kind], calibration: Sequence[str]
) -> Iterator[tuple[Path, Bundle]]:
    """Each file, in the folder, with its bundle."""
    ranges = [predictor.read(Path(path)) for path in calibration]
    bundles = {one: replace(predictor.bundle, about=predictor.bundle.about | {"precision": one}) for one in PRECISIONS}
    onnx = conversion.to_onnx(network, predictor.bundle)
    full = folder / f"model{SUFFIXES['onnx']}"
    conversion.write_onnx(onnx, bundles["fp32"], full)
    for form, precision in kinds:
        bundle, path = bundles[precision], folder / f"model_{precision}{SUFFIXES[form]}"
        if form == "onnx":
            model = conversion.quantize(onnx, ranges, bundle) if precision == "int8" else onnx
            conversion.write_onnx(model, bundle, path)
        else:
            model = conversion.to_openvino(full, bundle)
            if precision == "int8":
                model = conversion.quantize(model, ranges, bundle)
            conversion.write_openvino(model, bundle, path)
        yield path, bundle


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


def _files(made: Path) -> list[Path]:
    """Those of a network, the one that is loaded last."""
    return [made.with_suffix(".bin"), made] if made.suffix == SUFFIXES["openvino"] else [made]


def _publish(made: Path, output: Path) -> None:
    """Copy a network with what belongs to it, the network last: one that is there is whole."""
    if made.suffix == SUFFIXES["openvino"]:
        (output / made.name).unlink(missing_ok=True)  # the one that is replaced would compute with the new .bin
    for file in (_beside(made), *_files(made)):
        with file.open("rb") as content, atomic_write(output / file.name) as copy:
            shutil.copyfileobj(content, copy)  # not moved: the next format may be made of it


def _probabilities(predictor: Predictor, paths: Sequence[str], batch_size: int) -> Floats:
    rows = []
    alone = predictor.predict(paths[:1], batch_size=1)  # a graph may be right for several images only
    for one in chain(alone, predictor.predict(paths[1:], batch_size=batch_size)):
        if one.decision is None:
            raise UserError(f"{one.path} cannot be read ({one.error}); the export is compared on it: restore it")
        rows.append(list(one.decision.probabilities.values()))
    return np.array(rows)


def _check_packages(kinds: Sequence[Kind]) -> None:
    parts = ("onnx", *chain.from_iterable(kinds))  # all are made of ONNX
    needed = dict.fromkeys(name for part in parts for name in conversion.PACKAGES.get(part, ()))
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UserError(f"this export needs {' and '.join(missing)}: pip install {' '.join(missing)}")
