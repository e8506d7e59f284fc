"""One contract for every backbone, as `Backbone` states it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alu_defects.models.attention import SCSE, ChannelSE, SpatialSE
from alu_defects.models.registry import backbone_names, create_backbone

CLASSES = 11
CASES = {name: {} for name in backbone_names()} | {
    "timm/resnet18": {},
    "xception+scse": {"attention": "scse"},
    "shufflenet+cse": {"attention": "cse"},
    "shufflenet+scse": {"attention": "scse", "attention_fusion": "max", "attention_reduction": 4},
    "shufflenet x0.5": {"width": 0.5},
    "shufflenet x1.5": {"width": 1.5},
    "shufflenet x2.0": {"width": 2.0},
}


def make(case):
    return create_backbone(case.partition("+")[0].partition(" ")[0], CLASSES, **CASES[case])


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model(case, images):
    """A backbone after one training step of two images, whose batch norms know the statistics of four.

    With the statistics they start with, random weights let the signal die away, and all images look the same.
    """
    torch.manual_seed(0)
    model = make(case).train()
    F.cross_entropy(model(images[:2]), torch.tensor([0, 1])).backward()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model(images)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def test_every_parameter_gets_a_finite_gradient(model):
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.get_classifier().weight.grad.abs().sum() > 0
    assert next(model.parameters()).grad.abs().sum() > 0


@torch.no_grad()
def test_forward_is_head_of_features(model, images):
    features = model.forward_features(images)
    assert features.shape[:2] == (4, model.num_features)
    assert model.forward_head(features, pre_logits=True).shape == (4, model.num_features)
    logits = model(images)
    assert logits.shape == (4, model.num_classes) == (4, CLASSES)
    assert torch.equal(model.forward_head(features), logits)
    assert torch.equal(model.get_classifier()(model.forward_head(features, pre_logits=True)), logits)


@torch.no_grad()
def test_feature_info_finds_the_last_map(model, images):
    seen = []
    last = model.feature_info[-1]
    hook = model.get_submodule(last["module"]).register_forward_hook(lambda *args: seen.append(args[-1]))
    features = model.forward_features(images[:1])
    hook.remove()
    assert torch.equal(seen[0], features)
    assert last["num_chs"] == model.num_features
    assert last["reduction"] == 32


@torch.no_grad()
def test_evaluation_is_deterministic_and_independent_of_the_batch(model, images):
    assert torch.equal(model(images), model(images))
    # in float64: random weights multiply the rounding of float32
    model, images = copy.deepcopy(model).double(), images.double()
    together = model(images)
    assert together.std(dim=0).max() > 1e-3  # or the comparison below compares constants
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)


def test_trains_and_evaluates_in_channels_last_and_bf16(model, images):
    model, images = copy.deepcopy(model).double(), images.double()
    with torch.no_grad():
        expected = model(images)
        model, images = (it.to(memory_format=torch.channels_last) for it in (model, images))
        torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-6)
    model.float().train().zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images[:2].float())
    assert logits.dtype == torch.bfloat16  # no comparison: random weights multiply the rounding beyond recognition
    F.cross_entropy(logits.float(), torch.tensor([0, 1])).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@torch.no_grad()
def test_smallest_image_size(model, case):
    size, _ = model.min_input_size
    assert model(torch.rand(1, 3, *model.min_input_size)).isfinite().all()
    if "inception" in case:
        assert size == 75
        with pytest.raises(RuntimeError):
            model(torch.rand(1, 3, size - 1, size - 1))


@torch.no_grad()
def test_copies_and_saved_states_compute_the_same(model, case, images):
    expected = model(images)
    assert torch.equal(copy.deepcopy(model)(images), expected)
    other = make(case).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images), expected)


@torch.no_grad()
def test_reset_classifier(model, images):
    model = copy.deepcopy(model)
    features = model.forward_head(model.forward_features(images[:1]), pre_logits=True)
    model.reset_classifier(5)
    assert model.num_classes == model.get_classifier().out_features == 5
    assert model(images[:1]).shape == (1, 5)
    model.reset_classifier(0)
    assert torch.equal(model(images[:1]), features)


def test_normalisation_equals_the_published_weights(model, case):
    half = "inception" in case or "xception" in case
    assert model.input_mean == ((0.5, 0.5, 0.5) if half else (0.485, 0.456, 0.406))
    assert model.input_std == ((0.5, 0.5, 0.5) if half else (0.229, 0.224, 0.225))


def parameters(name, classes, **options):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create_backbone(name, classes, **options).parameters())


@pytest.mark.parametrize(
    ("name", "at_1000", "at_11"),
    [
        ("inceptionv4", 42_679_816, 41_159_723),
        ("xception", 22_855_952, 20_829_491),
        ("shufflenet", 2_278_604, 1_264_879),
    ],
)
def test_parameter_counts(name, at_1000, at_11):
    assert (parameters(name, 1000), parameters(name, 11)) == (at_1000, at_11)


@pytest.mark.parametrize(
    ("name", "reduction", "extra"),
    [
        ("inceptionv4_scse", 16, 1_903_438),
        ("inceptionv4_scse", 2, 15_041_038),
        ("inceptionv4_cse", 16, 1_890_112),
        ("inceptionv4_sse", 16, 13_326),
    ],
)
def test_parameter_counts_of_attention(name, reduction, extra):
    assert parameters(name, CLASSES, attention_reduction=reduction) - parameters("inceptionv4", CLASSES) == extra


@pytest.mark.parametrize(
    ("name", "kind", "stages", "blocks"),
    [
        ("inceptionv4_scse", SCSE, None, 14),
        ("inceptionv4_cse", ChannelSE, ["a"], 4),
        ("inceptionv4_sse", SpatialSE, ["b"], 7),
        ("inceptionv4_scse", SCSE, "c", 3),
        ("xception", SCSE, None, 12),
        ("xception", SCSE, ["middle"], 8),
        ("shufflenet", SCSE, None, 16),
        ("shufflenet", SCSE, [2, 4], 8),
    ],
)
def test_attention_follows_the_blocks(name, kind, stages, blocks):
    attention = "none" if "_" in name else "scse"
    with torch.device("meta"):
        model = create_backbone(name, CLASSES, attention=attention, attention_stages=stages)
    found = [path for path, module in model.named_modules() if type(module) is kind]
    assert len(found) == blocks
    assert all(path.endswith(".attention") for path in found)
    if "inception" in name:  # the name says "after each Inception block"
        blocks_of = [type(model.get_submodule(path.removesuffix(".attention"))).__name__ for path in found]
        assert set(blocks_of) <= {"InceptionA", "InceptionB", "InceptionC"}
