"""open_clip towers as token grids."""

import json
import logging
import re
import shlex
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch

from tactile_align.config.features import EncoderConfig
from tactile_align.errors import InputError, MissingExtra
from tactile_align.features.encoder import Encoder, catalogue_of, encoder_of, input_size_of, load_encoder
from tests.features.making import demo_encoder, noise, save_clip

CLIP_MEAN, CLIP_STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


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


def test_a_checkpoint_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("x")}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd\.pt"):
        load_encoder("ViT-demo", pretrained=tmp_path / "odd.pt")


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"visual.conv1.weight": torch.zeros(4, 3, 8, 8)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt do not fit the model ViT-demo"):
        load_encoder("ViT-demo", pretrained=tmp_path / "other.pt")


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


def test_an_unknown_model_lists_near_names() -> None:
    with pytest.raises(ValueError, match=r"no model 'ViT-B16'.*ViT-B-16"):
        load_encoder("ViT-B16", pretrained="scratch")
    with pytest.raises(ValueError, match="no model 'ViT-Q'"):
        input_size_of("ViT-Q", None)


def test_an_unknown_tag_lists_near_tags() -> None:
    with pytest.raises(ValueError, match=r"ViT-B-16 has no pretrained tag 'laion2b'.*laion2b_s34b_b88k"):
        load_encoder("ViT-B-16", pretrained="laion2b")


def test_a_missing_checkpoint_file_is_not_taken_for_a_tag() -> None:
    with pytest.raises(FileNotFoundError, match=r"weights/clip\.pt: no such checkpoint"):
        load_encoder("ViT-demo", pretrained=Path("weights") / "clip.pt")


def test_an_unreachable_hub_says_how_to_fetch_the_file_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConnectionError) as caught:
        load_encoder("ViT-B-16", pretrained="laion2b_s34b_b88k")
    text = str(caught.value)
    assert "laion2b_s34b_b88k" in text and "laion/CLIP-ViT-B-16-laion2B-s34B-b88K" in text and "path" in text
    assert "\n" not in text


def test_weights_trained_with_quickgelu_are_run_with_quickgelu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save_clip("ViT-demo", tmp_path / "weights.pt")
    table = {"openai": {"url": (tmp_path / "weights.pt").as_uri(), "quick_gelu": True}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-demo", table)
    monkeypatch.setenv("HOME", str(tmp_path))
    encoder = load_encoder("ViT-demo", pretrained="openai")
    kinds = {type(m).__name__ for m in encoder.modules() if "GELU" in type(m).__name__}
    assert kinds == {"QuickGELU"}


@pytest.fixture
def quick_pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A small model with a "-quickgelu" twin and a tag trained with it, whose hub cannot be reached."""
    text = {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 1, "layers": 1}
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}
    for name, more in (("small-vit", {}), ("small-vit-quickgelu", {"quick_gelu": True})):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, **more}), encoding="utf-8")
        open_clip.add_model_config(path)
        tags = {
            "openai": {"hf_hub": "some/vit.openai/", "quick_gelu": True, "mean": CLIP_MEAN, "std": CLIP_STD},
            "plain": {"hf_hub": "some/vit/weights.bin", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)},
        }
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, tags)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return "small-vit"


def features_of_open_clip(model: str, path: Path, quick: bool) -> torch.Tensor:
    """Return what open_clip makes of two noisy images with the weights at `path`, run with that activation."""
    clip = open_clip.create_model(model, pretrained=str(path), force_quick_gelu=quick).eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    x = (noise(2, 32, 32).permute(0, 3, 1, 2) / 255.0 - mean) / std
    with torch.no_grad():
        found = clip.visual.forward_intermediates(x, indices=[1], normalize_intermediates=True, output_fmt="NCHW")
    tokens: torch.Tensor = found["image_intermediates"][0].permute(0, 2, 3, 1)
    return tokens


def test_following_the_advice_for_an_unreachable_tag_gives_the_features_of_the_tag(
    quick_pair: str, tmp_path: Path
) -> None:
    with pytest.raises(ConnectionError) as caught:
        load_encoder(quick_pair, pretrained="openai")
    advice = re.search(
        r"run: (.*); then set `pretrained` to the file's path and `model` to '([^']*)'$", str(caught.value)
    )
    assert advice is not None
    commands = [shlex.split(one) for one in advice[1].split("||")]
    assert [one[:3] for one in commands] == [["hf", "download", "some/vit.openai"]] * 2
    assert [one[3:] for one in commands] == [["open_clip_model.safetensors"], ["open_clip_pytorch_model.bin"]]
    save_clip(quick_pair, tmp_path / "weights.pt")
    encoder = load_encoder(advice[2], pretrained=tmp_path / "weights.pt").eval()
    with torch.no_grad():
        tokens = encoder.tokens(noise(2, 32, 32))
    assert torch.equal(tokens, features_of_open_clip(quick_pair, tmp_path / "weights.pt", quick=True))
    assert not torch.allclose(
        tokens, features_of_open_clip(quick_pair, tmp_path / "weights.pt", quick=False), atol=1e-3
    )


def test_advice_for_a_tag_of_plain_gelu_names_its_own_file_and_no_other_model(quick_pair: str) -> None:
    with pytest.raises(ConnectionError, match=r"run: hf download some/vit weights\.bin; then set `pretrained` to"):
        load_encoder(quick_pair, pretrained="plain")


def test_every_quickgelu_tag_of_open_clip_is_advised_the_model_it_is_without_its_tag() -> None:
    pairs = [
        (model, tag)
        for model, tag in open_clip.list_pretrained()
        if not model.endswith("-quickgelu") and open_clip.get_pretrained_cfg(model, tag).get("quick_gelu")
    ]
    assert ("ViT-B-16", "openai") in pairs
    for model, tag in pairs:
        advised = re.search(r" and `model` to '([^']*)'", catalogue_of(model).how_to_fetch(tag))
        assert advised is not None, (model, tag)
        want = open_clip.get_model_config(model) | {"quick_gelu": True}
        assert open_clip.get_model_config(advised[1]) == want, (model, tag)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("repository", "kind"), [("vit.openai", "QuickGELU"), ("vit", "GELU")])
def test_a_file_in_the_hubs_cache_is_run_as_its_tag_says(
    quick_pair: str, tmp_path: Path, repository: str, kind: str
) -> None:
    path = tmp_path / f"models--some--{repository}" / "snapshots" / "f00" / "open_clip_model.bin"
    path.parent.mkdir(parents=True)
    save_clip(quick_pair, path)
    filled = load_encoder(quick_pair, pretrained=path)
    path.unlink()
    rebuilt = encoder_of(filled.config, fill=False)  # as a checkpoint of ours is, where the file is gone
    for encoder in (filled, rebuilt):
        assert {type(m).__name__ for m in encoder.modules() if "GELU" in type(m).__name__} == {kind}
        assert (encoder.mean.flatten().tolist() == [0.5] * 3) == (kind == "GELU")


def test_a_file_that_may_need_quickgelu_is_run_as_named_with_a_warning(quick_pair: str, tmp_path: Path) -> None:
    save_clip(quick_pair, tmp_path / "weights.pt")
    with pytest.warns(
        UserWarning, match=r"weights\.pt does not state .*openai, set `model` to 'small-vit-quickgelu'"
    ) as caught:
        load_encoder(quick_pair, pretrained=tmp_path / "weights.pt")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_encoder(f"{quick_pair}-quickgelu", pretrained=tmp_path / "weights.pt")


def test_a_file_for_a_model_without_a_quickgelu_twin_is_warned_of_without_naming_a_model(
    quick_pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_clip(quick_pair, tmp_path / "weights.pt")
    monkeypatch.setattr(open_clip, "list_models", lambda: ["ViT-demo", quick_pair])
    with pytest.warns(UserWarning, match=r"QuickGELU") as caught:
        load_encoder(quick_pair, pretrained=tmp_path / "weights.pt")
    (text,) = [str(one.message) for one in caught]
    assert text.endswith("openai, set `pretrained` to that tag, which selects QuickGELU")


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_torchscript_archive_as_openai_gives_them_is_refused_with_the_way_to_its_weights(
    quick_pair: str, tmp_path: Path
) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "ViT.pt"))
    want = r"ViT\.pt: expected a state dict.*TorchScript archive.*hf download some/vit\.openai .*'small-vit-quickgelu'"
    with pytest.raises(ValueError, match=want):
        load_encoder(quick_pair, pretrained=tmp_path / "ViT.pt")
    with pytest.raises(ValueError, match=r"TorchScript archive.*Save its state dict"):
        load_encoder("ViT-demo", pretrained=tmp_path / "ViT.pt")


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


def registered(folder: Path, name: str, embed_dim: int, vision: dict[str, Any]) -> str:
    """Tell open_clip of a small model and return its name."""
    text = {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 1, "layers": 1}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text}), encoding="utf-8")
    open_clip.add_model_config(path)
    return name


@pytest.fixture(scope="module")
def timm_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small timm tower, as open_clip's SigLIP towers are timm's."""
    return registered(
        tmp_path_factory.mktemp("models"),
        "timm-tiny",
        192,
        {"image_size": 224, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token"},
    )


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


def test_a_text_tower_of_hugging_face_is_not_needed_from_scratch_and_asked_for_by_name_with_weights(
    tmp_path: Path,
) -> None:
    facts = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"},
    }
    path = tmp_path / "roberta-small.json"
    path.write_text(json.dumps(facts), encoding="utf-8")
    open_clip.add_model_config(path)
    encoder = load_encoder(path.stem, pretrained="scratch").eval()
    assert encoder.tokens(noise(2, 64, 64)).shape == (2, 4, 4, 64)
    save_clip("ViT-demo", tmp_path / "clip.pt")
    if find_spec("transformers") is None:
        with pytest.raises(MissingExtra, match=r"roberta-small.*pip install transformers"):
            load_encoder(path.stem, pretrained=tmp_path / "clip.pt")


def test_a_checkpoint_file_is_normalised_as_all_tags_of_its_model_are(
    tmp_path: Path, timm_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_clip("ViT-demo", tmp_path / "clip.pt")
    clip_like = load_encoder("ViT-demo", pretrained=tmp_path / "clip.pt")
    assert clip_like.mean.flatten().tolist() == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    half = {"url": "", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, timm_model, {"a": half, "b": half})
    save_clip(timm_model, tmp_path / "other.pt")
    other = load_encoder(timm_model, pretrained=tmp_path / "other.pt")
    assert other.mean.flatten().tolist() == [0.5] * 3 and other.std.flatten().tolist() == [0.25] * 3


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
