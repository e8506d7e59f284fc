"""The network that is exported gives the probabilities that evaluation does."""

import itertools
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from alu_defects.data.augment import FLIPS, as_float, flipped_views
from alu_defects.deployment.graph import DecidingNetwork, class_map_weights
from alu_defects.evaluation.calibration import Calibration
from alu_defects.evaluation.operating import OperatingPoint
from alu_defects.training import losses

SIZE = (12, 20)


class Small(nn.Module):
    """A backbone whose answer changes when an image is flipped."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.classifier, self.scale = nn.Conv2d(3, 8, 5), nn.Linear(8, 3), scale

    def forward_features(self, images):
        ramp = torch.linspace(0, 1, images.shape[2])[:, None] * torch.linspace(0, 2, images.shape[3])
        return self.convolution(images * ramp).relu()

    def forward_head(self, maps, pre_logits=False):
        features = maps.mean(dim=(2, 3))
        return features if pre_logits else self.scale * self.classifier(features)

    def forward(self, images):
        return self.forward_head(self.forward_features(images))

    def get_classifier(self):
        return self.classifier


class InOneStep(Small):
    def forward(self, images):
        return super().forward(images).flip(1)


class ActiveHead(Small):
    def forward_head(self, maps, pre_logits=False):
        return super().forward_head(maps.relu(), pre_logits)


def deciding(backbone: nn.Module, loss: losses.CrossEntropy, flips: list[str]) -> tuple[DecidingNetwork, Any]:
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1)
    classifier = SimpleNamespace(backbone=backbone, loss=loss, mean=mean, std=std, hparams={"image_size": SIZE})
    calibration = Calibration(1.7, 100, one_against_rest=isinstance(loss, losses.Binary))
    point = OperatingPoint(["a", "b", "c"], calibration, None, 0.0, tta=flips)
    return DecidingNetwork(cast(Any, classifier), point).eval(), classifier


@pytest.mark.parametrize(
    ("loss", "flips", "backbone"),
    [
        *itertools.product(
            (losses.CrossEntropy(), losses.Binary()), ([], ["horizontal_flip"], list(FLIPS)), (Small(), Small(40.0))
        ),
        (losses.CrossEntropy(), [], InOneStep()),
        (losses.CrossEntropy(), list(FLIPS), InOneStep()),
    ],
)
def test_probabilities_are_those_of_evaluation(loss, flips, backbone):
    network, classifier = deciding(backbone, loss, flips)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, *SIZE, 3), dtype=np.uint8))
    images = as_float(pixels.permute(0, 3, 1, 2))
    with torch.no_grad():
        views = torch.stack(
            [backbone((images.flip(axes) - classifier.mean) / classifier.std) for axes in flipped_views(flips)]
        )
        raw = loss.probabilities(loss.average(views) if flips else views[0]).double().numpy()
        found = network(pixels)[0].numpy()
    np.testing.assert_allclose(found, network.calibration.apply(raw), atol=1e-5)
    assert len(np.unique(found.round(3), axis=0)) > 1


def test_class_maps_add_up_to_the_logits():
    network, classifier = deciding(Small(), losses.CrossEntropy(), [])
    pixels = torch.randint(0, 256, (2, *SIZE, 3), dtype=torch.uint8)
    with torch.no_grad():
        _, features, maps = network(pixels)
        logits = classifier.backbone((pixels.permute(0, 3, 1, 2) / 255 - classifier.mean) / classifier.std)
        torch.testing.assert_close(maps.mean(dim=(2, 3)) + classifier.backbone.classifier.bias, logits)
        torch.testing.assert_close(classifier.backbone.classifier(features), logits)


def test_a_head_with_an_activation_has_no_class_maps():
    assert class_map_weights(ActiveHead().eval()) is None
