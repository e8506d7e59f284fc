"""Networks of timm that are made for one image size."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from alu_defects.errors import UserError
from alu_defects.models.backbone import multiply_adds
from alu_defects.models.registry import check_backbone, create_backbone, published_weights


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny_patch16_224", 96),
        ("vit_tiny_patch16_224", 256),
        ("deit_tiny_distilled_patch16_224", 96),
        ("swin_tiny_patch4_window7_224", 96),
        ("mixer_s32_224", 96),
        ("levit_128s", 96),
        ("maxvit_rmlp_pico_rw_256", 64),
        ("convnext_atto", 96),
        ("xcit_nano_12_p16_224", 96),  # "fixed", but takes any size
    ],
)
def test_network_is_created_for_the_image_size(name, size):
    model = create_backbone(f"timm/{name}", 4, image_size=size).eval()
    assert model.min_input_size == ((32, 32) if "convnext" in name else (size, size))
    with torch.no_grad():
        assert model(torch.rand(1, 3, size, size)).shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("timm/vit_tiny_patch16_224", (64, 96)),
        ("timm/swin_tiny_patch4_window7_224", (64, 96)),
        ("timm/convnext_atto", (64, 96)),
        ("shufflenet", (32, 96)),
        ("xception", (64, 32)),
        ("inceptionv4_scse", (75, 139)),
    ],
)
def test_network_is_created_for_a_frame_that_is_no_square(name, size):
    model = create_backbone(name, 4, image_size=size).eval()
    least = model.min_input_size
    assert all(side >= limit for side, limit in zip(size, least, strict=True))
    with torch.no_grad():
        assert model(torch.rand(1, 3, *size)).shape == (1, 4)
    assert multiply_adds(model, size) > 0


def test_each_side_has_to_be_large_enough():
    for size in ((75, 74), [74, 75]):
        with pytest.raises(
            UserError, match=r"data\.image_size=\[7\d,7\d\] is too small for inceptionv4; give 75 or more"
        ):
            check_backbone(name="inceptionv4", image_size=size)


def test_a_network_that_takes_squares_alone_says_so():
    with pytest.raises(UserError, match=r"^data.image_size=\[64,96\] does not fit timm/nest_tiny; sizes that do: 224$"):
        create_backbone("timm/nest_tiny", 4, image_size=(64, 96))


def test_a_network_is_checked_without_its_weights():
    check_backbone(name="xception", image_size=64, weights="/no/such/file")
    state = torch.random.get_rng_state()
    check_backbone(name="timm/vit_tiny_patch16_224", image_size=[64, 96], pretrained=True)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_unfit_image_size_is_an_error_with_sizes_that_fit():
    with pytest.raises(UserError, match=r"^data.image_size=112 does not fit timm/dla34; sizes that do: 96, 128, 224$"):
        create_backbone("timm/dla34", 4, image_size=112)


def test_given_img_size_is_kept():
    model = create_backbone("timm/vit_tiny_patch16_224", 4, image_size=96, img_size=96)
    assert model.pos_embed.shape == create_backbone("timm/vit_tiny_patch16_224", 4, image_size=96).pos_embed.shape
    with pytest.raises(UserError, match=r"data.image_size=112 does not fit .* sizes that do: 96$"):
        create_backbone("timm/vit_tiny_patch16_224", 4, image_size=112, img_size=96)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm/resnet18.nobodys", {}, "cannot be made: .*nobodys"),
        ("timm/resnet18", {"widht": 2}, "cannot be made with these options: .*widht"),
    ],
)
def test_other_errors_do_not_name_the_image_size(name, options, message):
    with pytest.raises(UserError, match=message):
        create_backbone(name, 4, image_size=96, **options)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Put random weights where the published ones are put by hand."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))

    def publish(name):
        torch.manual_seed(1)
        file = published_weights(f"timm/{name}").by_hand
        file.parent.mkdir(parents=True)
        save_file(timm.create_model(name).state_dict(), file)

    return publish


def test_published_weights_are_resized(published):
    published("vit_tiny_patch16_224")
    own = create_backbone("timm/vit_tiny_patch16_224", 4, pretrained=True, image_size=224)
    model = create_backbone("timm/vit_tiny_patch16_224", 4, pretrained=True, image_size=96)
    assert (own.pos_embed.shape[1], model.pos_embed.shape[1]) == (1 + 14 * 14, 1 + 6 * 6)
    assert torch.equal(model.blocks[0].mlp.fc1.weight, own.blocks[0].mlp.fc1.weight)


def test_published_weights_that_cannot_be_resized_are_an_error_with_their_size(published):
    published("levit_128s")
    create_backbone("timm/levit_128s", 4, pretrained=True, image_size=224)
    with pytest.raises(
        UserError, match=r"levit_128s cannot be resized to data.image_size=96; give data.image_size=224"
    ):
        create_backbone("timm/levit_128s", 4, pretrained=True, image_size=96)
