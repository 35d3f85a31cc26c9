"""Towers from elsewhere: timm's and Sparsh's features from files made here, and the errors for wrong files."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from pydantic import ValidationError
from scipy.special import erf
from torch import Tensor

from tactile_align.config.features import EncoderConfig, FeatureConfig
from tactile_align.errors import InputError
from tactile_align.features import foreign
from tactile_align.features.encoder import encoder_of, load_encoder
from tactile_align.features.weights import input_size_of, save_tower
from tactile_align.moments.inputs import difference
from tests.features.making import noise

TIMM_VIT, SPARSH = "timm/test_vit", "sparsh/dino_vitsmall"


def timm_file(name: str, path: Path) -> Any:
    """Write a timm model with random weights, classifier included, and return it in eval mode."""
    torch.manual_seed(3)
    model = timm.create_model(name)
    torch.save(model.state_dict(), path)
    return model.eval()


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_the_tokens_of_a_timm_tower_are_timms_own(tmp_path: Path, name: str) -> None:
    theirs = timm_file(name, tmp_path / "own.pt")
    encoder = load_encoder(f"timm/{name}", pretrained=tmp_path / "own.pt").eval()
    cfg = theirs.pretrained_cfg
    assert encoder.input_size == input_size_of(f"timm/{name}", None) == (cfg["input_size"][2], cfg["input_size"][1])
    images = noise(2, *encoder.input_size)
    mean, std = (torch.tensor(cfg[part]).view(1, 3, 1, 1) for part in ("mean", "std"))
    with torch.no_grad():
        wanted = theirs.forward_features((images.permute(0, 3, 1, 2) / 255.0 - mean) / std)
        tokens = encoder.tokens(images)
    if wanted.ndim == 4:
        wanted = wanted.permute(0, 2, 3, 1)
    else:
        wanted = wanted[:, theirs.num_prefix_tokens :].unflatten(1, encoder.grid)
    torch.testing.assert_close(tokens, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tune", ["full", "last"])
def test_the_norm_behind_a_mean_pooling_is_applied_to_the_tokens_and_trained(tune: Any) -> None:
    encoder = encoder_of(EncoderConfig(model="timm/test_vit2", pretrained="scratch", tune=tune)).eval()
    tokens = encoder.tokens(noise(1, *encoder.input_size))
    assert tokens.mean(-1).abs().max() < 1e-5 and (tokens.std(-1) - 1).abs().max() < 0.02
    tokens.square().mean().backward()
    assert encoder.visual.trunk.fc_norm.weight.grad is not None


def test_the_stages_of_a_convnet_are_no_transformer_blocks() -> None:
    encoder = encoder_of(EncoderConfig(model="timm/test_efficientnet_ln", pretrained="scratch", tune="frozen"))
    assert encoder.blocks is None and encoder.used_layers == (-1,) and encoder.grid == (5, 5)


def test_a_network_of_timm_that_fails_on_an_image_is_refused_with_what_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(foreign.TimmTower, "forward_intermediates", fails)
    with pytest.raises(InputError, match=r"timm/test_vit .*gave AssertionError.*Use a vision transformer or ConvNet"):
        encoder_of(EncoderConfig(model=TIMM_VIT, pretrained="scratch"))


def test_positions_of_a_timm_file_are_resampled_as_timm_resamples_them(tmp_path: Path) -> None:
    timm_file("test_vit", tmp_path / "own.pt")
    encoder = load_encoder(TIMM_VIT, pretrained=tmp_path / "own.pt", image_size=(96, 64)).eval()
    overlay = {"file": str(tmp_path / "own.pt")}
    theirs = timm.create_model("test_vit", pretrained=True, pretrained_cfg_overlay=overlay, img_size=(64, 96)).eval()
    images = noise(2, 96, 64)
    mean, std = encoder.mean, encoder.std
    with torch.no_grad():
        wanted = theirs.forward_features((images.permute(0, 3, 1, 2) / 255.0 - mean) / std)
        torch.testing.assert_close(encoder.tokens(images).flatten(1, 2), wanted[:, 1:], atol=1e-5, rtol=0)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of width 64 in place of Sparsh's small encoder, so that the files are small."""
    monkeypatch.setitem(foreign.SIZES, "small", (64, 2, 2))


def sparsh_state(width: int = 64, registers: int = 1, channels: int = 6, blocks: int = 2) -> dict[str, Tensor]:
    """Return random tensors under the names of Sparsh's vision transformer."""
    generator = torch.Generator().manual_seed(1)

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.05

    state = {"patch_embed.proj.weight": values(width, channels, 16, 16), "patch_embed.proj.bias": values(width)}
    state["pos_embed.frequency_bands"] = 10000 ** -torch.linspace(0, 1, width // 4 + 1)[:-1].expand(2, -1)
    if registers:
        state["register_tokens"] = values(1, registers, width) * 20
    for i in range(blocks):
        at = f"blocks.{i}."
        for name, out, into in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
            state |= {f"{at}{name}.weight": values(out * width, into * width), f"{at}{name}.bias": values(out * width)}
        state |= {f"{at}norm{j}.{part}": 1 + values(width) for j in (1, 2) for part in ("weight", "bias")}
    return state | {"norm.weight": 1 + values(width), "norm.bias": values(width)}


def sparsh_file(path: Path, state: dict[str, Tensor], prefix: str = "teacher_encoder.backbone.") -> Path:
    named = {f"{prefix}{name}": value for name, value in state.items()}
    student = {f"student_encoder.backbone.{name}": value.clone() for name, value in state.items()}
    torch.save({"model": {**named, **student}, "epoch": 3, "optimizer": {"param_groups": []}}, path)
    return path


def sparsh_in_float64(state: dict[str, Tensor], pixels: np.ndarray, heads: int) -> np.ndarray:
    """Return the tokens (300, width) of one upright pair of touches (6, 320, 240) by Sparsh's description."""
    w = {name: value.double().numpy() for name, value in state.items()}

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    patches = pixels.reshape(6, 20, 16, 15, 16).transpose(1, 3, 0, 2, 4).reshape(300, -1)
    kernel = w["patch_embed.proj.weight"]
    x = patches @ kernel.reshape(len(kernel), -1).T + w["patch_embed.proj.bias"]
    place = []
    for p in range(300):
        angles = [number * f for number in (p % 20, p // 20) for f in w["pos_embed.frequency_bands"][0]]
        first, second = np.split(np.array(angles), 2)
        place.append(np.concatenate([np.sin(first), np.cos(first), np.sin(second), np.cos(second)]))
    x = np.concatenate([w["register_tokens"][0], x + np.array(place)])
    for i in range(2):
        q, k, v = np.split(linear(normed(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv"), 3, axis=1)
        mixed = []
        for part in np.split(np.arange(x.shape[1]), heads):
            score = q[:, part] @ k[:, part].T / np.sqrt(len(part))
            share = np.exp(score - score.max(1, keepdims=True))
            mixed.append(share / share.sum(1, keepdims=True) @ v[:, part])
        x = x + linear(np.concatenate(mixed, axis=1), f"blocks.{i}.attn.proj")
        hidden = linear(normed(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        x = x + linear(hidden * (1 + erf(hidden / np.sqrt(2))) / 2, f"blocks.{i}.mlp.fc2")
    return normed(x, "norm")[1:]


def test_the_tokens_of_sparsh_are_those_of_its_description_in_float64(tiny: None, tmp_path: Path) -> None:
    state = sparsh_state()
    encoder = load_encoder(SPARSH, pretrained=sparsh_file(tmp_path / "dino_vitsmall.ckpt", state)).eval()
    assert encoder.input_size == (320, 240) and encoder.grid == (15, 20) and encoder.frames == 2
    now, before, free = noise(3, 320, 240, seed=2).numpy()
    pair = [2 * (difference(touch, free).astype(int) - 128) for touch in (now, before)]  # as recorded, to a grey level
    assert (
        max(np.abs(two - (touch.astype(int) - free)).max() for two, touch in zip(pair, (now, before), strict=True)) <= 1
    )
    pixels = np.concatenate([np.clip(two / 255 + 0.5, 0, 1) for two in pair], axis=2)
    upright = np.rot90(pixels, -1, (0, 1)).transpose(2, 0, 1)
    wanted = sparsh_in_float64(state, upright, heads=2).reshape(20, 15, 64)
    given = np.concatenate([difference(touch, free) for touch in (now, before)], axis=2)
    with torch.no_grad():
        tokens = encoder.tokens(torch.from_numpy(given)[None])[0].double().numpy()
    np.testing.assert_allclose(tokens, np.rot90(wanted, 1, (0, 1)), atol=2e-5)


def test_the_table_names_every_tensor_that_was_loaded_or_left_and_the_licence(
    tiny: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tactile_align")
    load_encoder(SPARSH, pretrained=sparsh_file(tmp_path / "dino_vitsmall.ckpt", sparsh_state()))
    head, _, _, *lines = caplog.text.split("\n")
    assert "29 of 29 tensors loaded" in head and "CC-BY-NC" in head and "30 left" in head
    rows = [line.split() for line in lines if line]
    assert ["loaded", "blocks.*.attn.qkv.weight", "192x64", "2"] in rows
    assert ["left", "student_encoder.backbone.norm.weight", "64", "1"] in rows
    assert sum(int(row[3]) for row in rows) == 59
    timm_file("test_vit", tmp_path / "own.pt")
    encoder = encoder_of(EncoderConfig(model=TIMM_VIT, pretrained=str(tmp_path / "own.pt")))
    assert encoder.fit is not None and list(encoder.fit.left) == ["head.weight", "head.bias"]
    assert encoder.origin is not None and "Licence of the weights: " in encoder.origin


def changed(**new: Any) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {name: value for name, value in {**state, **new}.items() if value is not None}


WRONG: dict[str, tuple[str, Callable[[dict[str, Tensor]], Any], str]] = {
    "of another timm model": (
        TIMM_VIT,
        lambda s: timm.create_model("test_resnet").state_dict(),
        r"0 of \d+ tensors fit; cls_token is missing",
    ),
    "with other patches": (
        TIMM_VIT,
        lambda s: {**s, "patch_embed.proj.weight": torch.zeros(64, 3, 14, 14)},
        r"patch_embed\.proj\.weight is \(64, 3, 14, 14\) instead of \(64, 3, 16, 16\)",
    ),
    "of a wider model": (
        TIMM_VIT,
        lambda s: {name: torch.cat([value, value], dim=-1) for name, value in s.items()},
        r"0 of .*cls_token is \(1, 1, 128\) instead of \(1, 1, 64\)",
    ),
    "without a block": (
        TIMM_VIT,
        lambda s: {name: value for name, value in s.items() if "blocks.5." not in name},
        r"blocks\.5\.norm1\.weight is missing",
    ),
    "with a further block": (
        TIMM_VIT,
        lambda s: {**s, "blocks.6.norm1.weight": torch.zeros(64)},
        r"blocks\.6\.norm1\.weight is unknown",
    ),
    "in the form of transformers": (
        TIMM_VIT,
        lambda s: {f"embeddings.{name}": value for name, value in s.items()},
        r"0 of .*: embeddings\.",
    ),
    "not finite": (TIMM_VIT, lambda s: {**s, "norm.bias": torch.full((64,), torch.nan)}, "must be finite"),
    "that runs code": (TIMM_VIT, lambda s: {"model": Path("x")}, "without running its code"),
    "of two models": (TIMM_VIT, lambda s: {"teacher": s, "student": s}, "teacher and student are dicts of tensors"),
    "of Sparsh for one frame": (
        SPARSH,
        lambda s: sparsh_state(channels=3),
        r"patch_embed\.proj\.weight is \(64, 3, 16, 16\) instead of \(64, 6, 16, 16\)",
    ),
    "of Sparsh for video": (
        SPARSH,
        changed(**{"patch_embed.proj.weight": torch.zeros(64, 3, 2, 16, 16)}),
        r"instead of \(64, 6, 16, 16\)",
    ),
    "of Sparsh without registers": (SPARSH, lambda s: sparsh_state(registers=0), "reg_token is missing"),
    "of Sparsh with other positions": (
        SPARSH,
        changed(**{"pos_embed.frequency_bands": torch.ones(2, 16)}),
        r"frequencies 10000\^\(-i / 16\)",
    ),
    "of a task on Sparsh": (
        SPARSH,
        lambda s: {"probe.weight": torch.zeros(3)},
        r"0 of 29 tensors fit; .* probe\.weight",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_refused_in_one_line_with_the_file_to_use(tiny: None, tmp_path: Path, kind: str) -> None:
    model, spoil, message = WRONG[kind]
    state = sparsh_state() if model == SPARSH else timm.create_model("test_vit").state_dict()
    torch.save(spoil(state), tmp_path / "wrong.pt")
    with pytest.raises(InputError, match=rf"^[^\n]*wrong\.pt[^\n]*{message}[^\n]*$"):
        load_encoder(model, pretrained=tmp_path / "wrong.pt")


def test_nothing_is_downloaded_and_the_error_says_how_to_obtain_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs a local file.*'lvd142m'.*hf download timm/vit_small_patch14_dinov2"):
        load_encoder("timm/vit_small_patch14_dinov2.lvd142m", pretrained="lvd142m")
    with pytest.raises(FileNotFoundError, match=r"x\.ckpt: no such file.*hf download facebook/sparsh-mae-base"):
        load_encoder("sparsh/mae_vitbase", pretrained=tmp_path / "x.ckpt")


def test_unknown_models_list_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"no model 'vit_tiny_patch16_22'.*vit_tiny_patch16_224"):
        load_encoder("timm/vit_tiny_patch16_22", pretrained="scratch")
    with pytest.raises(InputError, match=r"no Sparsh encoder 'sparsh/vjepa_vitbase'; supported: sparsh/dino_vitsmall"):
        load_encoder("sparsh/vjepa_vitbase", pretrained="scratch")
    with pytest.raises(InputError, match=r"needs images of 320x240 px.*\(224, 224\)"):
        input_size_of(SPARSH, (224, 224))
    with pytest.raises(InputError, match=r"stem = 'conv' needs .* got timm/test_vit"):
        load_encoder(TIMM_VIT, pretrained="scratch", stem="conv")


def test_a_sparsh_encoder_needs_differences_in_two_frames() -> None:
    sparsh = EncoderConfig(model=SPARSH, pretrained="scratch")
    FeatureConfig(touch=sparsh, touch_frames=2, touch_stride=5, touch_input="difference")
    for wrong in ({"touch": sparsh}, {"touch": sparsh, "touch_frames": 2}, {"vision": sparsh}):
        with pytest.raises(ValidationError, match=r"encodes touches only, as differences"):
            FeatureConfig(**wrong)  # type: ignore[arg-type]


def test_a_tower_from_elsewhere_that_a_run_saved_loads_without_the_first_file(tmp_path: Path) -> None:
    timm_file("test_vit", tmp_path / "own.pt")
    first = load_encoder(TIMM_VIT, pretrained=tmp_path / "own.pt", image_size=(64, 48)).eval()
    save_tower(tmp_path / "tower.safetensors", first.state_dict(), first.facts)
    again = load_encoder(TIMM_VIT, pretrained=tmp_path / "tower.safetensors", image_size=(64, 48)).eval()
    images = noise(1, 64, 48)
    with torch.no_grad():
        assert torch.equal(first.tokens(images), again.tokens(images))
    empty = encoder_of(EncoderConfig(model=TIMM_VIT, pretrained="gone/x.pt", image_size=(64, 48)), fill=False)
    empty.load_state_dict(first.state_dict())


@pytest.mark.parametrize("model", ["ViT-demo", TIMM_VIT, "timm/test_convnext"])
def test_a_window_of_equal_images_as_channels_gives_the_tokens_of_one_image(tmp_path: Path, model: str) -> None:
    torch.manual_seed(0)
    one = encoder_of(EncoderConfig(model=model, pretrained="scratch")).eval()
    save_tower(tmp_path / "tower.safetensors", one.state_dict(), one.facts)
    config = EncoderConfig(model=model, pretrained=str(tmp_path / "tower.safetensors"))
    three = encoder_of(config, frames=3).eval()
    images = noise(2, *one.input_size)
    with torch.no_grad():
        torch.testing.assert_close(three.tokens(images.repeat(1, 1, 1, 3)), one.tokens(images), atol=1e-4, rtol=1e-4)
        moved = three.tokens(torch.cat([images, images.flip(0), images], dim=3))
    assert not torch.allclose(moved, one.tokens(images), atol=1e-2)
    assert three.facts["frames"] == "3" and "frames" not in one.facts
