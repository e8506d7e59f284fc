import importlib.metadata
import logging
import sys
import types

import pytest
import torch

from alu_defects.errors import UserError
from alu_defects.models import registry
from alu_defects.models.registry import backbone_names, create_backbone, register
from alu_defects.models.shufflenet import shufflenet


@pytest.fixture
def plug_in(monkeypatch):
    """Offer a module as an entry point, and forget it afterwards."""

    def offer(**values):
        points = [importlib.metadata.EntryPoint(name, value, registry.ENTRY_POINTS) for name, value in values.items()]
        monkeypatch.setattr(registry, "entry_points", lambda *, group: [p for p in points if p.group == group])
        registry._load_members.cache_clear()

    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    module = types.ModuleType("someones_backbones")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    offer.module = module
    yield offer
    registry._load_members.cache_clear()


def small(num_classes, *, pretrained=False, in_chans=3, drop_rate=0.0, depth=1):
    """Someone's backbone; ShuffleNet stands in for its layers."""
    model = shufflenet(num_classes, in_chans=in_chans, width=0.5)
    model.depth = depth
    return model


def test_backbones_of_the_paper_exist():
    assert {"inceptionv4", "inceptionv4_scse", "inceptionv4_cse", "inceptionv4_sse", "xception", "shufflenet"} <= set(
        backbone_names()
    )
    assert backbone_names() == sorted(backbone_names())


def test_plug_in_function(plug_in):
    plug_in.module.small = small
    plug_in(someones="someones_backbones:small")
    assert "someones" in backbone_names()
    assert create_backbone("someones", 4, depth=3, attention="sse").depth == 3


def test_plug_in_module_that_registers(plug_in, monkeypatch):
    """As on import: the entry point's load() runs the decorators."""
    monkeypatch.setattr(
        importlib.metadata.EntryPoint, "load", lambda _: register("someones_two")(small) and plug_in.module
    )
    plug_in(whatever="someones_backbones")
    assert "someones_two" in backbone_names()
    assert "whatever" not in backbone_names()
    assert backbone_names() == backbone_names()  # loaded once; twice would collide


def test_broken_plug_in_is_named_and_skipped(plug_in, caplog):
    plug_in.module.small = small
    plug_in(gone="no_such_package.models", someones="someones_backbones:small", xception="someones_backbones:small")
    with caplog.at_level(logging.WARNING):
        known = backbone_names()
    assert "someones" in known
    assert "gone" not in known
    assert "no_such_package" in caplog.text
    assert "'xception' is registered already" in caplog.text


def test_names_are_unique():
    with pytest.raises(ValueError, match=r"'xception' is registered already, by alu_defects.models.xception"):
        register("xception")(small)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("xceptoin", {}, "'xceptoin'; did you mean xception.*All: inceptionv4.*timm/<name>"),
        ("%%%", {}, "Unknown backbone '%%%'. All: "),
        ("timm/resnet1", {}, "timm has no model 'resnet1'; did you mean resnet18"),
        ("timm/resnet18.nobodys", {}, "resnet18.*nobodys"),
        ("timm/resnet18", {"widht": 2}, "resnet18.*widht"),
        ("timm/resnet18", {"attention": "scse"}, "no place in 'timm/resnet18'.*inceptionv4, shufflenet, xception"),
        ("shufflenet", {"widht": 2}, "no option 'widht'; did you mean width"),
        ("shufflenet", {"width": 3}, "width=3; it is one of 0.5, 1.0, 1.5, 2.0"),
        ("shufflenet", {"attention": "scsee"}, "'scsee'; did you mean scse"),
        ("inceptionv4_scse", {"attention": "cse"}, "'inceptionv4_scse' has attention scse, not cse"),
        ("shufflenet", {"pretrained": True, "weights": "a.pth"}, "exclude each other"),
    ],
)
def test_invalid_settings_are_named_with_the_fix(name, options, message):
    with pytest.raises(UserError, match=message):
        create_backbone(name, 4, **options)


@pytest.mark.parametrize("name", ["shufflenet", "xception", "timm/resnet18"])
@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_channels(name, in_chans):
    model = create_backbone(name, 4, in_chans=in_chans).eval()
    assert model(torch.rand(1, in_chans, 64, 64)).shape == (1, 4)
    three = create_backbone("shufflenet", 4).input_mean if name != "xception" else (0.5, 0.5, 0.5)
    expected = (sum(three) / 3,) if in_chans == 1 else (*three, three[0])
    assert model.input_mean == pytest.approx(expected)
    assert len(model.input_std) == in_chans


@pytest.mark.parametrize("name", ["shufflenet", "xception", "inceptionv4", "timm/resnet18"])
def test_dropout_is_before_the_classifier(name):
    model = create_backbone(name, 4, drop_rate=0.5).train()
    features = torch.ones(2, model.num_features, 2, 2)
    dropped = model.forward_head(features)
    assert not torch.allclose(dropped[0], dropped[1])  # two equal maps come out different
    logits = model.eval().forward_head(features)
    torch.testing.assert_close(logits[0], logits[1])


def test_fixed_input_size_is_the_minimum():
    assert create_backbone("timm/vit_tiny_patch16_224", 4).min_input_size == (224, 224)
    model = create_backbone("timm/vit_tiny_patch16_224", 4, img_size=64).eval()
    assert model.min_input_size == (64, 64)
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 4)
