"""ShuffleNet V2."""

from typing import Any, cast

from timm.models import adapt_input_conv
from torch import Tensor, nn
from torchvision.models import ShuffleNetV2, get_model_weights

from alu_defects.errors import UserError
from alu_defects.models.backbone import Backbone
from alu_defects.models.pretrained import Published, fetch
from alu_defects.models.registry import register
from alu_defects.models.weights import read_weights

_REPEATS = [4, 8, 4]
_CHANNELS = {
    0.5: [24, 48, 96, 192, 1024],
    1.0: [24, 116, 232, 464, 1024],
    1.5: [24, 176, 352, 704, 1024],
    2.0: [24, 244, 488, 976, 2048],
}


class ShuffleNet(ShuffleNetV2):
    """torchvision's ShuffleNet V2 with timm's methods; the parameters keep torchvision's names."""

    fc: nn.Module

    def __init__(self, channels: list[int], num_classes: int, in_chans: int, drop_rate: float) -> None:
        super().__init__(_REPEATS, channels, num_classes=num_classes or 1)
        if not num_classes:
            self.fc = nn.Identity()
        self.num_classes = num_classes
        self.num_features = channels[-1]
        self.drop = nn.Dropout(drop_rate)
        widths = {"conv1": channels[0], "maxpool": channels[0], "stage2": channels[1], "stage3": channels[2]}
        widths["conv5"] = channels[4]
        self.feature_info = [
            {"num_chs": width, "reduction": 2**level, "module": module}
            for level, (module, width) in enumerate(widths.items(), start=1)
        ]
        self.attention_points = {
            str(stage): {f"stage{stage}.{unit}": channels[stage - 1] for unit in range(repeats)}
            for stage, repeats in enumerate(_REPEATS, start=2)
        }
        self.input_mean, self.input_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's, of ImageNet
        self.min_input_size = 32, 32  # 1 pixel works, but below the stride of 32 the last map is mostly padding
        if in_chans != 3:
            self.conv1[0] = nn.Conv2d(in_chans, channels[0], 3, 2, 1, bias=False)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images to the last feature map."""
        x = self.stage3(self.stage2(self.maxpool(self.conv1(x))))
        return cast(Tensor, self.conv5(self.stage4(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map the feature map to logits, or to the pooled features."""
        x = self.drop(x.mean((2, 3)))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        return self.forward_head(self.forward_features(x))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of the names of the layers: the first convolution, the units, the last convolution."""
        units = r"^stage(\d+)" if coarse else r"^stage(\d+)\.(\d+)"
        return {"stem": r"^conv1", "blocks": [(units, None), (r"^conv5", (99,))]}

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new, untrained classifier in place; 0 classes: none."""
        self.num_classes = num_classes
        new = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        weight = self.conv5[0].weight
        self.fc = new.to(weight.device, weight.dtype).train(self.training)


def _weights(width: float = 1.0) -> Published:
    """What torchvision publishes for a width."""
    name = f"shufflenet_v2_x{_check_width(width):.1f}".replace(".", "_")
    licence = "not stated; BSD-3-Clause is that of torchvision's code"
    return Published(name, licence, url=get_model_weights(name).DEFAULT.url)


def _check_width(width: float) -> float:
    if width not in _CHANNELS:
        raise UserError(f"shufflenet has no width={width}; it is one of {', '.join(map(str, _CHANNELS))}.")
    return width


@register("shufflenet", published=_weights)
def shufflenet(
    num_classes: int, *, pretrained: bool = False, in_chans: int = 3, drop_rate: float = 0.0, width: float = 1.0
) -> Backbone:
    """ShuffleNet V2 (torchvision) at 0.5, 1, 1.5 or 2 times the width; attention stages 2, 3, 4: after each unit."""
    model = ShuffleNet(_CHANNELS[_check_width(width)], num_classes, in_chans, drop_rate)
    if pretrained:
        state = dict(read_weights(fetch(_weights(width))[0])[0])
        state["conv1.0.weight"] = adapt_input_conv(in_chans, state["conv1.0.weight"])
        if num_classes != len(state["fc.bias"]):
            state = {key: value for key, value in state.items() if not key.startswith("fc.")}
            state |= {f"fc.{key}": value for key, value in model.fc.state_dict().items()}
        model.load_state_dict(state)
    return cast(Backbone, model)
