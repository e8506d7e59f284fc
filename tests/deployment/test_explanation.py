"""Maps lie on what decided, as networks with a known answer show: class-activation maps, Grad-CAM and gates."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from alu_defects.data.augment import FLIPS
from alu_defects.data.decode import place_in_frame
from alu_defects.deployment.bundle import Bundle
from alu_defects.deployment.explanation import Explainer
from alu_defects.deployment.graph import DecidingNetwork
from alu_defects.deployment.heat import strength
from alu_defects.deployment.predictor import Predictor
from alu_defects.deployment.torch_network import computing
from alu_defects.errors import UserError
from alu_defects.evaluation.calibration import Calibration
from alu_defects.evaluation.operating import OperatingPoint
from alu_defects.models.attention import SCSE, attach
from alu_defects.models.registry import create_backbone
from alu_defects.training.losses import CrossEntropy


class Bright(nn.Module):
    """Says bright if any place is; its first convolution has its middles left and above of an even grid."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.late = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 2, 5, stride=4, padding=2)
        self.classifier = nn.Linear(2, 2)
        for layer in (self.early, self.late):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
            nn.init.constant_(layer.bias, -0.02)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.tensor([[2.0, 2.0], [-2.0, -2.0]]))
            self.classifier.bias.copy_(torch.tensor([-0.001, 0.001]))
        self.feature_info = [
            {"module": "early", "num_chs": 4, "reduction": 2},
            {"module": "late", "num_chs": 2, "reduction": 8},
        ]
        attach(self.early, attention := SCSE(4))
        nn.init.ones_(attention.sse.squeeze.weight)
        self.attention_points = {"a": {"early": 4}}

    def forward_features(self, images):
        return self.late(self.early(images).relu()).relu()

    def forward_head(self, maps, pre_logits=False):
        features = maps.mean(dim=(2, 3))
        return features if pre_logits else self.classifier(features)

    def forward(self, images):
        return self.forward_head(self.forward_features(images))

    def get_classifier(self):
        return self.classifier


def explainer(
    backbone: nn.Module, size: tuple[int, int], resize: str = "squash", *, flips: Any = (), layer: str | None = None
) -> Explainer:
    names = ["bright", "dark"] + ["other"] * (backbone.get_classifier().out_features - 2)
    mean = torch.zeros(1, 3, 1, 1)
    classifier = SimpleNamespace(
        backbone=backbone.eval(), loss=CrossEntropy(), mean=mean, std=mean + 1, hparams={"image_size": size}
    )
    point = OperatingPoint(names, Calibration(1.0, 100), None, 0.0, tta=list(flips))
    network = DecidingNetwork(cast(Any, classifier), point).eval()
    bundle = Bundle(
        names, names, size, resize, 8, [0] * 3, [1] * 3, point.calibration, point.tta, None, None, 0.0,
        {"model": "own"}, temperature_inside=1.0, cells=network.cells,
    )  # fmt: skip
    return Explainer(Predictor(bundle, computing(network, torch.device("cpu")), Path("x")), network, layer)


@pytest.mark.parametrize("corner", list(itertools.product((0.2, 0.8), (0.15, 0.85))))
@pytest.mark.parametrize(
    ("resize", "flips", "whole", "size"),
    [
        ("squash", [], (320, 240), (64, 64)),
        ("squash", list(FLIPS), (320, 240), (64, 128)),
        ("letterbox", [], (320, 240), (64, 64)),
        ("letterbox", list(FLIPS), (200, 600), (64, 96)),
        ("letterbox", ["horizontal_flip"], (600, 200), (96, 64)),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_the_hottest_place_is_the_bright_square(tmp_path, *, corner, resize, flips, whole, size, turned):
    """In the image as it is looked at; the square alone is bright, and the frame of a letterbox is grey."""
    width, height = whole
    row, column, half = round(corner[0] * height), round(corner[1] * width), min(whole) // 8
    pixels = np.zeros((height, width), np.uint8)
    pixels[row - half : row + half, column - half : column + half] = 250
    image, exif = Image.fromarray(pixels), Image.Exif()
    if turned:
        image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
    image.save(file := tmp_path / "square.png", exif=exif)
    found = explainer(Bright(), size, resize, flips=flips)
    network = found.network
    if resize == "letterbox":  # grey is dark
        network.mean.fill_(0.51)
    explained = found.explain(file, "dark")
    assert explained.decision.label == "bright"
    titles = [panel.title for panel in explained.panels]
    assert titles == [
        "image",
        "what speaks for bright",
        "what speaks for dark",
        "Grad-CAM of early: bright",
        "places that attention lets pass, stage a",
    ]
    shown = explained.panels[0].image.astype(int)
    assert shown.shape == (height, width, 3)
    assert (explained.panels[2].image == shown).all()  # nothing speaks for it
    left, top, right, bottom = place_in_frame(whole, size, resize)
    for panel in (explained.panels[1], *explained.panels[3:]):
        heat = abs(panel.image - shown)[:, :, 2] / np.where(shown[:, :, 2] > 100, 86, 164)  # blue: of yellow over each
        rows, columns = np.nonzero(heat > 0.97 * heat.max())
        away = abs(rows.mean() - row) * (bottom - top) / height, abs(columns.mean() - column) * (right - left) / width
        assert max(away) < (5 if panel is explained.panels[1] else 4), panel.title  # pixels of the frame; cells: 8, 2


@pytest.mark.parametrize(("row", "column"), [(24, 40), (48, 8), (8, 56)])
def test_a_square_in_the_middle_of_what_a_cell_sees_is_found_to_the_pixel(tmp_path, row, column):
    pixels = np.zeros((64, 64), np.uint8)
    pixels[row - 2 : row + 3, column - 2 : column + 3] = 140
    Image.fromarray(pixels).save(file := tmp_path / "square.png")
    explained = explainer(Bright(), (64, 64)).explain(file)
    for panel in (explained.panels[1], explained.panels[2]):
        brightness = panel.image.astype(int).sum(axis=2)  # the square's own is the same everywhere
        rows, columns = np.nonzero(brightness == brightness.max())
        assert (rows.mean(), columns.mean()) == pytest.approx((row, column), abs=1), panel.title


def test_grad_cam_of_the_last_map_is_the_class_activation_map(tmp_path):
    """Selvaraju et al. 2017, section 3.1: of pooling and one linear layer they are the same but for a constant."""
    torch.manual_seed(0)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(
        file := tmp_path / "noise.png"
    )
    backbone = create_backbone("shufflenet", 2)
    with torch.no_grad():  # so that something speaks for it
        backbone.fc.bias.zero_()
        backbone.fc.weight.abs_().mul_(torch.tensor([[1.0], [-1.0]]))
    found = explainer(backbone, (64, 96), layer="conv5")
    explained = found.explain(file)
    cam, grad_cam = explained.panels[1].image.astype(int), explained.panels[2].image.astype(int)
    assert abs(cam - explained.panels[0].image).max() > 30
    assert abs(cam - grad_cam).max() <= 1


@pytest.mark.parametrize("layer", [None, "conv1", "maxpool", "stage2"])
def test_nothing_stays_in_the_network(tmp_path, layer):
    backbone = create_backbone("shufflenet", 2, attention="scse")
    before = {name: len(module._forward_hooks) for name, module in backbone.named_modules()}
    Image.new("L", (50, 40), 90).save(file := tmp_path / "grey.png")
    found = explainer(backbone, (64, 64), layer=layer)
    explained = found.explain(file)
    assert found.layer == (layer or "stage3")
    assert {name: len(module._forward_hooks) for name, module in backbone.named_modules()} == before
    assert not any(module._forward_pre_hooks for module in backbone.modules())
    assert all(weight.grad is None for weight in backbone.parameters())
    assert explained.notes == [  # as they start
        f"mean gate of attention, stage {stage}: places 0.50 (0.50 to 0.50), channels 0.50 (0.50 to 0.50)"
        for stage in (2, 3, 4)
    ]


def test_channel_gates_alone_are_told_without_a_picture(tmp_path):
    Image.new("L", (50, 40), 90).save(file := tmp_path / "grey.png")
    explained = explainer(create_backbone("shufflenet", 2, attention="cse"), (64, 64)).explain(file)
    assert [panel.title for panel in explained.panels[2:]] == [f"Grad-CAM of stage3: {explained.decision.label}"]
    assert explained.notes[0] == "mean gate of attention, stage 2: channels 0.50 (0.50 to 0.50)"


def test_a_layer_that_is_not_there_or_gives_no_map_is_named():
    backbone = create_backbone("shufflenet", 2)
    with pytest.raises(UserError, match=r"layer=stage5 does not exist; did you mean .* There are: conv1, maxpool, "):
        explainer(backbone, (64, 64), layer="stage5")
    transformer = create_backbone("timm/vit_tiny_patch16_224", 2, image_size=(32, 32))
    with pytest.raises(UserError, match=r"layer=blocks\.11 of own gives no map"):
        explainer(transformer, (32, 32))
    assert not any(module._forward_hooks for module in transformer.modules())


def test_maps_that_are_compared_have_one_scale():
    found = strength(np.array([[[4.0, -1]], [[1.0, 2]]]))
    np.testing.assert_array_equal(found, [[[1, 0]], [[0.25, 0.5]]])
