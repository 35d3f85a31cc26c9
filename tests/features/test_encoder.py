"""open_clip towers as token grids."""

import logging
from pathlib import Path

import pytest
import torch

from tactile_align.config.features import EncoderConfig
from tactile_align.errors import InputError
from tactile_align.features.encoder import Encoder, encoder_of, load_encoder
from tests.features.making import CLIP_MEAN, CLIP_STD, demo_encoder, noise, registered, save_clip


def test_a_checkpoint_on_disk_gives_the_features_of_open_clip_itself(tmp_path: Path) -> None:
    clip = save_clip("ViT-demo", tmp_path / "clip.pt")
    encoder = load_encoder("ViT-demo", pretrained=tmp_path / "clip.pt").eval()
    images = noise(3, 96, 96)
    x = images.permute(0, 3, 1, 2) / 255.0
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        found = clip.visual.forward_intermediates(  # type: ignore[attr-defined]
            (x - mean) / std, indices=[1], normalize_intermediates=True, intermediates_only=True
        )
        tokens = encoder.tokens(images)
    assert torch.equal(tokens.permute(0, 3, 1, 2), found["image_intermediates"][0])
    assert not encoder.scratch and "clip.pt" in encoder.name and encoder.grid == (12, 12) and encoder.width == 96


def test_tokens_stand_where_their_patch_of_the_image_is() -> None:
    encoder = demo_encoder(image_size=(128, 96))
    assert encoder.input_size == (128, 96) and encoder.grid == (12, 16)
    grey = torch.full((1, 96, 128, 3), 128, dtype=torch.uint8)
    spot = grey.clone()
    spot[0, 24:32, 72:80] = 255  # row 3, column 9 of the 8 px tokens
    embedded = [encoder.visual.conv1(i.permute(0, 3, 1, 2) / 255.0) for i in (grey, spot)]
    changed = (embedded[0] - embedded[1]).abs().sum(dim=1)[0]
    assert changed.nonzero().tolist() == [[3, 9]]
    with torch.no_grad():
        moved = (encoder.tokens(grey) - encoder.tokens(spot)).norm(dim=-1)[0]
    assert divmod(int(moved.argmax()), 16) == (3, 9)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 96, 96, 3),
        torch.zeros(2, 3, 96, 96, dtype=torch.uint8),
        torch.zeros(2, 96, 128, 3, dtype=torch.uint8),
        torch.zeros(96, 96, 3, dtype=torch.uint8),
    ],
)
def test_images_of_another_type_or_size_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"uint8 RGB images of shape \(B, 96, 96, 3\); got .*input_map"):
        demo_encoder().tokens(images)


def test_a_random_encoder_says_scratch_and_nothing_on_the_log(caplog: pytest.LogCaptureFixture) -> None:
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    encoder = demo_encoder()
    assert encoder.scratch and encoder.name == "ViT-demo (SCRATCH)"
    assert not caplog.records
    assert logging.getLogger().handlers == handlers and logging.getLogger().level == level
    assert not logging.getLogger().filters


def test_a_conv_stem_is_for_scratch_only() -> None:
    with pytest.raises(ValueError, match="pretrained = 'scratch'"):
        load_encoder("ViT-demo", pretrained="openai", stem="conv")
    encoder = demo_encoder(stem="conv")
    assert encoder.tokens(noise(2, 96, 96)).shape == (2, 12, 12, 96)


def test_a_row_does_not_depend_on_the_rest_of_its_batch() -> None:
    images = noise(4, 96, 96)
    for stem in ("patch", "conv"):
        encoder = demo_encoder(stem=stem).train()
        with torch.no_grad():
            torch.testing.assert_close(encoder.tokens(images)[1:2], encoder.tokens(images[1:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_the_input_map_leads_to_the_input_size(fit: str) -> None:
    encoder = demo_encoder(fit=fit)
    found = encoder.input_map(640, 480)
    assert (found.width, found.height) == encoder.input_size
    assert encoder.tokens(found.apply_to_image(noise(2, 640, 480))).shape[:3] == (2, 12, 12)
    sides = found.scale[0] / found.scale[1]
    assert sides == pytest.approx(1.0 if fit == "letterbox" else 480 / 640)


def test_positions_of_trained_weights_are_resized_to_the_image(tmp_path: Path) -> None:
    clip = save_clip("ViT-demo", tmp_path / "clip.pt")
    encoder = load_encoder("ViT-demo", pretrained=tmp_path / "clip.pt", image_size=(128, 64))
    assert encoder.grid == (8, 16)
    old, new = clip.visual.positional_embedding, encoder.visual.positional_embedding  # type: ignore[attr-defined]
    assert torch.equal(old[0], new[0])
    want = torch.nn.functional.interpolate(
        old[1:].reshape(1, 12, 12, -1).permute(0, 3, 1, 2), size=(8, 16), mode="bicubic", antialias=True
    )
    torch.testing.assert_close(new[1:].detach(), want[0].permute(1, 2, 0).reshape(128, -1).detach())


def test_a_timm_tower_gives_tokens_too(timm_model: str) -> None:
    encoder = load_encoder(timm_model, pretrained="scratch", image_size=(96, 64))
    assert encoder.grid == (4, 6) and encoder.width == 192 and encoder.scratch
    assert encoder.tokens(noise(2, 96, 64)).shape == (2, 4, 6, 192)
    assert_only_what_tokens_need_learns(encoder)


@pytest.fixture(scope="module")
def coca_like(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small tower whose final norm stands behind an attention pooling of another width, as CoCa's do."""
    return registered(
        tmp_path_factory.mktemp("models"),
        "coca-small",
        24,
        {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "attentional_pool": True},
    )


@pytest.mark.parametrize("options", [{}, {"tune": "last", "last_blocks": 1}, {"layers": (0, 1)}])
def test_tokens_of_a_tower_that_norms_behind_its_pooling_are_normalised_plainly(
    coca_like: str, options: dict[str, object]
) -> None:
    torch.manual_seed(0)
    encoder = load_encoder(coca_like, pretrained="scratch", **options).eval()
    images = noise(2, 64, 64)
    kept: list[torch.Tensor] = []
    for block in encoder.visual.transformer.resblocks:
        block.register_forward_hook(lambda _, __, out: kept.append(out))
    with torch.no_grad():
        found = encoder.tokens(images).flatten(1, 2).unflatten(-1, (-1, 64))
    tokens = kept[-1][:, 1:]
    centred = tokens - tokens.mean(-1, keepdim=True)
    torch.testing.assert_close(found[:, :, -1], centred / (tokens.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt())
    assert_only_what_tokens_need_learns(encoder)


@pytest.fixture(scope="module")
def residual_net(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a small tower of open_clip's residual networks, as RN50 is one."""
    return registered(
        tmp_path_factory.mktemp("models"), "rn-small", 64, {"image_size": 96, "layers": [1, 1, 1, 1], "width": 8}
    )


@pytest.fixture
def residual_weights(residual_net: str, tmp_path: Path) -> Path:
    """File of random weights of that tower."""
    save_clip(residual_net, tmp_path / "clip.pt")
    return tmp_path / "clip.pt"


def test_a_residual_network_learns_only_what_its_tokens_need(residual_net: str, residual_weights: Path) -> None:
    encoder = load_encoder(residual_net, pretrained=residual_weights).train()
    assert encoder.grid == (3, 3) and encoder.width == 256
    for name, parameter in encoder.named_parameters():
        if name.endswith("bn3.weight"):  # open_clip starts each block at zero, which hides the gradient within
            torch.nn.init.ones_(parameter)
    assert_only_what_tokens_need_learns(encoder)
    smaller = EncoderConfig(model=residual_net, pretrained=str(residual_weights), image_size=(64, 64))
    assert encoder_of(smaller, fill=False).grid == (2, 2)
    with pytest.raises(ValueError, match=r"rn-small needs square images; got image_size = \(96, 64\)"):
        load_encoder(residual_net, pretrained=residual_weights, image_size=(96, 64))


@pytest.mark.parametrize("tune", ["full", "frozen"])
def test_other_images_of_a_training_batch_do_not_move_the_tokens_of_a_tower_with_batch_norm(
    tune: str, residual_net: str, residual_weights: Path
) -> None:
    encoder = load_encoder(residual_net, pretrained=residual_weights, tune=tune).train()
    first, others = noise(1, 96, 96), noise(3, 96, 96, seed=1)
    with torch.no_grad():
        bright, dark = (encoder.tokens(torch.cat([first, some])) for some in (others // 4 + 190, others // 4))
    torch.testing.assert_close(bright[0], dark[0])
    assert not torch.allclose(bright[1], dark[1], rtol=0.1)


def test_random_weights_are_refused_for_a_tower_with_batch_norm(residual_net: str) -> None:
    with pytest.raises(InputError, match=r"rn-small \(SCRATCH\) has batch norm.*got pretrained = 'scratch'\. Load"):
        load_encoder(residual_net, pretrained="scratch")


def test_a_conv_stem_is_refused_where_there_is_no_patch_projection(timm_model: str, residual_net: str) -> None:
    for model, kind in ((timm_model, "TimmModel"), (residual_net, "ModifiedResNet")):
        with pytest.raises(ValueError, match=rf"stem = 'conv'.*{model} is a {kind}\. Omit stem"):
            load_encoder(model, pretrained="scratch", stem="conv")


def test_a_size_of_broken_patches_is_refused_with_the_nearest_whole_one(timm_model: str, residual_net: str) -> None:
    for stem in ("patch", "conv"):
        with pytest.raises(ValueError, match=r"multiples of .* 8 px; got .*\(100, 72\)\. Use \(96, 72\)"):
            demo_encoder(image_size=(100, 72), stem=stem)
    with pytest.raises(ValueError, match=r"multiples of .* 16 px; got .*\(96, 72\)\. Use \(96, 64\)"):
        load_encoder(timm_model, pretrained="scratch", image_size=(96, 72))
    with pytest.raises(ValueError, match=r"multiples of .* 32 px; got .*\(51, 51\)\. Use \(64, 64\)"):
        load_encoder(residual_net, pretrained="scratch", image_size=(51, 51))


def assert_only_what_tokens_need_learns(encoder: Encoder) -> None:
    encoder.tokens(noise(2, *encoder.input_size)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        touched = parameter.grad is not None and bool((parameter.grad != 0).any())
        assert touched == parameter.requires_grad, name


@pytest.mark.parametrize("layers", [(-1,), (0,), (0, 1), (1, 0)])
def test_layers_are_the_blocks_asked_for_side_by_side(layers: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    encoder = load_encoder("ViT-demo", pretrained="scratch", layers=layers).eval()
    images = noise(2, 96, 96)
    kept: list[torch.Tensor] = []
    for block in encoder.visual.transformer.resblocks:
        block.register_forward_hook(lambda _, __, out: kept.append(out))
    x = (images.permute(0, 3, 1, 2) / 255.0 - encoder.mean) / encoder.std
    with torch.no_grad():
        encoder.visual(x)
        want = torch.cat([encoder.visual.ln_post(kept[layer])[:, 1:] for layer in layers], dim=-1)
        kept.clear()
        found = encoder.tokens(images)
    assert len(kept) == max(layer % 2 for layer in layers) + 1, "blocks behind the last one used are not computed"
    torch.testing.assert_close(found.flatten(1, 2), want)
    assert_only_what_tokens_need_learns(load_encoder("ViT-demo", pretrained="scratch", layers=layers))


@pytest.mark.parametrize("options", [{"tune": "last", "last_blocks": 2}, {"tune": "adapters"}, {"checkpointing": True}])
def test_a_timm_tower_learns_what_its_tuning_says(timm_model: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    encoder = load_encoder(timm_model, pretrained="scratch", image_size=(32, 48), layers=(3, -1), **options).train()
    assert_only_what_tokens_need_learns(encoder)
    blocks = {name.split(".")[3] for name, p in encoder.named_parameters() if p.requires_grad and ".blocks." in name}
    assert blocks == {"last": {"10", "11"}, "adapters": set()}.get(str(options.get("tune")), set(map(str, range(12))))


def test_positions_of_a_timm_towers_weights_are_resized_to_the_image(timm_model: str, tmp_path: Path) -> None:
    clip = save_clip(timm_model, tmp_path / "clip.pt")
    encoder = load_encoder(timm_model, pretrained=tmp_path / "clip.pt", image_size=(96, 64))
    old, new = clip.visual.trunk.pos_embed, encoder.visual.trunk.pos_embed  # type: ignore[attr-defined]
    assert encoder.grid == (4, 6) and new.shape == (1, 1 + 24, 192)
    want = torch.nn.functional.interpolate(
        old[:, 1:].reshape(1, 14, 14, -1).permute(0, 3, 1, 2), size=(4, 6), mode="bicubic", antialias=True
    )
    torch.testing.assert_close(new[:, 1:].detach(), want.permute(0, 2, 3, 1).reshape(1, 24, -1).detach())


@pytest.mark.parametrize(
    "options",
    [
        {"tune": "full"},
        {"tune": "full", "stem": "conv"},
        {"tune": "last", "last_blocks": 1},
        {"tune": "last", "last_blocks": 1, "layers": (0,)},
        {"tune": "adapters"},
        {"tune": "full", "checkpointing": True},
    ],
)
def test_every_trainable_tensor_gets_gradient_and_frozen_ones_never_change(options: dict[str, object]) -> None:
    encoder = demo_encoder(**options).train()
    assert_only_what_tokens_need_learns(encoder)
    assert any(p.requires_grad for p in encoder.parameters())
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1).step()
    for name, p in encoder.named_parameters():
        assert torch.equal(before[name], p) != p.requires_grad, name


def test_a_frozen_tower_has_nothing_to_learn_and_keeps_no_graph() -> None:
    encoder = demo_encoder(tune="frozen")
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder.tokens(noise(2, 96, 96)).requires_grad


def test_what_a_tower_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layers = \(2,\).*2 blocks.*from -2 to 1"):
        demo_encoder(layers=(2,))
    with pytest.raises(ValueError, match=r"last_blocks = 3.*only 2"):
        demo_encoder(tune="last", last_blocks=3)


def test_checkpointing_changes_memory_and_nothing_else() -> None:
    images = noise(2, 96, 96)
    plain, lean = (demo_encoder(checkpointing=on).train() for on in (False, True))
    for encoder in (plain, lean):
        encoder.tokens(images).square().sum().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), lean.named_parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_a_tower_without_a_precision_of_its_own_hands_out_float32_under_autocast() -> None:
    images = noise(2, 96, 96)
    with torch.autocast("cpu", torch.bfloat16):
        low, high = (demo_encoder(precision=own).tokens(images) for own in (None, "float32"))
    assert low.dtype == high.dtype == torch.float32 and not torch.equal(low, high)
    assert torch.equal(high, demo_encoder().tokens(images))


def test_bfloat16_runs_the_tower_low_and_hands_out_float32() -> None:
    images = noise(2, 96, 96)
    low, high = demo_encoder(precision="bfloat16").tokens(images), demo_encoder().tokens(images)
    assert low.dtype == torch.float32 and not torch.equal(low, high)
    assert torch.nn.functional.cosine_similarity(low, high, dim=-1).min() > 0.99
