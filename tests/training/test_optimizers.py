"""Optimizers that a configuration names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from alu_defects.benchmarking.training import create_step
from alu_defects.config import check_settings, compose, plain
from alu_defects.errors import UserError
from alu_defects.models.backbone import classifiers
from alu_defects.models.registry import create_backbone
from alu_defects.train import train
from alu_defects.training import accumulation, optimization
from alu_defects.training.module import Classifier

RMSPROP = "optimizer._target_=torch.optim.RMSprop"


def made(*words: str) -> torch.optim.Optimizer:
    options: dict[str, Any] = plain(compose("train", words).optimizer)
    return optimization.create_optimizer(options, nn.Linear(2, 2))


def test_fused_is_ignored_where_the_optimizer_has_no_such_option() -> None:
    rmsprop = made("optimizer=adamw", RMSPROP)
    assert type(rmsprop) is torch.optim.RMSprop
    assert rmsprop.defaults["weight_decay"] == 0.05
    assert type(made("optimizer=adamw", "optimizer._target_=timm.optim.Lamb")).__name__ == "Lamb"
    assert made("optimizer=adamw").defaults["fused"] is True
    assert made("optimizer=adamw", "optimizer.fused=false").defaults["fused"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["optimizer=sgd", "optimizer._target_=torch.optim.Adam"],
            r"^optimizer.momentum=0.9: torch.optim.Adam has no such option. Remove it with ~optimizer.momentum$",
        ),
        (
            ["optimizer=adamw", "optimizer._target_=torch.optim.LBFGS"],
            r"^optimizer.weight_decay=0.05: torch.optim.LBFGS has no such option",
        ),
        (["optimizer=adamw", "+optimizer.weight_decai=1"], r"weight_decai=1: .* did you mean weight_decay\?"),
        (["optimizer=adamw", "optimizer.lr=-1"], r"torch.optim.AdamW cannot be made .*Invalid learning rate: -1"),
        (["optimizer._target_=torch.optim.Nothing"], r"torch.optim.Nothing does not exist"),
        (["optimizer._target_=os.getcwd"], r"_target_=os.getcwd may not be instantiated"),
    ],
)
def test_unknown_options_are_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(*words)


def test_another_optimizer_works_in_train_trial_step_and_benchmark(small: list[str], tmp_path: Path) -> None:
    words = [*small, "optimizer=adamw", RMSPROP, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"]
    train(compose("train", words))
    options: dict[str, Any] = plain(compose("train", words))
    classifier = Classifier(
        model={"name": "shufflenet", "width": 0.5},
        classes=["a", "b"],
        class_counts=[1, 1],
        image_size=32,
        **{name: options[name] for name in ("loss", "optimizer", "scheduler")},
    )
    accumulation.trial_step(classifier, (32, 32), torch.device("cpu"), autocast=None)(2)
    batch: Any = {"image": torch.zeros(2, 3, 32, 32), "label": torch.zeros(2, dtype=torch.int64)}
    create_step(lambda batch: classifier(batch["image"]), classifier, "32-true", fused=False)(batch)


NETWORKS: list[tuple[str, dict[str, Any], int]] = [
    ("shufflenet", {"width": 0.5, "attention": "scse"}, 19),
    ("inceptionv4_scse", {}, 21),
    ("xception", {"attention": "cse"}, 15),
    ("timm/vit_tiny_patch16_224", {"depth": 3, "image_size": 32}, 5),
    ("timm/mobilenetv4_conv_small", {}, 19),
]


@pytest.mark.parametrize(("name", "options", "layers"), NETWORKS, ids=[network[0] for network in NETWORKS])
@pytest.mark.parametrize("decay_norms", [True, False])
def test_each_layer_learns_slower_than_the_one_above_it(
    name: str, options: dict[str, Any], layers: int, decay_norms: bool
) -> None:
    with torch.device("meta"):
        network = create_backbone(name, 3, **options)
    words = ["optimizer.fused=false", "optimizer.lr=0.1", "optimizer.layer_decay=0.5"]
    words.append(f"optimizer.decay_norms={str(decay_norms).lower()}")
    optimizer = optimization.create_optimizer(plain(compose("train", words).optimizer), network)
    of = {id(weight): group for group in optimizer.param_groups for weight in group["params"]}
    assert len(of) == len(list(network.parameters()))
    assert sorted({group["lr"] for group in of.values()}) == sorted(0.1 * 0.5**depth for depth in range(layers))
    for weight in (weight for head in classifiers(network) for weight in head.parameters()):
        assert of[id(weight)]["lr"] == 0.1
    assert of[id(next(network.parameters()))]["lr"] == min(group["lr"] for group in of.values())
    assert optimizer.param_groups[0]["lr"] == 0.1  # what is logged
    for weight_name, weight in network.named_parameters():
        expected = 0.05 if decay_norms or (weight.ndim > 1 and weight_name not in ("pos_embed", "cls_token")) else 0.0
        assert of[id(weight)]["weight_decay"] == expected, weight_name


def test_without_both_options_there_is_one_group_in_the_order_of_the_network() -> None:
    network = create_backbone("shufflenet", 3, width=0.5)
    (group,) = optimization.create_optimizer(plain(compose("train").optimizer), network).param_groups
    assert all(one is other for one, other in zip(group["params"], network.parameters(), strict=True))


@pytest.mark.parametrize(
    "scheduler",
    [
        ["scheduler=one_cycle"],
        ["scheduler=one_cycle", "+scheduler.max_lr=0.1"],
        ["scheduler=cosine"],
        ["scheduler=step", "scheduler.interval=step"],
        ["scheduler._target_=torch.optim.lr_scheduler.CyclicLR", "+scheduler.base_lr=0.01", "+scheduler.max_lr=0.1"],
    ],
)
def test_schedules_keep_the_ratio_of_the_layers(scheduler: list[str]) -> None:
    words = ["optimizer.lr=0.1", "optimizer.layer_decay=0.5", "optimizer.decay_norms=false", *scheduler]
    options: dict[str, Any] = plain(compose("train", words))
    network = create_backbone("shufflenet", 3, width=0.5)
    optimizer = optimization.create_optimizer(options["optimizer"], network)
    ratios = [group["lr"] / 0.1 for group in optimizer.param_groups]
    schedule: Any = optimization.create_scheduler(options["scheduler"], optimizer, 20, 2)["scheduler"]
    for _ in range(10):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert [rate / rates[0] for rate in rates] == pytest.approx(ratios)
        optimizer.step()
        schedule.step()


def test_options_that_cannot_work_are_errors() -> None:
    with pytest.raises(UserError, match=r"Linear does not say what its layers are .*give optimizer.layer_decay=1"):
        made("optimizer.layer_decay=0.5")
    with pytest.raises(UserError, match=r"decay_norms=False: .*Rprop has no weight decay; give decay_norms=true"):
        made("optimizer._target_=torch.optim.Rprop", "~optimizer.weight_decay", "optimizer.decay_norms=false")
    for word, message in (
        ("optimizer.layer_decay=0", "layer_decay=0 must be from 0.01 to 1"),
        ("optimizer.layer_decay=1.5", "layer_decay=1.5 must be from 0.01 to 1"),
        ("optimizer.decay_norms=some", "decay_norms=some does not exist.* There are: true, false"),
    ):
        with pytest.raises(UserError, match=message):
            check_settings(compose("train", [word]))
