"""A trained classifier → files for other runtimes. Each is compared with the classifier before it is written."""

import filecmp
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alu_defects.deployment import conversion, openvino_network
from alu_defects.deployment.bundle import Bundle
from alu_defects.deployment.conversion import SUFFIXES
from alu_defects.deployment.graph import DecidingNetwork
from alu_defects.deployment.parity import MAX_DIFFERENCE, MIN_AGREEMENT, Parity
from alu_defects.deployment.predictor import Predictor, exported_files, load_exported
from alu_defects.errors import UserError, name_disk_errors
from alu_defects.evaluation.calibration import Floats
from alu_defects.io import PART_SUFFIX, atomic_write, exclusive_lock, write_json

FORMATS = tuple(SUFFIXES)
PRECISIONS = ("fp32", "bf16", "int8")
MIN_CALIBRATION = 300  # images for int8
# of the first layers that stay in fp32 with int8, until the file decides alike: they lose most
LAYERS_KEPT = (1, 3, 6, 12)
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
        layers_kept: so many of the first layers stayed in fp32.
        refusal: why it was not written; "" if it was.
    """

    name: str
    parity: Parity
    megabytes: float
    layers_kept: int
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
    loss of macro F1 above `max_drop`, and no more defective images that pass, see `_Gate.judge`. In int8 as few of the
    first layers stay in fp32 as that takes, see `LAYERS_KEPT`.

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
    found = []
    with name_disk_errors(f"output={output}"), _unfinished_folder(output) as folder:
        gate = _Gate(predictor, images, max_drop, batch_size)
        maker = _Maker(folder, network, predictor, calibration)
        for kind in kinds:
            for kept in LAYERS_KEPT if kind.precision == "int8" else (0,):
                one, bundle = gate.judge(made := maker.make(kind, kept))
                if not one.refusal:
                    _publish(made, bundle, one.parity, output)
                    break
            found.append(one)
    return found


def update(
    predictor: Predictor, images: Sequence[tuple[str, str]], output: Path, *, max_drop: float = 0.002
) -> list[Exported]:
    """Give exported files the temperature and the thresholds of `predictor`, where they then decide as it does.

    Args:
        predictor: of the run that the files were made of.
        images: path and label of those that the files are compared on.
        output: the folder of the files.
        max_drop: as of `export`.

    Returns:
        How each file compares; one that decides otherwise stays as it was.

    Raises:
        UserError: a file of another run, or with other flips; bf16 on a processor that computes it in another way; no
            right to write.
    """
    found, new = [], predictor.bundle
    with name_disk_errors(f"output={output}"), _unfinished_folder(output) as folder:
        gate = _Gate(predictor, images, max_drop)
        for file in exported_files(output):
            old, _ = load_exported(file)
            if (old.classes, old.about["data_hash"], old.tta) != (new.classes, new.about["data_hash"], new.tta):
                raise UserError(f"{file} is of another run, or has other flips (tta={old.tta}); export again")
            if old.about["precision"] == "bf16":
                openvino_network.check_bf16()
            about = new.about | {key: old.about[key] for key in ("precision", "layers_kept")}
            bundle = replace(new, about=about, temperature_inside=old.temperature_inside)
            made = folder / file.name
            for part in _files(file):
                shutil.copy(part, folder)
            made.write_bytes(conversion.with_bundle(file, bundle))
            one, bundle = gate.judge(made)
            found.append(one)
            if not one.refusal:
                _publish(made, bundle, one.parity, output)
    return found


class _Gate:
    """Compares files with the run that they were made of.

    Args:
        predictor: of the run.
        images: path and label.
        max_drop: of macro F1 in lower precision.
        batch_size: images that a network sees at once.
    """

    def __init__(
        self, predictor: Predictor, images: Sequence[tuple[str, str]], max_drop: float, batch_size: int = 16
    ) -> None:
        self._paths, self._labels = [path for path, _ in images], [label for _, label in images]
        self._max_drop, self._batch_size, self._max_pixels = max_drop, batch_size, predictor.max_pixels
        self._score_threshold, self._normal = predictor.bundle.score_threshold, predictor.bundle.normal
        self._reference = _probabilities(predictor, self._paths, batch_size)

    def judge(self, file: Path) -> tuple[Exported, Bundle]:
        """How a file compares, and its bundle.

        In lower precision scores move, also that of the image which chose the threshold. If more defective images then
        pass, the threshold in the file becomes its own score of the same rank, for which the bound holds as well. That
        rank is the one in the threshold where these images chose it: by rounding, the reference may miss it by one.
        """
        predictor = Predictor.load(file, max_pixels=self._max_pixels)
        exported, bundle = _probabilities(predictor, self._paths, self._batch_size), predictor.bundle
        parity, is_full = self._measure(bundle, exported), bundle.about["precision"] == "fp32"
        if bundle.threshold and not is_full and (parity.escapes or 0) > (rank := self._rank(bundle.threshold, parity)):
            bundle = replace(
                bundle, threshold=bundle.threshold | {"score": self._own_threshold(bundle, exported, rank)}
            )
            file.write_bytes(conversion.with_bundle(file, bundle))
            parity = self._measure(bundle, exported)
        if is_full:
            wrong = parity.differences(max_difference=MAX_DIFFERENCE, min_agreement=1.0, max_drop=0.0)
        else:
            wrong = parity.differences(max_difference=1.0, min_agreement=MIN_AGREEMENT, max_drop=self._max_drop)
        megabytes = sum(part.stat().st_size for part in _files(file)) / 1e6
        refusal = parity.refusal(file.name, wrong) if wrong else ""
        return Exported(file.name, parity, megabytes, bundle.about["layers_kept"], refusal), bundle

    def _measure(self, bundle: Bundle, exported: Floats) -> Parity:
        return Parity.measure(
            bundle, self._paths, self._labels, self._score_threshold, reference=self._reference, exported=exported
        )

    def _rank(self, threshold: Mapping[str, Any], parity: Parity) -> int:
        """How many defective images may pass."""
        escapes = parity.reference_escapes or 0
        chose_it = threshold.get("defective") == sum(label != self._normal for label in self._labels)
        return min(escapes, threshold["escapes"]) if chose_it else escapes

    def _own_threshold(self, bundle: Bundle, exported: Floats, rank: int) -> float:
        scores = bundle.scores(exported)[[label != bundle.normal for label in self._labels]]
        return float(np.sort(scores)[rank])


class _Maker:
    """Makes files in a folder.

    Args:
        folder: an empty one.
        network: the trained one.
        predictor: decides by it.
        calibration: paths of the images for int8.
    """

    def __init__(
        self, folder: Path, network: DecidingNetwork, predictor: Predictor, calibration: Sequence[str]
    ) -> None:
        self._folder, self._bundle, self._full = folder, predictor.bundle, folder / f"model{SUFFIXES['onnx']}"
        self._ranges = [predictor.read(Path(path)) for path in calibration]
        self._onnx = conversion.to_onnx(network, predictor.bundle)
        conversion.write_onnx(self._onnx, predictor.bundle, self._full)

    def make(self, kind: Kind, kept: int) -> Path:
        """A file; `kept`: so many of the first layers stay in fp32."""
        path = self._folder / f"model_{kind.precision}{SUFFIXES[kind.form]}"
        bundle = replace(self._bundle, about=self._bundle.about | {"precision": kind.precision, "layers_kept": kept})
        model = self._onnx if kind.form == "onnx" else conversion.to_openvino(self._full, bundle)
        if kind.precision == "int8":
            model = conversion.quantize(model, self._ranges, kept, bundle)
        (conversion.write_onnx if kind.form == "onnx" else conversion.write_openvino)(model, bundle, path)
        return path


@contextmanager
def _unfinished_folder(output: Path) -> Iterator[Path]:
    """An empty folder in the output, which is removed in the end; and so are those that killed exports left."""
    output.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(output / ".export", f"exporting to {output}"):
        for left in output.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        for file in output.glob(f"model_*{PART_SUFFIX}"):  # as large as a network
            file.unlink(missing_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=output, prefix=_UNFINISHED, ignore_cleanup_errors=True) as folder:
                yield Path(folder)
        finally:
            with suppress(PermissionError):  # of Windows: it is in use
                (output / ".export.lock").unlink(missing_ok=True)


def _beside(made: Path) -> Path:
    return made.with_name(f"{made.name}.json")


def _files(made: Path) -> list[Path]:
    """Those of a network, the one that is loaded last."""
    return [made.with_suffix(".bin"), made] if made.suffix == SUFFIXES["openvino"] else [made]


def _publish(made: Path, bundle: Bundle, parity: Parity, output: Path) -> None:
    """Copy a network with what belongs to it, the network last: one that is there is whole.

    The previous one is there until all of the new one is on the disk; with the same weights, until it is replaced.
    """
    write_json(_beside(made), bundle.as_dict() | {"parity": asdict(parity)})
    *weights, network = _files(made)
    new = [file for file in weights if not _is_same(file, output / file.name)]
    with ExitStack() as stack:  # closes the last one first
        for file in (network, *new, _beside(made)):
            copy = stack.enter_context(atomic_write(output / file.name))
            with file.open("rb") as content:
                shutil.copyfileobj(content, copy)  # not moved: the next format may be made of it
            copy.flush()  # an error if the disk is full
        if new:
            (output / network.name).unlink(missing_ok=True)  # it would compute with the new .bin


def _is_same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)


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
