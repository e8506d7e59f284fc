"""An exported .onnx file as a network that decides, without torch."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alu_defects.deployment.bundle import Bundle, Network, Outputs
from alu_defects.errors import UserError

METADATA_KEY = "alu_defects"  # of the bundle in the file


def load(path: Path) -> tuple[Bundle, Network]:
    """The bundle in an .onnx file, and its network on the processor.

    Raises:
        UserError: onnxruntime is not installed, or it is not a file of `alu_defects.export`.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"run={path} needs onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of its own kinds
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"run={path} cannot be read as ONNX ({reason}); export it again") from error
    metadata = session.get_modelmeta().custom_metadata_map
    if METADATA_KEY not in metadata:
        raise UserError(f"run={path} was not written by alu_defects.export: it does not say what its classes are")
    bundle = Bundle.from_json(metadata[METADATA_KEY], path)
    (image,), (probabilities, _, *maps) = session.get_inputs(), session.get_outputs()

    def compute(images: NDArray[np.uint8], with_maps: bool) -> Outputs:
        names = [one.name for one in (probabilities, *(maps if with_maps else ()))]  # others are not computed
        found, *more = session.run(names, {image.name: images})
        return Outputs(np.asarray(found, np.float64), more[0] if more else None)

    return bundle, compute
