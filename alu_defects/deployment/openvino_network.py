"""An exported OpenVINO file (.xml beside .bin) as a network that decides, without torch."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alu_defects.deployment.bundle import Bundle, Network
from alu_defects.errors import UserError
from alu_defects.evaluation.calibration import Floats

METADATA_KEY = "alu_defects"  # of the bundle in the file's rt_info


def load(path: Path) -> tuple[Bundle, Network]:
    """The bundle in an .xml file, and its network on the processor.

    Raises:
        UserError: openvino is not installed, or it is not a file of `alu_defects.export`.
    """
    try:
        import openvino
    except ImportError as error:
        raise UserError(f"run={path} needs openvino: pip install openvino") from error
    core = openvino.Core()
    try:
        model = core.read_model(str(path))
    except Exception as error:  # of its own kinds
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"run={path} cannot be read by OpenVINO ({reason}); is its .bin beside it?") from error
    if not model.has_rt_info([METADATA_KEY]):
        raise UserError(f"run={path} was not written by alu_defects.export: it does not say what its classes are")
    bundle = Bundle.from_dict(json.loads(model.get_rt_info([METADATA_KEY]).value))
    # full precision, also on processors that would take bf16 by themselves
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"})
    request, probabilities = compiled.create_infer_request(), compiled.output(0)

    def compute(images: NDArray[np.uint8]) -> Floats:
        return np.asarray(request.infer({0: images})[probabilities], np.float64)

    return bundle, compute
