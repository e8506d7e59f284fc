"""Random changes of whole batches, on the device; none of them at evaluation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import CutMix, MixUp, RandomChoice, Transform

FLIPS = {"horizontal_flip": 3, "vertical_flip": 2}  # option of `Augment` → axis of (B, C, H, W)

ERASED_SHARE, ERASED_ASPECT = (0.02, 1 / 3), 0.3  # of the area; the least height to width, both as in timm

_U64 = np.uint64


def augmentation_numbers(seed: int, epoch: int, index: Tensor, count: int, repeat: Tensor | None = None) -> Tensor:
    """Random numbers that depend on these arguments alone: not on batch, worker or what was drawn before.

    SplitMix64 (Steele, Lea, Flood 2014) as a hash of the counters. `repeat` (B,) says how often an image was used
    before in the epoch; None: never.

    Returns:
        float32 (B, count) in [0, 1), on the CPU, where the index must be: fetching it from a GPU would stop the queue.
    """
    columns = np.arange(count, dtype=_U64)[None, :]
    used = 0 if repeat is None else repeat.numpy().astype(_U64)[:, None] << _U64(32)
    state = index.numpy().astype(_U64)[:, None] ^ used
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
    """Random changes of single images, and mixtures of two; 0 or false switches each off, 1 in the case of `crop`.

    Attributes:
        horizontal_flip, vertical_flip: flip half of the images.
        degrees: rotate by up to this angle either way.
        translate: shift by up to this fraction of the side either way.
        scale: enlarge or shrink by up to this fraction.
        crop: the least share of the area that is kept, enlarged to the whole frame with the same aspect ratio.
        brightness: add up to this fraction of the full range either way.
        contrast: stretch about the image's mean by up to this fraction either way.
        saturation: strengthen or weaken colours by up to this fraction; 1 is from grey to twice as strong.
        blur: the largest standard deviation in pixels of a Gaussian blur.
        noise: the largest standard deviation of noise, as a fraction of the full range.
        erase: probability of filling a rectangle with the image's mean colour (Zhong et al. 2020).
        mixup: alpha of the beta distribution of MixUp (Zhang et al. 2018).
        cutmix: alpha of that of CutMix (Yun et al. 2019); with both one of them, at random, for each batch.
    """

    horizontal_flip: bool = True
    vertical_flip: bool = False
    degrees: float = 5.0
    translate: float = 0.05
    scale: float = 0.1
    brightness: float = 0.1
    contrast: float = 0.2
    saturation: float = 0.0
    crop: float = 1.0
    blur: float = 0.0
    noise: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    COUNT: ClassVar = 19  # random numbers an image

    def __call__(self, images: Tensor, random: Tensor) -> Tensor:
        """Change float images (B, C, H, W) in [0, 1]; each by its own random numbers in [0, 1), (B, COUNT).

        The pixels of the noise are drawn by PyTorch's generator of the device, which `EpochSeed` seeds.
        """
        sign = 2 * random - 1
        if self.degrees or self.translate or self.scale or self.crop < 1:
            images = self._affine(images, random, sign)
        else:
            for column, (flip, axis) in enumerate(FLIPS.items()):
                if getattr(self, flip):
                    images = torch.where((random[:, column] < 0.5)[:, None, None, None], images.flip(axis), images)
        if self.saturation or self.contrast or self.brightness:
            images = self._colour(images, sign)
        if self.blur:
            images = _blur(images, self.blur * random[:, 12], math.ceil(3 * self.blur))
        if self.noise:
            strength = (self.noise * random[:, 13])[:, None, None, None]
            images = torch.addcmul(images, torch.randn_like(images), strength).clamp_(0, 1)
        return self._erase(images, random[:, 14:19]) if self.erase else images

    def mix(self, images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Mix each image of a batch with the one before, by PyTorch's generator of the CPU, which `EpochSeed` seeds.

        Labels int64 (B,) become the share of each class, float32 (B, C); they stay as they are where nothing is mixed.
        """
        if not (self.mixup or self.cutmix):
            return images, labels
        mixed: tuple[Tensor, Tensor] = _mixture(self.mixup, self.cutmix, num_classes)(images, labels)
        return mixed

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
        shift = 2 * self.translate * sign[:, 4:6]  # grid_sample's frame is 2 wide, and 2 high
        aspect = images.shape[2] / images.shape[3]  # so that pixels are rotated, not the coordinates of that frame
        rows = (cos * flip_x, -sin * flip_x * aspect, shift[:, 0]), (sin * flip_y / aspect, cos * flip_y, shift[:, 1])
        theta = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
        if self.crop < 1:
            side = (1 - (1 - self.crop) * u[:, 9]).sqrt()[:, None, None]
            place = (1 - side) * sign[:, 10:12, None]  # of the centre: the window stays inside the frame
            theta = torch.cat([theta[:, :, :2] * side, theta[:, :, 2:] + theta[:, :, :2] @ place], dim=2)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    def _erase(self, images: Tensor, u: Tensor) -> Tensor:
        """Erase a rectangle of random area, aspect ratio and place; by numbers (B, 5)."""
        low, high = ERASED_SHARE
        side = (low + (high - low) * u[:, 1]).sqrt()
        stretch = ERASED_ASPECT ** (u[:, 2] - 0.5)  # the root of the aspect ratio
        erased = (u[:, 0] < self.erase)[:, None, None]
        for axis, share, place in ((2, side * stretch, u[:, 3]), (3, side / stretch, u[:, 4])):
            pixels, size = images.shape[axis], share.clamp(max=1)[:, None]
            first = (1 - size) * place[:, None]
            centres = (torch.arange(pixels, device=images.device) + 0.5) / pixels
            erased = erased & ((centres >= first) & (centres < first + size)).unsqueeze(4 - axis)
        return torch.where(erased[:, None], images.mean(dim=(2, 3), keepdim=True), images)


def flipped_views(flips: Sequence[str]) -> list[tuple[int, ...]]:
    """The axes along which to flip an image to see it in every way that these flips make, first as it is."""
    views: list[tuple[int, ...]] = [()]
    for name in flips:
        views += [(*axes, FLIPS[name]) for axes in views]
    return views


def _blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur each image by a Gaussian of its own standard deviation in pixels (B,); torchvision's has one for all."""
    batch, channels, height, _ = images.shape
    distance = torch.arange(-radius, radius + 1, device=images.device)
    weight = torch.exp(-0.5 * (distance / sigma.clamp(min=1e-3)[:, None]) ** 2)
    weight = (weight / weight.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)[:, None, None]
    planes = F.pad(images, (radius,) * 4, mode="replicate").view(1, batch * channels, height + 2 * radius, -1)
    for kernel in (weight, weight.transpose(2, 3)):
        planes = F.conv2d(planes, kernel, groups=batch * channels)
    return planes.view(images.shape)


@cache
def _mixture(mixup: float, cutmix: float, num_classes: int) -> Transform:
    """torchvision's: timm's draws from NumPy, whose generator a resumed run does not find as it was."""
    alphas = ((MixUp, float(mixup)), (CutMix, float(cutmix)))  # PyTorch's beta distribution takes no integer
    kinds = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in alphas if alpha]
    return kinds[0] if len(kinds) == 1 else RandomChoice(kinds)
