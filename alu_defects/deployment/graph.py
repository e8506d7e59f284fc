"""A trained classifier with all around it: pixels → calibrated probabilities. Exported files are made of it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alu_defects.config import Size
from alu_defects.data.augment import flipped_views
from alu_defects.deployment.places import Places, watch_places
from alu_defects.evaluation.calibration import LARGEST_LOGIT
from alu_defects.evaluation.operating import OperatingPoint
from alu_defects.models.backbone import classifiers
from alu_defects.training.module import Classifier

INPUT = "images"
OUTPUTS = ("probabilities", "features", "maps")


class DecidingNetwork(nn.Module):
    """From decoded pixels to what `OperatingPoint` decides by.

    Args:
        classifier: trained.
        point: its temperature and flips.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, classifier: Classifier, point: OperatingPoint) -> None:
        super().__init__()
        self.backbone, self.loss = classifier.backbone, classifier.loss
        self.register_buffer("mean", classifier.mean.clone())
        self.register_buffer("std", classifier.std.clone())
        self.views = list(flipped_views(point.tta))
        self.calibration = point.calibration
        self.map_weights = class_map_weights(self.backbone)
        self.in_two_steps, self.places, size = look_inside(self.backbone, classifier.hparams["image_size"])
        self.cells = None if self.map_weights is None else self.places.cells(*size)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Of uint8 images (N, H, W, 3) the calibrated probabilities (N, C) and the pooled features (N, F).

        Where the network ends in pooling and one linear layer also the class-activation maps (N, C, h, w): what each
        place adds to the logit of each class (Zhou et al. 2016).
        """
        pixels = self.normalise(images)
        maps = self.backbone.forward_features(pixels)
        features = self.backbone.forward_head(maps, pre_logits=True)
        logits = self.backbone.forward_head(maps) if self.in_two_steps else self.backbone(pixels)
        if others := [self.backbone(pixels.flip(axes)) for axes in self.views[1:]]:
            logits = self.loss.average(torch.stack([logits, *others]))
        if self.calibration.one_against_rest:
            logits = logits.clamp(max=LARGEST_LOGIT)
        found = (logits / self.calibration.temperature).softmax(dim=1), features
        return found if self.map_weights is None else (*found, F.conv2d(maps, self.map_weights))

    def normalise(self, images: Tensor) -> Tensor:
        """Of uint8 images (N, H, W, 3) what the backbone takes."""
        return (images.permute(0, 3, 1, 2).to(torch.float32) / 255 - self.mean) / self.std


def look_inside(backbone: nn.Module, image_size: Size) -> tuple[bool, Places, tuple[int, ...]]:
    """Run a backbone once.

    Returns:
        Whether it gives the logits of `forward_head(forward_features(x))`; one of another package may not. Where its
        maps look; and the height and width of the last.
    """
    images = torch.randn(1, 3, *image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), watch_places(backbone, image_size) as places:
        features = backbone.forward_features(images)  # type: ignore[operator]  # a method of every backbone
        logits = backbone.forward_head(features)  # type: ignore[operator]
        same = torch.allclose(logits, backbone(images), atol=1e-4, rtol=1e-3, equal_nan=True)
    return same, places, tuple(features.shape[2:])


def class_map_weights(backbone: nn.Module) -> Tensor | None:
    """The weights (C, F, 1, 1) that make class-activation maps of the last feature map; None where there are none.

    That is if the head is more than the mean over the map and one linear layer.
    """
    last = classifiers(backbone)
    if len(last) != 1 or not isinstance(last[0], nn.Linear):
        return None
    weights, bias = last[0].weight, last[0].bias
    maps = torch.randn(2, weights.shape[1], 3, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        try:
            logits = backbone.forward_head(maps)  # type: ignore[operator]  # a method of every backbone
        except Exception:  # it takes no such map, as of a transformer
            return None
        expected = F.linear(maps.mean(dim=(2, 3)), weights, bias)
    same = logits.shape == expected.shape and torch.allclose(logits, expected, atol=1e-4, rtol=1e-3)
    return weights.detach()[:, :, None, None] if same else None
