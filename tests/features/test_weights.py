"""Pretrained weights of image encoders: tags, files, and the errors that name a way out."""

import json
import re
import shlex
import warnings
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch

from tactile_align.errors import MissingExtra
from tactile_align.features.encoder import encoder_of, load_encoder
from tactile_align.features.weights import catalogue_of, input_size_of
from tests.features.making import CLIP_MEAN, CLIP_STD, noise, save_clip


def test_a_checkpoint_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("x")}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd\.pt"):
        load_encoder("ViT-demo", pretrained=tmp_path / "odd.pt")


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"visual.conv1.weight": torch.zeros(4, 3, 8, 8)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt do not fit the model ViT-demo"):
        load_encoder("ViT-demo", pretrained=tmp_path / "other.pt")


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
