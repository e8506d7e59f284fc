"""Random changes of whole batches, on the device; none of them at evaluation."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_U64 = np.uint64


def augmentation_numbers(seed: int, epoch: int, index: Tensor, count: int) -> Tensor:
    """Random numbers that depend on (seed, epoch, index) alone: not on batch, worker or what was drawn before.

    SplitMix64 (Steele, Lea, Flood 2014) as a hash of the four counters.

    Returns:
        float32 (B, count) in [0, 1), on the CPU, where the index must be: fetching it from a GPU would stop the queue.
    """
    columns = np.arange(count, dtype=_U64)[None, :]
    state = index.numpy().astype(_U64)[:, None]
    for value in (_U64(seed & 0xFFFFFFFF), _U64(epoch), columns):
        state = _mix(state ^ _mix(value + np.zeros_like(columns)))
    return torch.from_numpy((state >> _U64(40)).astype(np.float32) / np.float32(2**24))


def _mix(z: Any) -> Any:
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        z = z + _U64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> _U64(27))) * _U64(0x94D049BB133111EB)
    return z ^ (z >> _U64(31))


def as_float(images: Tensor) -> Tensor:
    """Map uint8 images to [0, 1], float32 (B, C, H, W), each channel a plane, which is fastest to work on."""
    return images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


@dataclass(frozen=True)
class Augment:
    """Flips, small affine changes, brightness, contrast and colour; 0 or false switches each off.

    Attributes:
        horizontal_flip, vertical_flip: flip half of the images.
        degrees: rotate by up to this angle either way.
        translate: shift by up to this fraction of the side either way.
        scale: enlarge or shrink by up to this fraction.
        brightness: add up to this fraction of the full range either way.
        contrast: stretch about the image's mean by up to this fraction either way.
        saturation: strengthen or weaken colours by up to this fraction; 1 is from grey to twice as strong.
    """

    horizontal_flip: bool = True
    vertical_flip: bool = False
    degrees: float = 5.0
    translate: float = 0.05
    scale: float = 0.1
    brightness: float = 0.1
    contrast: float = 0.2
    saturation: float = 0.0

    COUNT: ClassVar = 9  # random numbers an image

    def __call__(self, images: Tensor, random: Tensor) -> Tensor:
        """Change float images (B, C, H, W) in [0, 1]; each by its own random numbers in [0, 1), (B, COUNT)."""
        sign = 2 * random - 1
        if self.degrees or self.translate or self.scale:
            images = self._affine(images, random, sign)
        else:
            for enabled, column, axis in ((self.horizontal_flip, 0, 3), (self.vertical_flip, 1, 2)):
                if enabled:
                    images = torch.where((random[:, column] < 0.5)[:, None, None, None], images.flip(axis), images)
        if self.saturation or self.contrast or self.brightness:
            images = self._colour(images, sign)
        return images

    def _colour(self, images: Tensor, sign: Tensor) -> Tensor:
        """All three are linear in the channels of a pixel, and so one matrix: a third of the time of one by one."""
        channels = images.shape[1]
        saturation = (1 + self.saturation * sign[:, 8])[:, None, None]
        gain = (1 + self.contrast * sign[:, 6])[:, None, None]
        grey = images.new_full((channels, channels), 1 / channels)
        matrix = gain * (grey + saturation * (torch.eye(channels, device=images.device) - grey))
        mean = images.mean(dim=(1, 2, 3))[:, None, None]  # saturation keeps it
        offset = mean * (1 - gain) + (self.brightness * sign[:, 7])[:, None, None]
        return torch.baddbmm(offset, matrix, images.flatten(2)).clamp_(0, 1).view_as(images)

    def _affine(self, images: Tensor, u: Tensor, sign: Tensor) -> Tensor:
        """Flip, rotate, scale and shift in one resampling; edges are mirrored, so that no black corners appear."""
        angle = sign[:, 2] * math.radians(self.degrees)
        zoom = 1 + self.scale * sign[:, 3]
        flip_x = torch.where(u[:, 0] < 0.5, -1.0, 1.0) if self.horizontal_flip else torch.ones_like(angle)
        flip_y = torch.where(u[:, 1] < 0.5, -1.0, 1.0) if self.vertical_flip else torch.ones_like(angle)
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        shift = 2 * self.translate * sign[:, 4:6]  # grid_sample's frame is 2 wide
        aspect = images.shape[3] / images.shape[2]  # both sides are 2 there, but angles are of pixels
        rows = (cos * flip_x, -sin / aspect * flip_x, shift[:, 0]), (sin * aspect * flip_y, cos * flip_y, shift[:, 1])
        theta = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
