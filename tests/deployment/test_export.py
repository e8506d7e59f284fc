"""Exported files decide as the network they were made of, or are not written."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from alu_defects.config import compose
from alu_defects.deployment import conversion, exporting, torch_network
from alu_defects.deployment.bundle import Bundle
from alu_defects.deployment.graph import DecidingNetwork, class_map_weights
from alu_defects.deployment.parity import Parity
from alu_defects.deployment.predictor import Predictor
from alu_defects.deployment.table import as_row
from alu_defects.errors import UserError
from alu_defects.evaluation.calibration import Calibration
from alu_defects.export import export
from alu_defects.models.registry import create_backbone
from alu_defects.runs.run import Run

# in this process OpenVINO is never imported: pytest's capturing does not survive it
MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
ONNX = exporting.Kind("onnx", "fp32")


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, which the files are written into."""
    return Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("export") / "run"))


@pytest.fixture(scope="module")
def exported(run: Path, command) -> Path:
    done = command("export", f"run={run}", "format=onnx,openvino")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the same class for all") == 2
    return run / "export"


def test_files_lie_beside_what_they_decide_by(exported, run):
    assert sorted(path.name for path in exported.iterdir()) == [
        "export.md",
        "model_fp32.bin",
        "model_fp32.onnx",
        "model_fp32.onnx.json",
        "model_fp32.xml",
        "model_fp32.xml.json",
    ]
    content = json.loads((exported / "model_fp32.onnx.json").read_text(encoding="utf-8"))
    assert content.pop("parity")["agreement"] == 1
    bundle = Predictor.load(run).bundle
    assert Bundle.from_dict(content) == replace(bundle, about=bundle.about | {"precision": "fp32", "layers_kept": 0})
    assert "| model_fp32.xml | 100 |" in (exported / "export.md").read_text(encoding="utf-8")


def test_files_decide_as_the_run_from_the_bytes_of_an_image_on(exported, run, photographs, command, tmp_path):
    files = sorted(photographs.rglob("*.png"))
    expected = list(Predictor.load(run).predict(files))
    made = {"onnx": [as_row(one) for one in Predictor.load(exported / "model_fp32.onnx").predict(files, batch_size=5)]}
    done = command("predict", f"run={exported / 'model_fp32.xml'}", f"source={photographs}", "output=-", "format=jsonl")
    made["openvino"] = [json.loads(line) for line in done.stdout.splitlines()]
    for rows in made.values():
        for row, other in zip(rows, expected, strict=True):
            assert (row["path"], row["label"]) == (other.path, other.decision.label)
            assert row["decision"] == other.decision.action
            assert row["confidence"] == pytest.approx(other.decision.confidence, abs=1e-4)


def test_an_onnx_file_needs_neither_torch_nor_pandas_on_the_command_line_either(exported, photographs, tmp_path):
    image, file = next(photographs.rglob("*.png")), exported / "model_fp32.onnx"
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['predict', 'run={file}', 'source={image}', 'output=-', 'format=jsonl', 'progress=false', "
        f"'save_maps={tmp_path}']\n"
        "runpy.run_module('alu_defects.predict', run_name='__main__')\n"
        "print(sorted({'torch', 'lightning', 'pandas', 'scipy', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    row, large = done.stdout.splitlines()
    assert Image.open(json.loads(row)["map"]).size == (64, 48)
    assert large == "[]"


def test_an_onnx_file_is_served_without_torch_and_pandas(exported, photographs, tmp_path):
    image, file = next(photographs.rglob("*.png")), exported / "model_fp32.onnx"
    script = (
        "import pathlib, runpy, sys\n"
        "import uvicorn\n"
        "def run(self, sockets):\n"
        "    service = self.config.app.routes[0].endpoint.__self__\n"
        f"    content = pathlib.Path({str(image)!r}).read_bytes()\n"
        "    print(service._decide(service.slot.predictor, content, '-', True)['status'])\n"
        "    service.labels.add(content, '.png', 'plain')\n"
        "uvicorn.Server.run = run\n"
        f"sys.argv = ['serve', 'run={file}', 'port=0', 'labels={tmp_path / 'labels'}']\n"
        "runpy.run_module('alu_defects.serve', run_name='__main__')\n"
        "print(sorted({'torch', 'lightning', 'pandas', 'scipy', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["ok", "[]"]


def test_features_and_class_maps_are_those_of_the_network(exported, run):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported / "model_fp32.onnx"))
    _, network, _ = torch_network.read(run)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)  # not the size of the training
    assert [one.name for one in session.get_outputs()] == ["probabilities", "features", "maps"]
    with torch.no_grad():
        expected = network(torch.from_numpy(images))
    for found, other in zip(session.run(None, {"images": images}), expected, strict=True):
        np.testing.assert_allclose(found, other.numpy(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_outputs_of_files_are_those_of_the_run(exported, run, suffix, tmp_path):
    """Of several images, of one, and of several again: a runtime must not write over what it gave before."""
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    script = (  # in a process of its own: OpenVINO
        "import numpy as np\n"
        "from alu_defects.deployment.predictor import Predictor\n"
        f"predictor = Predictor.load({str(exported / f'model_fp32{suffix}')!r})\n"
        f"images = np.load({str(tmp_path / 'images.npy')!r})\n"
        "first = predictor.outputs(images[:3])\n"
        "alone, second = predictor.probabilities(images[3:]), predictor.outputs(images[1:])\n"
        "assert predictor._network(images, False).maps is None\n"
        f"np.savez({str(tmp_path / 'found.npz')!r}, alone=alone, "
        "**{f'{a}{k}': v for a, o in (('first', first), ('second', second)) for k, v in o._asdict().items()})"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    found, reference = np.load(tmp_path / "found.npz"), Predictor.load(run)
    for name, part in (("first", images[:3]), ("second", images[1:])):
        expected = reference.outputs(part)
        np.testing.assert_allclose(found[f"{name}probabilities"], expected.probabilities, atol=1e-4)
        np.testing.assert_allclose(found[f"{name}maps"], expected.maps, atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(found["alone"], reference.probabilities(images[3:]), atol=1e-4)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_maps_of_files_are_drawn_as_those_of_the_run(exported, run, photographs, command, tmp_path, *, suffix):
    words = [f"source={photographs / 'along'}", "format=jsonl", "output=-", "progress=false"]
    drawn = []
    for name, source in (("run", run), ("file", exported / f"model_fp32{suffix}")):
        done = command("predict", f"run={source}", f"save_maps={tmp_path / name}", *words)
        assert done.returncode == 0, done.stderr
        files = [json.loads(line)["map"] for line in done.stdout.splitlines()]
        drawn.append(np.array([np.asarray(Image.open(file)).astype(int) for file in files]))
    assert len(drawn[0]) == 12
    assert abs(drawn[0] - drawn[1]).max() <= 2


def test_the_benchmark_measures_exported_files_beside_their_run(exported, run, command, tmp_path):
    words = ["image_sizes=[32,[64,48]]", "batch_sizes=[1,2]", "repeats=1", "seconds=0.01", f"output={tmp_path}"]
    done = command("benchmark", "what=infer", f"run={run}", *words)
    assert done.returncode == 0, done.stderr
    tables = json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))["tables"]
    for table in tables:
        rows = [(row["pixels"], row["variant"]) for row in table["rows"]]
        names = ("eager", "model_fp32.onnx", "model_fp32.xml")
        assert rows == [(pixels, name) for pixels in ("32", "[64,48]") for name in names]
    assert len(tables) == 2


def test_evaluate_gives_exported_files_its_new_operating_point(exported, run, photographs, command, tmp_path):
    shutil.copytree(run, moved := tmp_path / "run")
    before = Predictor.load(moved / "export" / "model_fp32.onnx").bundle
    content = json.loads((moved / "operating.json").read_text(encoding="utf-8"))
    content["calibration"]["temperature"] *= 3  # of an export before the temperature was chosen again
    (moved / "operating.json").write_text(json.dumps(content), encoding="utf-8")
    done = command("export", f"run={moved}", "format=onnx,openvino")
    assert done.returncode == 0, done.stderr
    wrong = Predictor.load(file := moved / "export" / "model_fp32.onnx").bundle
    assert wrong.calibration.temperature == pytest.approx(3 * before.calibration.temperature)
    done = command("evaluate", f"run={moved}", "operating.reject=0.5", "update_exports=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("decides by this temperature and threshold now") == 2
    predictor, reference = Predictor.load(file), Predictor.load(moved)
    assert predictor.bundle.calibration == reference.bundle.calibration != wrong.calibration
    assert predictor.bundle.ask_below == reference.bundle.ask_below > before.ask_below
    image = next(photographs.rglob("*.png"))
    (found,), (expected,) = (list(one.predict([image])) for one in (predictor, reference))
    assert found.decision.confidence == pytest.approx(expected.decision.confidence, abs=1e-5)
    xml = str(file.with_suffix(".xml"))
    done = command("predict", f"run={xml}", f"source={image}", "output=-", "format=jsonl")
    assert json.loads(done.stdout)["confidence"] == pytest.approx(expected.decision.confidence, abs=1e-5)


def test_openvino_sends_nothing(exported, tmp_path):
    script = (
        "import pathlib, sys\n"
        "from alu_defects.deployment import conversion, onnx_network, openvino_network\n"
        f"onnx = pathlib.Path({str(shutil.copy(exported / 'model_fp32.onnx', tmp_path))!r})\n"
        "bundle, file = onnx_network.load(onnx)[0], onnx.with_suffix('.xml')\n"
        "conversion.write_openvino(conversion.to_openvino(onnx, bundle), bundle, file)\n"
        "openvino_network.load(file)\n"
        "import nncf\n"
        "print(sorted(name for name, module in sys.modules.items() if module and 'openvino_telemetry' in name))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_weights_of_another_openvino_export_are_refused(exported, tmp_path, command, photographs):
    for suffix in (".xml", ".bin"):
        shutil.copy(exported / f"model_fp32{suffix}", tmp_path)
    file = tmp_path / "model_fp32.bin"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    done = command("predict", f"run={tmp_path / 'model_fp32.xml'}", f"source={photographs}", "output=-")
    assert done.returncode == 2
    assert "the .bin beside it is of another export" in done.stderr


class Swapped(DecidingNetwork):
    """Takes the channels in another order."""

    def forward(self, images):
        return super().forward(images.flip(3))


class Tiny(nn.Module):
    """A backbone whose answer depends on colour and brightness, which a training of seconds does not teach."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.classifier = nn.Conv2d(3, 16, 5, stride=4), nn.Linear(16, num_classes)

    def forward_features(self, images):
        return self.convolution(images).relu()

    def forward_head(self, maps, pre_logits=False):
        features = maps.mean(dim=(2, 3))
        return features if pre_logits else 10 * self.classifier(features)


@pytest.mark.parametrize("wrong", ["BGR", "mean", "scale"])
def test_a_file_with_another_preprocessing_is_refused_and_not_written(run, photographs, tmp_path, wrong):
    bundle, network, file = torch_network.read(run)
    other = torch_network.read(run)[1]
    for one in (network, other):
        one.backbone, one.map_weights = Tiny(3), None
    reference = Predictor(bundle, torch_network.computing(network, torch.device("cpu")), file)
    images = [(str(path), path.parent.name) for path in sorted(photographs.rglob("*.png"))]
    (made,) = exporting.export(reference, network, [ONNX], images, tmp_path / "right")
    assert (made.name, made.refusal) == ("model_fp32.onnx", "")
    if wrong == "BGR":
        other.__class__ = Swapped
    elif wrong == "mean":
        other.mean.zero_()
    else:
        other.std.mul_(4)
    (made,) = exporting.export(reference, other, [ONNX], images, tmp_path / "wrong")
    assert re.match(r"model_fp32\.onnx decides otherwise .* The worst: ", made.refusal)
    assert list((tmp_path / "wrong").iterdir()) == []


def test_lower_precision_is_written_where_it_decides_alike(run, photographs, tmp_path):
    """In a process of its own: NNCF imports OpenVINO."""
    script = f"""
import copy, dataclasses, json, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
from test_export import Tiny
from alu_defects.deployment import exporting, openvino_network, torch_network
from alu_defects.deployment.predictor import Predictor
from alu_defects.errors import UserError
bundle, network, file = torch_network.read(Path({str(run)!r}))
bundle = dataclasses.replace(bundle, threshold=None)
network.backbone, network.map_weights = Tiny(3), None
other = copy.deepcopy(network)
other.backbone.classifier.weight.data.neg_()
reference = Predictor(bundle, torch_network.computing(network, torch.device("cpu")), file)
paths = sorted(Path({str(photographs)!r}).rglob("*.png"))
kinds = [exporting.Kind(*names) for names in (("onnx", "int8"), ("openvino", "int8"), ("openvino", "bf16"))]
try:
    openvino_network.check_bf16()
except UserError:
    kinds.pop()
for one, name in ((network, "right"), (other, "wrong")):
    output = Path({str(tmp_path)!r}) / name
    images = [(str(path), path.parent.name) for path in paths]
    found = exporting.export(reference, one, kinds, images, output, calibration=[str(path) for path in paths])
    print(json.dumps([(one.name, one.refusal, one.parity.difference) for one in found]))
    if one is network:
        labels = [[p.decision.label for p in Predictor.load(output / one.name).predict(paths)] for one in found]
        print(json.dumps(labels))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    right, labels, wrong = map(json.loads, [line for line in done.stdout.splitlines() if line.startswith("[[")])
    assert [name for name, *_ in right][:2] == ["model_int8.onnx", "model_int8.xml"]
    assert all(refusal == "" and 0 < difference < 0.2 for _, refusal, difference in right)
    assert all(len(set(names)) > 1 for names in labels)
    assert all("of the labels agree" in refusal for _, refusal, _ in wrong)
    assert not list((tmp_path / "wrong").iterdir())


@pytest.mark.parametrize(("defective", "threshold"), [(3, 0.2), (300, 0.4)], ids=["chosen here", "elsewhere"])
def test_the_rank_in_lower_precision_is_that_of_the_threshold(tmp_path, monkeypatch, defective, threshold):
    """Rounding may let the image that chose the threshold pass in the reference, too."""
    about = {"precision": "int8", "layers_kept": 1}
    chosen = {"score": 0.4, "escapes": 0, "defective": defective}
    bundle = parity_bundle(about=about, threshold=chosen, calibration=Calibration(1.0, 1))
    scores = {"run": [0.1, 0.4 - 1e-9, 0.9, 0.8], "file": [0.1, 0.2, 0.9, 0.8]}

    def predictor(name):
        return Predictor(bundle, lambda images, _: None, Path(name))

    def probabilities(one, paths, batch_size):
        return np.array([[1 - score, score] for score in scores[one.source.name]])

    monkeypatch.setattr(exporting, "_probabilities", probabilities)
    monkeypatch.setattr(exporting.Predictor, "load", lambda file, max_pixels: predictor("file"))
    monkeypatch.setattr(exporting.conversion, "with_bundle", lambda file, bundle: b"")
    (file := tmp_path / "model_int8.onnx").write_bytes(b"")
    images = [(f"{k}.jpg", label) for k, label in enumerate(["normal", "pit", "pit", "pit"])]
    made, own = exporting._Gate(predictor("run"), images, 1.0).judge(file)
    assert own.threshold["score"] == pytest.approx(threshold)
    assert made.parity.escapes == (0 if defective == 3 else 1)


def parity_bundle(**changes) -> Bundle:
    return Bundle(
        **{
            "classes": ["normal", "pit"],
            "titles": ["normal", "pit"],
            "image_size": (8, 8),
            "resize": "squash",
            "bits": 8,
            "mean": [0.5],
            "std": [0.5],
            "calibration": None,
            "tta": [],
            "normal": "normal",
            "threshold": {"score": 0.4},
            "ask_below": 0.0,
            "about": {},
            "temperature_inside": 1.0,
        }
        | changes
    )


def parity(reference, exported, **changes) -> Parity:
    bundle = parity_bundle(**changes)
    both = (np.array([[1 - score, score] for score in scores]) for scores in (reference, exported))
    first, second = both
    names = [f"{k}.jpg" for k in range(len(first))]
    labels = ["normal", "pit", "pit"]
    return Parity.measure(bundle, names, labels, bundle.score_threshold, reference=first, exported=second)


def test_parity_counts_labels_escapes_and_the_worst_images():
    found = parity([0.1, 0.9, 0.45], [0.1, 0.8, 0.35])
    assert found.agreement == 1
    assert found.difference == pytest.approx(0.1)
    assert (found.escapes, found.reference_escapes) == (1, 0)
    assert set(found.worst[:2]) == {"1.jpg", "2.jpg"}
    assert found.differences(max_difference=1, min_agreement=0.995, max_drop=0.002) == [
        "1 more defective images pass (1 instead of 0)"
    ]


def test_good_images_that_a_lower_threshold_rejects_refuse_a_file():
    bundle = parity_bundle(threshold={"score": 0.04})
    before, after = (np.array([[1 - score, score] for score in scores]) for scores in ([0.1, 0.9], [0.1, 0.9]))
    found = Parity.measure(bundle, ["0.jpg", "1.jpg"], ["normal", "pit"], 0.4, reference=before, exported=after)
    assert (found.overkills, found.reference_overkills) == (1, 0)
    assert found.differences(max_difference=1, min_agreement=0.995, max_drop=0.002) == [
        "1 more good images are rejected (1 instead of 0)"
    ]


def test_an_image_with_another_label_is_named_before_one_with_a_larger_difference():
    found = parity([0.1, 0.9, 0.501], [0.1, 0.7, 0.499])
    assert found.worst == ["2.jpg", "1.jpg", "0.jpg"]


def test_a_class_that_the_reference_alone_predicts_hides_no_loss():
    ids = np.repeat([0, 1], [195, 5])
    reference, exported = np.eye(3)[ids], np.eye(3)[ids]
    reference[0] = np.eye(3)[2]
    exported[-1] = np.eye(3)[0]
    names = ["normal", "pit", "dent"]
    labels = [names[one] for one in ids]
    bundle = parity_bundle(classes=names, threshold=None)
    found = Parity.measure(bundle, labels, labels, None, reference=reference, exported=exported)
    assert found.agreement == 0.99
    assert found.drop == pytest.approx((1 - 8 / 9) / 3, abs=0.002)


def test_no_number_is_no_small_difference():
    found = parity([0.1, 0.9, 0.6], [0.1, 0.9, np.nan])
    (difference,) = found.differences(max_difference=1e-4, min_agreement=0, max_drop=1)
    assert "differ by up to nan" in difference


def test_parity_without_a_threshold_knows_no_escapes():
    found = parity([0.1, 0.9, 0.6], [0.1, 0.9, 0.4], threshold=None)
    assert (found.escapes, found.reference_escapes) == (None, None)
    assert found.agreement == pytest.approx(2 / 3)
    labels, f1 = found.differences(max_difference=1, min_agreement=1.0, max_drop=0.002)
    assert labels.startswith("66.67% of the labels agree")
    assert "lower" in f1


@pytest.mark.parametrize(("name", "has_maps"), [("shufflenet", True), ("timm/vit_tiny_patch16_224", False)])
def test_class_maps_exist_where_the_network_ends_in_pooling_and_one_layer(name, has_maps):
    backbone = create_backbone(name, 3).eval()
    weights = class_map_weights(backbone)
    assert (weights is not None) == has_maps


@pytest.mark.parametrize(
    ("name", "message"),
    [("x.onnx", "cannot be read as ONNX"), ("x.xml", "cannot be read by OpenVINO"), ("gone.onnx", "is not there")],
)
def test_files_that_are_no_networks_are_refused(tmp_path, command, photographs, name, message):
    if name != "gone.onnx":
        (tmp_path / name).write_bytes(b"no network")
    done = command("predict", f"run={tmp_path / name}", f"source={photographs}", f"output={tmp_path / 'p.csv'}")
    assert done.returncode == 2
    assert message in done.stderr


def test_a_file_of_another_program_is_refused(exported, tmp_path):
    import onnx

    model = onnx.load(exported / "model_fp32.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UserError, match="was not written by alu_defects"):
        Predictor.load(tmp_path / "other.onnx")


def test_the_output_may_begin_with_a_tilde_and_images_be_as_large_as_in_training(run, tmp_path, monkeypatch):
    given = {}

    def catch(predictor, network, kinds, images, output, **options):
        given.update(output=output, max_pixels=predictor.max_pixels, formats=[kind.form for kind in kinds])
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "export", catch)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        export(compose("export", [f"run={run}", "output=~/models", "format=openvino,onnx,openvino"]))
    largest = Run.existing(run).config().data.max_pixels
    assert given == {"output": tmp_path / "models", "max_pixels": largest, "formats": ["openvino", "onnx"]}


def write(folder: Path, content: str) -> Path:
    """What an exporter makes, with this in all of its files."""
    folder.mkdir(exist_ok=True)
    for name in ("model_fp32.bin", "model_fp32.xml.json", "model_fp32.xml"):
        (folder / name).write_text(content)
    return folder / "model_fp32.xml"


def publish(made: Path, output: Path) -> None:
    same = parity([0.1, 0.9, 0.6], [0.1, 0.9, 0.6])
    exporting._publish(made, parity_bundle(calibration=Calibration(1.0, 1)), same, output)


def test_an_old_network_never_lies_beside_new_weights(tmp_path, monkeypatch):
    write(output := tmp_path / "output", "old")
    made = write(tmp_path / "made", "new")
    replaced, replace_file = [], Path.replace

    def killed(self, target):
        replaced.append(Path(target).name)
        if replaced[-1] == "model_fp32.xml":
            raise OSError(5, "Input/output error")
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(OSError, match="Input/output"):
        publish(made, output)
    assert replaced == ["model_fp32.xml.json"] * 2 + ["model_fp32.bin", "model_fp32.xml"]  # first the one in made
    assert sorted(path.name for path in output.iterdir()) == ["model_fp32.bin", "model_fp32.xml.json"]
    assert (output / "model_fp32.bin").read_text() == "new"


@pytest.mark.parametrize("full", ["model_fp32.xml", "model_fp32.bin", "model_fp32.xml.json"])
def test_a_full_disk_leaves_the_previous_export(tmp_path, monkeypatch, full):
    write(output := tmp_path / "output", "old")
    made = write(tmp_path / "made", "new")

    def copy(content, file):
        if Path(content.name).name == full:
            raise OSError(28, "No space left on device")
        file.write(content.read())

    monkeypatch.setattr(exporting.shutil, "copyfileobj", copy)
    with pytest.raises(OSError, match="No space"):
        publish(made, output)
    assert {path.name: path.read_text() for path in output.iterdir()} == dict.fromkeys(
        ("model_fp32.bin", "model_fp32.xml", "model_fp32.xml.json"), "old"
    )


def test_a_network_with_the_same_weights_is_never_gone(tmp_path, monkeypatch):
    write(output := tmp_path / "output", "old")
    made = write(tmp_path / "made", "new")
    made.with_suffix(".bin").write_text("old")
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: pytest.fail("a killed process would leave no network"))
    publish(made, output)
    assert made.read_text() == (output / made.name).read_text() == "new"


def test_bf16_is_not_updated_where_it_cannot_be_compared(tmp_path, monkeypatch):
    def no_bf16():
        raise UserError("this processor has no bf16")

    bundle = parity_bundle(about={"precision": "bf16", "layers_kept": 0, "data_hash": "x"})
    write(tmp_path, "old").rename(file := tmp_path / "model_bf16.xml")
    monkeypatch.setattr(exporting, "load_exported", lambda _: (bundle, None))
    monkeypatch.setattr(exporting, "_Gate", lambda *_: None)
    monkeypatch.setattr(exporting.openvino_network, "check_bf16", no_bf16)
    with pytest.raises(UserError, match="no bf16"):
        exporting.update(Predictor(bundle, None, file), [], tmp_path)
    assert file.read_text() == "old"


def test_what_a_killed_export_left_is_removed(tmp_path):
    (tmp_path / ".unfinished-abc").mkdir()
    (tmp_path / ".unfinished-abc" / "model_fp32.onnx").write_bytes(b"half of it")
    (tmp_path / "model_fp32.onnx.123-0a1b2c3d.part").write_bytes(b"half of it")
    with exporting._unfinished_folder(tmp_path) as folder:
        assert [path for path in tmp_path.iterdir() if path.is_dir()] == [folder]
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"output=.*file cannot be written \(File exists\)"):
        exporting.export(None, None, [ONNX], [], tmp_path / "file")


def test_a_network_that_cannot_be_exported_is_named():
    bundle = parity_bundle(about={"model": "timm/some"})
    with (
        pytest.raises(UserError, match=r"model\.name=timm/some cannot be written as ONNX \(ValueError: deform\)"),
        conversion._conversion_errors(bundle, "ONNX"),
    ):
        raise ValueError("deform\nand a long explanation")


def test_padding_as_in_tensorflow_has_one_height_and_width(monkeypatch):
    """With any, an export of timm/tf_efficientnet_b0 does not end."""
    network = torch.nn.Sequential(create_backbone("timm/tf_efficientnet_b0", 2, image_size=32))
    network.map_weights = None
    dimensions = []

    def export_as(*_, dynamic_shapes, **__):
        dimensions.append(list(dynamic_shapes[0]))
        raise ValueError

    monkeypatch.setattr(torch.onnx, "export", export_as)
    with pytest.raises(UserError):
        conversion.to_onnx(network, parity_bundle())
    assert dimensions == [[0]]


def test_the_first_image_is_compared_alone(tmp_path):
    sizes = []

    class Counting(Predictor):
        def __init__(self):
            pass

        def predict(self, files, *, batch_size=16):
            sizes.append((len(list(files)), batch_size))
            return iter(())

    exporting._probabilities(Counting(), ["a", "b", "c"], 16)
    assert sizes == [(1, 1), (2, 16)]


def test_model_api_pads_as_letterbox_does():
    assert conversion.model_api_entries(parity_bundle(resize="letterbox"))["pad_value"] == "128"
    assert "pad_value" not in conversion.model_api_entries(parity_bundle())


@pytest.mark.parametrize("word", ["format=", "format=[onnx]", "format=tflite"])
def test_formats_that_do_not_exist_are_refused(tmp_path, typed, word):
    done = typed("export", f"run={tmp_path}", word)
    assert done.returncode == 2
    assert "error: formats=" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"precisions": ["int4"]}, "precisions=int4 does not exist"),
        ({"precisions": []}, r"precisions=\[\] names none"),
        ({"precisions": ["bf16"]}, "there is no ONNX file in 16 bits"),
    ],
)
def test_precisions_that_do_not_exist_are_refused(finished_run, words, message):
    config = compose("export", [f"run={finished_run}"])
    config.update(words)
    with pytest.raises(UserError, match=message):
        export(config)


def test_an_unknown_format_is_named(finished_run, typed):
    done = typed("export", f"run={finished_run}", "format=tflite")
    assert done.returncode == 2
    assert "formats=tflite does not exist" in done.stderr
