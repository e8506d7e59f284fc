"""Where the cells of a map look is where the gradient of each cell is."""

import numpy as np
import pytest
import torch
from torch import nn

from alu_defects.deployment.graph import look_inside
from alu_defects.deployment.places import watch_places
from alu_defects.models.registry import create_backbone


def gradient_middles(features, images: torch.Tensor) -> np.ndarray:
    """The middle in pixels (h, w, 2) of what each cell of a map depends on."""
    images = images.clone().requires_grad_()
    maps = features(images)
    found = np.empty((*maps.shape[2:], 2))
    for row, column in np.ndindex(found.shape[:2]):
        (gradient,) = torch.autograd.grad(maps[:, :, row, column].square().sum(), images, retain_graph=True)
        weight = gradient.square().sum((0, 1)).double().numpy()
        found[row, column] = [(weight.sum(1 - k) * np.arange(images.shape[2 + k])).sum() / weight.sum() for k in (0, 1)]
    return found


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 8, 4, stride=4)],
        [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.MaxPool2d(3, 2, 1)],
        [nn.Conv2d(3, 8, 7, stride=2), nn.Conv2d(8, 8, (1, 5)), nn.AvgPool2d(2, 2)],
        [nn.Conv2d(3, 8, 3, stride=(1, 3), dilation=2), nn.MaxPool2d(2, ceil_mode=True)],
    ],
)
def test_cells_lie_in_the_middle_of_what_they_depend_on(layers):
    torch.manual_seed(0)
    network, images = nn.Sequential(*layers), torch.randn(60, 3, 29, 46)
    for layer in layers:
        for weights in layer.parameters():
            nn.init.ones_(weights)
    with watch_places(network, (29, 46)) as places:
        height, width = network(images).shape[2:]
    top, left, down, across = places.cells(height, width)
    rows, columns = top + down * np.arange(height), left + across * np.arange(width)
    expected = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=2)
    difference = (gradient_middles(network, images) - expected)[1:-1, 1:-1]  # the border depends on padding
    assert abs(difference).max() < 1
    assert abs(difference.mean((0, 1))).max() < 0.2


@pytest.mark.parametrize("name", ["shufflenet", "inceptionv4", "timm/resnet18", "timm/convnext_atto"])
def test_maps_of_networks_lie_where_their_gradients_are(name):
    """On average: near the border they are drawn to the middle."""
    torch.manual_seed(0)
    backbone, size = create_backbone(name, 3).eval(), (128, 160)
    _, places, (height, width) = look_inside(backbone, size)
    top, left, down, across = places.cells(height, width)
    assert (down, across) == (32, 32)
    middle = np.array([top + down * (height - 1) / 2, left + across * (width - 1) / 2])
    found = gradient_middles(backbone.forward_features, torch.randn(2, 3, *size)).mean((0, 1))
    assert abs(found - middle).max() < 9  # a cell is 32


def test_hooks_are_removed_and_an_unknown_map_is_spread_evenly():
    network = nn.Conv2d(3, 4, 3)
    with watch_places(network, (40, 80)) as places:
        pass
    assert not network._forward_hooks
    assert places.cells(4, 4) == (4.5, 9.5, 10, 20)
