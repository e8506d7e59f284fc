"""An exported OpenVINO file (.xml beside .bin) as a network that decides, without torch."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alu_defects.config import Size
from alu_defects.deployment.bundle import Bundle, Network, Outputs
from alu_defects.errors import UserError

METADATA_KEY = "alu_defects"  # of the bundle in the file's rt_info
WEIGHTS_KEY = "alu_defects_weights"  # of `weights_digest`
BF16_HINT = "bf16"  # of INFERENCE_PRECISION_HINT


def switch_telemetry_off() -> None:
    """Else OpenVINO and NNCF report to their makers that they are imported, unless the user has opted out."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python then says that it is not installed


def import_openvino() -> Any:
    """OpenVINO without its telemetry."""
    switch_telemetry_off()
    import openvino

    return openvino


def weights_digest(path: Path) -> str:
    """SHA-256 of the .bin of an .xml file."""
    with path.with_suffix(".bin").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_bf16() -> None:
    """Raise a `UserError` where OpenVINO computes bf16 in another precision, which would show nothing."""
    if "BF16" not in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UserError(
            "precision=bf16: this processor has no bf16, so that nothing can be shown of it; export it on one that has "
            "(lscpu names avx512_bf16 or amx_bf16), or leave bf16 out"
        )


def load(path: Path, image_size: Size | None = None) -> tuple[Bundle, Network]:
    """The bundle in an .xml file, and its network on the processor, for images of another size where one is given.

    Raises:
        UserError: openvino is not installed, or it is not a file of `alu_defects.export`.
    """
    try:
        openvino = import_openvino()
    except ImportError as error:
        raise UserError(f"run={path} needs openvino: pip install openvino") from error
    core = openvino.Core()
    try:
        model = core.read_model(str(path))
    except Exception as error:  # of its own kinds
        reason = next(reversed(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"run={path} cannot be read by OpenVINO ({reason}); is its .bin beside it?") from error
    if not model.has_rt_info([METADATA_KEY]) or not model.has_rt_info([WEIGHTS_KEY]):
        raise UserError(f"run={path} was not written by alu_defects.export: it does not say what its classes are")
    if model.get_rt_info([WEIGHTS_KEY]).value != weights_digest(path):  # OpenVINO takes any that is long enough
        raise UserError(f"run={path}: the .bin beside it is of another export; copy both files, or export again")
    bundle = Bundle.from_json(model.get_rt_info([METADATA_KEY]).value, path)
    model.reshape([-1, *(image_size or bundle.image_size), 3])  # faster than for any height and width
    # full precision also on processors that would take bf16 by themselves
    precision = BF16_HINT if bundle.about.get("precision") == "bf16" else "f32"
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"})
    request, (probabilities, _, *maps) = compiled.create_infer_request(), compiled.outputs

    def compute(images: NDArray[np.uint8], with_maps: bool) -> Outputs:
        found = request.infer({0: images}, share_outputs=True)  # in its memory, which the next call writes over
        own = np.array(found[maps[0]]) if maps and with_maps else None
        return Outputs(np.array(found[probabilities], np.float64), own)

    return bundle, compute
