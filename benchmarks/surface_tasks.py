"""Which task on generated surfaces teaches most? Trains one network a task: `python benchmarks/surface_tasks.py`.

    kinds          tell the kinds of defects apart, each image on a texture of its own
    pairs          the same, on pairs of images that are alike but for the defect
    attributes     the kind, and its size, strength and form, and the texture's contrast, grain and direction
    places         the kind, and the share of the defect in each cell of the last map
    classes_1100   100 textures with ten defects or none, each with fixed parameters
    classes_3000   600 textures with four defects or none

All see as many images in as many steps. What each is worth on other images, `learning.py transfer model.steps=400
--weights <task>=<scratch>/<task>.safetensors` measures; learning_tasks.csv has such rows, after `--steps 2000`.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from alu_defects.data.augment import Augment, as_float
from alu_defects.models.registry import create_backbone
from alu_defects.synthetic.surface_defects import KINDS
from alu_defects.synthetic.surface_set import Recipe, Surface, SurfaceOptions, draw, draw_surface, recipe
from alu_defects.synthetic.surfaces import Noise

SIDE = 128  # pixels
CELLS = 4  # of the last map at this side, along each axis
NUMBERS = 12  # attributes


class Set(NamedTuple):
    """Images and what is to be learned of them."""

    images: NDArray[np.uint8]  # (N, side, side, 3), a file
    labels: NDArray[np.int64]  # (N,)
    kinds: NDArray[np.int64]  # (N,) 0: good
    numbers: NDArray[np.float32]  # (N, NUMBERS); NaN: has none
    cells: NDArray[np.float32]  # (N, CELLS, CELLS) share of each cell that is defective


def _own_textures(images: int) -> Iterator[Surface]:
    """Each image has a texture of its own, and kinds take turns."""
    yield from _class_set(SurfaceOptions(images, images, len(KINDS), SIDE, seed=1), stride=len(KINDS) + 2)


def _class_set(options: SurfaceOptions, stride: int = 1) -> Iterator[Surface]:
    for index in range(options.images):
        yield draw_surface(options, index * stride)


def _pairs(images: int) -> Iterator[Surface]:
    options = SurfaceOptions(images, images, len(KINDS), SIDE, seed=2)
    for index in range(images // 2):
        made = recipe(options, index * (len(KINDS) + 1) + 1 + index % len(KINDS))
        assert made.defect
        for strength in (1.0, 0.0):
            defect = made.defect.__class__(**{**vars(made.defect), "strength": made.defect.strength * strength})
            surface = draw(Recipe(made.texture, defect), np.random.default_rng([2, index]), SIDE)
            yield surface if strength else Surface(surface.pixels, surface.mask & False, Recipe(made.texture, None))


SETS: dict[str, Callable[[int], Iterator[Surface]]] = {
    "own_textures": _own_textures,
    "pairs": _pairs,
    "classes_1100": lambda images: _class_set(SurfaceOptions(images, 100, 10, SIDE, seed=0)),
    "classes_3000": lambda images: _class_set(SurfaceOptions(images, 600, 4, SIDE, seed=0)),
}
TASKS = {  # task → set, labels
    "kinds": ("own_textures", "kinds"),
    "pairs": ("pairs", "kinds"),
    "attributes": ("own_textures", "kinds"),
    "places": ("own_textures", "kinds"),
    "classes_1100": ("classes_1100", "labels"),
    "classes_3000": ("classes_3000", "labels"),
}


def _attributes(made: Recipe) -> list[float]:
    """Numbers of about mean 0 and standard deviation 1; of a good surface only those of the texture."""
    noise = next((layer.source for layer in made.texture.layers if isinstance(layer.source, Noise)), None)
    grain = [math.log(noise.centre / 10), noise.octaves - 1, math.log(noise.stretch)] if noise else [math.nan] * 3
    texture = [math.log(made.texture.contrast / 0.04), 4 * (made.texture.level - 0.5), *grain]
    d = made.defect
    if d is None:
        return [*texture, *[math.nan] * (NUMBERS - len(texture))]
    form = [3.4 * (value - 0.5) for value in (d.slender, d.ragged, d.number)]
    return [*texture, math.log(d.size / 0.19), float(d.polarity), *form, 2 * math.log(d.strength / 1.2), 0.0]


def load(name: str, images: int, scratch: Path) -> Set:
    """The set `name`, generated once."""
    file = scratch / f"{name}_{images}.npy"
    if not file.exists():
        known = {kind: number for number, kind in enumerate(KINDS, start=1)}
        part = file.with_suffix(".part")
        pixels = np.lib.format.open_memmap(part, "w+", np.uint8, (images, SIDE, SIDE, 3))
        kinds, numbers = np.zeros(images, np.int64), np.full((images, NUMBERS), np.nan, np.float32)
        cells = np.zeros((images, CELLS, CELLS), np.float32)
        for index, surface in enumerate(tqdm(SETS[name](images), total=images, desc=name, mininterval=20)):
            pixels[index] = surface.pixels
            kinds[index] = known[surface.recipe.defect.kind] if surface.recipe.defect else 0
            numbers[index] = _attributes(surface.recipe)
            cells[index] = surface.mask.reshape(CELLS, SIDE // CELLS, CELLS, -1).mean((1, 3))
        pixels.flush()
        np.savez(file.with_suffix(".npz"), kinds=kinds, numbers=numbers, cells=cells)
        part.rename(file)
    about = np.load(file.with_suffix(".npz"))
    classes = int(name.split("_")[1]) if name.startswith("classes") else 1
    labels = np.arange(images) % classes
    return Set(np.load(file, mmap_mode="r"), labels, about["kinds"], about["numbers"], about["cells"])


class Network(nn.Module):
    """ShuffleNet with a head for each thing to learn."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = create_backbone("shufflenet", classes)
        width = self.backbone.num_features
        self.numbers, self.cells = nn.Linear(width, NUMBERS), nn.Conv2d(width, 1, 1)

    def loss(self, task: str, images: Tensor, labels: Tensor, numbers: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and its logits."""
        features = self.backbone.forward_features(images)
        logits = self.backbone.forward_head(features)
        loss = F.cross_entropy(logits, labels)
        if task == "attributes":
            known = ~numbers.isnan()
            loss = loss + F.smooth_l1_loss(self.numbers(features.mean((2, 3)))[known], numbers[known])
        if task == "places":
            loss = loss + 2 * F.binary_cross_entropy_with_logits(self.cells(features)[:, 0], cells)
        return loss, logits


def train(task: str, *, images: int, steps: int, batch: int, scratch: Path) -> dict[str, float]:
    """Train on a task and write the weights; returns how well it was learned."""
    name, kind = TASKS[task]
    data = load(name, images, scratch)
    targets = getattr(data, kind)
    torch.manual_seed(0)
    classes = int(targets.max()) + 1
    model = Network(classes).to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (model.backbone.input_mean, model.backbone.input_std))
    decayed = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": part, "weight_decay": decay} for part, decay in zip(decayed, (0.05, 0.0), strict=True)]
    optimizer = torch.optim.AdamW(groups, lr=0.004, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.004, total_steps=steps)
    flips = {"horizontal_flip": False} if task == "places" else {"vertical_flip": True}  # cells would have to follow
    moves = {"degrees": 0.0, "translate": 0.0, "scale": 0.0} if task == "places" else {}
    augment = Augment(saturation=0.2, **flips, **moves)
    order, rng = np.array([], np.int64), np.random.default_rng(0)
    losses, right = [], []
    bar = tqdm(range(steps), desc=task, mininterval=20)
    for _ in bar:
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(images // 2).repeat(2) * 2 + np.tile([0, 1], images // 2)])
        chosen, order = order[:batch], order[batch:]
        pixels = torch.from_numpy(data.images[np.sort(chosen)]).permute(0, 3, 1, 2)
        chosen = np.sort(chosen)
        x = augment(as_float(pixels), torch.rand(batch, Augment.COUNT))
        x = ((x - mean) / std).contiguous(memory_format=torch.channels_last)
        values = [torch.from_numpy(part[chosen]) for part in (targets, data.numbers, data.cells)]
        with torch.autocast("cpu", torch.bfloat16):
            loss, logits = model.loss(task, x, *values)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        right.append((logits.argmax(1) == values[0]).float().mean().item())
    state = {key: value.contiguous() for key, value in model.backbone.state_dict().items()}
    save_file(state, scratch / f"{task}.safetensors")
    last = max(1, steps // 20)
    return {"classes": classes, "loss": float(np.mean(losses[-last:])), "accuracy": float(np.mean(right[-last:]))}


def main() -> None:
    """Train on tasks that have no weights yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--images", type=int, default=48_000)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--scratch", type=Path, default=Path("runs/learning/tasks"))
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    for task in options.tasks:
        if not (options.scratch / f"{task}.safetensors").exists():
            sizes = {"images": options.images, "steps": options.steps, "batch": options.batch}
            print(task, json.dumps(train(task, **sizes, scratch=options.scratch)), flush=True)


if __name__ == "__main__":
    main()
