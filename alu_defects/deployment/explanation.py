"""What made a network decide so: class-activation maps, Grad-CAM, and the gates of its attention, over the image."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alu_defects.data.decode import UInt8, read_content
from alu_defects.deployment.bundle import Decision
from alu_defects.deployment.graph import DecidingNetwork
from alu_defects.deployment.heat import strength
from alu_defects.deployment.predictor import Predictor
from alu_defects.errors import UserError, check_choice
from alu_defects.models.attention import SCSE, ChannelSE, SpatialSE


class Panel(NamedTuple):
    """One picture of an explanation."""

    title: str
    image: UInt8  # (H, W, 3)
    note: str = ""


class Explanation(NamedTuple):
    """Why an image was decided so."""

    path: str
    label: str  # that it has; "" where it is not known
    decision: Decision
    panels: list[Panel]  # the image first
    notes: list[str]


class Explainer:
    """Explains decisions on images.

    Args:
        predictor: decides by the network.
        network: in evaluation mode.
        layer: a stage of the backbone, of which Grad-CAM is shown; None: the last whose map is finer than the last map.

    Raises:
        UserError: no such layer.
    """

    def __init__(self, predictor: Predictor, network: DecidingNetwork, layer: str | None = None) -> None:
        self.predictor, self.network = predictor, network
        self.layer = _choose_layer(network.backbone, layer)
        height, width = predictor.bundle.image_size
        self._look(np.zeros((1, height, width, 3), np.uint8), 0)  # raises now, not after an hour of other images

    def explain(self, file: str | Path, label: str = "") -> Explanation:
        """Explain the decision on an image; `label` is the class that it has, if that is known.

        Raises:
            UserError: the layer gives no map.
            Exception: what `data.decode.decode` raises for an image that cannot be decoded.
        """
        content = io.BytesIO(read_content(Path(file)))
        pixels, shown = np.stack([self.predictor.read(content)]), self.predictor.read_to_show(content)
        probabilities, maps = self.predictor.outputs(pixels)
        (decision,) = self.predictor.bundle.decide(probabilities)
        classes = self.predictor.bundle.classes
        panels = [Panel("image", shown)]
        if maps is not None:
            names = [decision.label, *([label] if label in classes and label != decision.label else [])]
            own = maps[0, [classes.index(name) for name in names]]  # of one scale
            for name, heat, values in zip(names, strength(own), own, strict=True):
                assert self.predictor.bundle.cells is not None
                drawn = self.predictor.draw_cells(shown, heat, self.predictor.bundle.cells)
                note = f"adds {values.mean():.2g} to the logit, {values.max():.2g} at the most"
                panels.append(Panel(f"what speaks for {name}", drawn, note))
        kept, gates = self._look(pixels, classes.index(decision.label))
        panels.append(Panel(f"Grad-CAM of {self.layer}: {decision.label}", self._draw(shown, strength(kept))))
        notes = []
        for stage, (places, channels) in gates.items():
            text = []
            if places is not None:
                low, high = float(places.min()), float(places.max())
                even = (places - low) / max(high - low, 1e-6)
                note = f"gates of places from {low:.2f} (clear) to {high:.2f} (yellow)"
                panels.append(Panel(f"places that attention lets pass, stage {stage}", self._draw(shown, even), note))
                text.append(f"places {places.mean():.2f} ({low:.2f} to {high:.2f})")
            if channels is not None:
                text.append(f"channels {channels.mean():.2f} ({channels.min():.2f} to {channels.max():.2f})")
            notes.append(f"mean gate of attention, stage {stage}: {', '.join(text)}")
        return Explanation(str(file), label, decision, panels, notes)

    def _draw(self, shown: UInt8, heat: NDArray[np.float32]) -> UInt8:
        return self.predictor.draw_cells(shown, heat, self.network.places.cells(*heat.shape))

    def _look(self, pixels: UInt8, class_id: int) -> tuple[NDArray[np.float32], dict[str, "_Gates"]]:
        """Grad-CAM (h, w) of the layer for a class (Selvaraju et al. 2017, eqs. 1, 2), and the gates of each stage."""
        backbone, points = self.network.backbone, _attention(self.network.backbone)
        images = self.network.normalise(torch.from_numpy(pixels).to(self.network.mean.device))
        with torch.enable_grad(), _watch(backbone.get_submodule(self.layer), points.values()) as (maps, seen):
            logits = backbone(images)
            channels = _stages(backbone)[self.layer]["num_chs"]
            if [one.shape[:2] for one in maps if one.ndim == 4] != [(1, channels)]:
                raise UserError(
                    f"layer={self.layer} of {self.predictor.bundle.about['model']} gives no map (N, C, h, w), as those "
                    "of transformers; give another layer, or take a run of a convolutional network"
                )
            (gradient,) = torch.autograd.grad(logits[0, class_id], maps[0])
        with torch.inference_mode():
            weights = gradient.mean(dim=(2, 3), keepdim=True)
            found = (weights * maps[0].detach()).sum(dim=1)[0].relu()
            gates = {stage: _gates(module, seen[module]) for stage, module in points.items()}
        return np.asarray(found.cpu()), gates


_Gates = tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]  # of places (h, w), of channels (C,)


@contextmanager
def _watch(layer: nn.Module, attention: Iterable[nn.Module]) -> Iterator[tuple[list[Tensor], dict[nn.Module, Tensor]]]:
    """What a layer gives inside, which gradients can be taken of, and what attention modules are given."""
    maps: list[Tensor] = []
    seen: dict[nn.Module, Tensor] = {}

    def keep(_: nn.Module, __: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            return None
        maps.append(output.detach().requires_grad_())  # nothing below it needs a gradient
        return maps[-1].clone()  # the next layer may write into it

    def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[module] = inputs[0].detach()

    hooks = [layer.register_forward_hook(keep), *(module.register_forward_pre_hook(see) for module in attention)]
    try:
        yield maps, seen
    finally:
        for hook in hooks:
            hook.remove()


def _attention(backbone: nn.Module) -> dict[str, nn.Module]:
    """The attention after the last block of each stage that has some."""
    found = {}
    for stage, blocks in getattr(backbone, "attention_points", {}).items():
        if (module := getattr(backbone.get_submodule(list(blocks)[-1]), "attention", None)) is not None:
            found[stage] = module
    return found


def _gates(module: nn.Module, x: Tensor) -> _Gates:
    sse = module.sse if isinstance(module, SCSE) else module
    cse = module.cse if isinstance(module, SCSE) else module
    places = np.asarray(sse.gate(x)[0, 0].cpu()) if isinstance(sse, SpatialSE) else None
    channels = np.asarray(cse.gate(x)[0, :, 0, 0].cpu()) if isinstance(cse, ChannelSE) else None
    return places, channels


def _stages(backbone: nn.Module) -> dict[str, dict[str, Any]]:
    """What a backbone says of its stages, by the names of their modules."""
    return {str(stage["module"]): stage for stage in getattr(backbone, "feature_info", ())}


def _choose_layer(backbone: nn.Module, layer: str | None) -> str:
    if not (stages := _stages(backbone)):
        raise UserError(f"{type(backbone).__name__} does not say what its stages are (feature_info): no Grad-CAM of it")
    if layer is not None:
        check_choice("layer", layer, stages)
        return layer
    last = list(stages)[-1]
    finer = [name for name, stage in stages.items() if stage["reduction"] < stages[last]["reduction"]]
    return [last, *finer][-1]
