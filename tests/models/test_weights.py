import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from alu_defects.errors import UserError
from alu_defects.models.registry import create_backbone
from alu_defects.models.weights import load_weights


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Random weights in the layout of the published Inception V4 file, 1000 classes, in both formats."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(1)
    state = create_backbone("inceptionv4", 1000).state_dict()
    save_file(state, folder / "inceptionv4.safetensors")
    torch.save({"state_dict": state, "epoch": 3}, folder / "inceptionv4.pth")
    yield folder
    for file in folder.iterdir():  # 340 MB that pytest would keep
        file.unlink()


@pytest.fixture
def state():
    torch.manual_seed(1)
    return create_backbone("shufflenet", 11).state_dict()


def same(model, other, but):
    own = model.state_dict()
    return all(torch.equal(own[key], value) for key, value in other.items() if not key.startswith(but))


@pytest.mark.parametrize("file", ["inceptionv4.safetensors", "inceptionv4.pth"])
def test_published_inception_weights_load_into_scse(published, file):
    model = create_backbone("inceptionv4_scse", 11, weights=published / file).eval()
    plain = create_backbone("inceptionv4", 1000, weights=str(published / file)).eval()
    assert same(model, plain.state_dict(), but="last_linear.")
    assert model.get_classifier().out_features == 11
    assert "classifier does not fit" in model.loaded
    assert "84 parameters are new" in model.loaded  # 14 blocks of 6
    x = torch.rand(1, 3, 96, 96)
    with torch.no_grad():  # the new gates sum to one
        torch.testing.assert_close(model.forward_features(x), plain.forward_features(x))


def test_classifier_with_the_same_class_count_is_loaded(tmp_path, state):
    torch.save(state, tmp_path / "a.pt")
    assert same(create_backbone("shufflenet", 11, weights=tmp_path / "a.pt"), state, but=("none",))


def test_trained_attention_is_loaded(tmp_path):
    trained = create_backbone("shufflenet", 11, attention="scse")
    nn.init.ones_(trained.stage2[0].attention.sse.squeeze.weight)
    save_file(trained.state_dict(), tmp_path / "a.safetensors")
    model = create_backbone("shufflenet", 11, attention="scse", weights=tmp_path / "a.safetensors")
    assert same(model, trained.state_dict(), but=("none",))


def test_files_without_batch_counters_are_loaded(tmp_path, state):
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "a.pth")
    assert same(create_backbone("shufflenet", 11, weights=tmp_path / "a.pth"), old, but=("none",))


@pytest.mark.parametrize("classes", [0, 5])
def test_classifier_with_another_class_count_is_not_loaded(tmp_path, state, classes):
    torch.save(state, tmp_path / "a.pth")
    model = create_backbone("shufflenet", classes, weights=tmp_path / "a.pth")
    assert same(model, state, but="fc.")
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, classes or model.num_features)


CLASSES = [f"class {number}" for number in range(11)]
MIXED = CLASSES[::-1]
OTHERS = ["pit", *CLASSES[1:]]


def as_safetensors(state, classes, path):
    save_file(state, path, {"model": json.dumps({"name": "x"}), "classes": json.dumps(classes)})


def as_checkpoint(state, classes, path):
    """Also with what the LightningModule has beside its backbone."""
    state = {"loss.class_weights": torch.ones(11)} | {f"backbone.{name}": value for name, value in state.items()}
    torch.save({"state_dict": state, "hyper_parameters": {"model": {"name": "x"}, "classes": classes}}, path)


@pytest.fixture(params=[(as_safetensors, "model.safetensors"), (as_checkpoint, "best.ckpt"), (as_checkpoint, "a.pth")])
def write(request, tmp_path):
    """Save a state with the names of its classes."""
    save, name = request.param

    def written(state, classes=CLASSES):
        save(state, classes, tmp_path / name)
        return tmp_path / name

    return written


def test_classifier_for_the_same_classes_is_loaded(write, state):
    model = create_backbone("shufflenet", 11, weights=write(state), classes=CLASSES)
    assert same(model, state, but=("none",))
    line = model.loaded
    assert line == (f"{len(state)} of {len(state)} tensors were loaded; its classifier was loaded")


def test_classifier_for_classes_in_another_order_is_reordered(write, state):
    model = create_backbone("shufflenet", 11, weights=write(state), classes=MIXED)
    assert same(model, state, but="fc.")
    assert torch.equal(model.fc.weight, state["fc.weight"].flip(0))
    assert torch.equal(model.fc.bias, state["fc.bias"].flip(0))
    assert "in the order of these classes" in model.loaded


@pytest.mark.parametrize("classes", [OTHERS, OTHERS[:3]])
def test_classifier_for_other_classes_is_not_loaded(write, state, classes):
    model = create_backbone("shufflenet", len(classes), weights=write(state), classes=classes)
    assert same(model, state, but="fc.")
    assert model.fc.bias.shape == (len(classes),)
    assert not torch.equal(model.fc.weight, state["fc.weight"][: len(classes)])
    line = model.loaded
    assert f"{len(state) - 2} of {len(state)} tensors were loaded" in line
    assert (
        "for other classes (class 0, class 1, class 2, class 3, class 4, class 5, class 6, class 7 and 3 more, not pit,"
        in line
    )
    assert "the new one is trained from scratch" in line


def test_classifier_without_class_names_is_loaded_by_their_number(tmp_path, state):
    torch.save(state, tmp_path / "a.pth")
    model = create_backbone("shufflenet", 11, weights=tmp_path / "a.pth", classes=CLASSES)
    assert same(model, state, but=("none",))
    assert "its classifier was loaded, although the file does not say for which classes" in model.loaded


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("timm/deit_tiny_distilled_patch16_224", {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}),
        ("timm/levit_128s", {f"{head}.linear.{part}" for head in ("head", "head_dist") for part in ("weight", "bias")}),
        ("timm/volo_d1_224", {"head.weight", "head.bias", "aux_head.weight", "aux_head.bias"}),
    ],
)
def test_all_layers_that_depend_on_the_classes_are_treated_alike(tmp_path, name, rows):
    saved = create_backbone(name, 11, image_size=64)
    with torch.no_grad():
        for key in rows:
            nn.init.normal_(saved.get_parameter(key))
    state, file = saved.state_dict(), tmp_path / "model.safetensors"
    as_safetensors(state, CLASSES, file)
    mixed = create_backbone(name, 11, image_size=64, weights=file, classes=MIXED).state_dict()
    assert {key for key in state if not torch.equal(mixed[key], state[key])} == rows
    assert all(torch.equal(mixed[key], state[key].flip(0)) for key in rows)
    new = create_backbone(name, 3, image_size=64, weights=file, classes=OTHERS[:3]).state_dict()
    assert {key for key in state if new[key].shape != state[key].shape} == rows


def break_missing(state):
    for unit in range(4):
        del state[f"stage4.{unit}.branch2.0.weight"], state[f"stage3.{unit}.branch2.0.weight"]
    del state["conv5.0.weight"]


def break_unexpected(state):
    state["stage2.0.attention.sse.squeeze.weight"] = torch.zeros(1, 116, 1, 1)


def break_shape(state):
    state["conv1.0.weight"] = torch.zeros(24, 1, 3, 3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_missing, r"9 missing: stage3\.0\.branch2\.0\.weight, \S+, \S+ and 6 more\.$"),
        (break_unexpected, r"1 unexpected: stage2\.0\.attention\.sse\.squeeze\.weight\.$"),
        (break_shape, r"1 of another shape: conv1\.0\.weight \(24, 1, 3, 3\), not \(24, 3, 3, 3\)\.$"),
    ],
)
def test_unfit_tensors_are_listed_and_nothing_is_loaded(tmp_path, state, damage, message):
    damage(state)
    torch.save(state, tmp_path / "a.pth")
    model = create_backbone("shufflenet", 11)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match=message) as caught:
        load_weights(model, tmp_path / "a.pth")
    assert "a.pth" in str(caught.value)
    assert same(model, before, but=("none",))


def test_attention_with_another_reduction_is_listed(tmp_path):
    torch.save(
        create_backbone("shufflenet", 11, attention="cse", attention_reduction=2).state_dict(), tmp_path / "a.pth"
    )
    with pytest.raises(UserError, match=r"48 of another shape: stage2\.0\.attention"):
        create_backbone("shufflenet", 11, attention="cse", weights=tmp_path / "a.pth")


def test_the_option_in_which_a_run_differs_is_named(tmp_path):
    options = {"name": "shufflenet", "width": 0.5, "attention": "none", "attention_reduction": 2, "drop_rate": 0.3}
    metadata = {"model": json.dumps(options), "classes": json.dumps(CLASSES)}
    save_file(create_backbone("shufflenet", 11, width=0.5).state_dict(), tmp_path / "a.safetensors", metadata)
    for given, wanted in (
        ({"name": "shufflenet", "width": 1.0, "attention": "scse"}, "model.width=0.5"),
        ({"name": "xception"}, "model=shufflenet"),
    ):
        with pytest.raises(UserError, match=rf" The run has {wanted}; give that\.$") as caught:
            create_backbone(**given, num_classes=11, weights=tmp_path / "a.safetensors")
        assert str(caught.value).startswith(
            f"model.weights={tmp_path / 'a.safetensors'} is not a file of this network: "
        )
        assert len(str(caught.value)) < 700


class Malice:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("suffix", ["pth", "ckpt"])
@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_code_in_a_pickle_does_not_run(tmp_path, save, suffix):
    marker, path = tmp_path / "ran", tmp_path / f"a.{suffix}"
    save({"state_dict": {}, "hyper_parameters": {"model": {}, "classes": Malice(marker)}}, path)
    with pytest.raises(UserError, match=rf"a\.{suffix} cannot be read as tensors alone") as caught:
        create_backbone("shufflenet", 11, weights=path)
    assert not marker.exists()
    assert "weights_only=False" not in str(caught.value)
    pickle.loads(pickle.dumps(Malice(marker)))
    assert marker.exists()  # it would have


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", None, "no such file"),
        ("a.onnx", b"x", "must end in .safetensors, .pth, .pt"),
        ("a.pth", b"", "cannot be read"),
        ("a.pt", b"PK\x03\x04 half a file", "cannot be read"),
        ("a.safetensors", b"\x10\0\0\0\0\0\0\0{not json}", "cannot be read"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        create_backbone("shufflenet", 11, weights=tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, torch.zeros(3)])
def test_files_without_weights_are_errors(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match="does not hold a state dict"):
        create_backbone("shufflenet", 11, weights=tmp_path / "a.pth")


def test_pretrained_weights_come_from_timm(published, monkeypatch, tmp_path):
    asked = []

    def download(repo_id, filename, **_):
        asked.append((repo_id, filename))
        return str(published / "inceptionv4.safetensors")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("alu_defects.models.pretrained._check_answer", lambda url: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    model = create_backbone("inceptionv4_scse", 11, pretrained=True)
    plain = create_backbone("inceptionv4", 1000, weights=published / "inceptionv4.safetensors")
    assert asked == [("timm/inception_v4.tf_in1k", "model.safetensors")]
    assert model.loaded == "new: its classifier and its attention"
    assert same(model, plain.state_dict(), but="last_linear.")
    assert model.get_classifier().out_features == 11


@pytest.mark.parametrize(
    ("width", "file"),
    [
        (0.5, "shufflenetv2_x0.5-f707e7126e.pth"),
        (1.0, "shufflenetv2_x1-5666bf0f80.pth"),
        (1.5, "shufflenetv2_x1_5-3c479a10.pth"),
        (2.0, "shufflenetv2_x2_0-8be3c8ee.pth"),
    ],
)
def test_pretrained_weights_come_from_torchvision(tmp_path, monkeypatch, width, file):
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    published = create_backbone("shufflenet", 1000, width=width).state_dict()
    torch.save(published, tmp_path / "hub" / "checkpoints" / file)  # where torch.hub looks before it downloads
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert same(create_backbone("shufflenet", 1000, pretrained=True, width=width), published, but=("none",))
    assert same(create_backbone("shufflenet", 0, pretrained=True, width=width), published, but="fc.")
    model = create_backbone("shufflenet", 11, pretrained=True, width=width, in_chans=1, attention="scse")
    assert same(model, published, but=("fc.", "conv1.0."))
    torch.testing.assert_close(model.conv1[0].weight, published["conv1.0.weight"].sum(1, keepdim=True))
