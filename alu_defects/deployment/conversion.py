"""A trained network → ONNX and OpenVINO, in full or lower precision. `parity` tells whether they decide alike."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from alu_defects.data import decode
from alu_defects.deployment import onnx_network, openvino_network
from alu_defects.deployment.bundle import Bundle
from alu_defects.deployment.graph import INPUT, OUTPUTS, DecidingNetwork
from alu_defects.errors import UserError

log = logging.getLogger(__name__)

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "int8": ("nncf",)}
_EXAMPLES = 2  # images; of one the size of the batch would be fixed


def to_onnx(network: DecidingNetwork, bundle: Bundle) -> Any:
    """The network as ONNX's ModelProto, for any number of images, and of any height and width where it allows that."""
    example = torch.zeros(_EXAMPLES, *bundle.image_size, 3, dtype=torch.uint8)
    names = OUTPUTS[: 2 if network.map_weights is None else 3]
    for name in ("onnxscript", "onnx_ir"):  # which tell of each constant
        logging.getLogger(name).setLevel(logging.WARNING)

    def convert(dimensions: int) -> Any:
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=(dict.fromkeys(range(dimensions), torch.export.Dim.DYNAMIC),),
            input_names=[INPUT],
            output_names=names,
            verbose=False,
        )
        assert program is not None
        return program.model_proto

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of what the exporter itself is built on
        # timm's padding as in TensorFlow: torch.export works on formulas for its sizes without end
        if not any(type(module).__name__.endswith("Same") for module in network.modules()):
            try:
                return convert(3)
            except Exception as error:  # of its own kinds
                log.info("only for images of its own height and width: %s", next(iter(str(error).splitlines()), ""))
        with _conversion_errors(bundle, "ONNX"):
            return convert(1)


def write_onnx(model: Any, bundle: Bundle, path: Path) -> None:
    """Write a ModelProto, with the bundle in its metadata."""
    path.write_bytes(_onnx_with_bundle(model, bundle))


def _onnx_with_bundle(model: Any, bundle: Bundle) -> bytes:
    for entry in [one for one in model.metadata_props if one.key == onnx_network.METADATA_KEY]:
        model.metadata_props.remove(entry)
    model.metadata_props.add(key=onnx_network.METADATA_KEY, value=bundle.as_json())
    return bytes(model.SerializeToString())


def to_openvino(onnx: Path, bundle: Bundle) -> Any:
    """What OpenVINO reads of an .onnx file, as its Model."""
    openvino = openvino_network.import_openvino()
    with _conversion_errors(bundle, "OpenVINO"):
        return openvino.Core().read_model(str(onnx))


def write_openvino(model: Any, bundle: Bundle, path: Path) -> None:
    """Write a Model as .xml and .bin, with the bundle in its rt_info; the weights in 16 bits if it computes in them."""
    openvino = openvino_network.import_openvino()
    is_short = bundle.about["precision"] == "bf16"
    with _conversion_errors(bundle, "OpenVINO"):
        model.set_rt_info(bundle.as_json(), [openvino_network.METADATA_KEY])
        for key, value in model_api_entries(bundle).items():
            model.set_rt_info(value, ["model_info", key])
        openvino.save_model(model, str(path), compress_to_fp16=is_short)
        # which .bin belongs to it is known only now; saved again, that is the same
        model.set_rt_info(openvino_network.weights_digest(path), [openvino_network.WEIGHTS_KEY])
        openvino.save_model(model, str(path), compress_to_fp16=is_short)


def quantize(model: Any, images: Sequence[decode.UInt8], kept: int, bundle: Bundle) -> Any:
    """A ModelProto or an OpenVINO Model in 8-bit integers, but for `kept` of its first layers (NNCF).

    The ranges of its numbers are those on decoded images, of the least error of quantization.
    """
    openvino_network.switch_telemetry_off()
    import nncf
    from nncf.quantization.advanced_parameters import QuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    # ONNX Runtime takes one range for all channels of an activation alone, NNCF gives depthwise convolutions several
    per_channel = False if hasattr(model, "graph") else None
    data = nncf.Dataset([{INPUT: image[None]} for image in images])
    with warnings.catch_warnings(), _conversion_errors(bundle, "int8"):
        warnings.simplefilter("ignore")
        return nncf.quantize(
            model,
            data,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=_layers(model)[:kept]),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM,
                activations_quantization_params=QuantizationParameters(per_channel=per_channel),
            ),
        )


def _layers(model: Any) -> list[str]:
    """The names of the convolutions and linear layers, from the pixels on."""
    if hasattr(model, "graph"):
        return [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    kinds = ("Convolution", "GroupConvolution", "MatMul")
    return [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() in kinds]


def with_bundle(file: Path, bundle: Bundle) -> bytes:
    """The content of an .onnx or .xml file with another bundle."""
    if file.suffix == SUFFIXES["onnx"]:
        import onnx

        return _onnx_with_bundle(onnx.load_model(file), bundle)
    tree = ElementTree.parse(file)
    (element,) = tree.iterfind(f"rt_info/{openvino_network.METADATA_KEY}")
    element.set("value", bundle.as_json())
    return bytes(ElementTree.tostring(tree.getroot(), encoding="utf-8", xml_declaration=True))


@contextmanager
def _conversion_errors(bundle: Bundle, form: str) -> Iterator[None]:
    """A `UserError` of whatever an exporter raises: not every network can be exported."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"model.name={bundle.about.get('model')} cannot be written as {form} ({type(error).__name__}: {reason}); "
            "give another format or precision, or train another network for it"
        ) from error


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
