"""Files of weights: what is no such file is named with its cause, and every spelling of a state dict loads."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from tactile_align.errors import InputError
from tactile_align.features.encoder import load_encoder
from tactile_align.features.tensor_files import read_tensors
from tactile_align.policies.act import read_resnet18_weights, resnet18_backbone
from tactile_align.policies.build import check_weights
from tactile_align.training.loop import train
from tests.features.making import noise, save_clip
from tests.training.conftest import small_training

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 598641023\n"
PAGE = b"\n<!DOCTYPE html><html><body>404: not found</body></html>"
FOREIGN = {
    "empty file": (lambda whole: b"", "Copy or download"),
    "Git LFS pointer": (lambda whole: POINTER, "git lfs pull"),
    "web page": (lambda whole: PAGE, "Download"),
    "text in JSON": (lambda whole: b'{"error": "Repository not found"}', "Download"),
    "packed by gzip": (gzip.compress, "gunzip"),
    "truncated or damaged": (lambda whole: whole[: len(whole) // 3], "Copy it again"),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    return path, save_clip("ViT-demo", path).state_dict()


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_no_file_of_weights_is_named_with_its_cause_and_a_remedy(
    clip: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, kind: str, suffix: str
) -> None:
    spoil, remedy = FOREIGN[kind]
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(spoil(clip[0].read_bytes()))
    readers: list[Callable[[], object]] = [
        lambda: load_encoder("ViT-demo", pretrained=file),
        lambda: read_resnet18_weights(str(file)),
        lambda: read_tensors(file),
    ]
    for read in readers:
        with pytest.raises(InputError, match=rf"^[^\n]*weights\{suffix}: [^\n]*{kind}[^\n]*{remedy}[^\n]*$") as caught:
            read()
        assert "weights_only" not in str(caught.value)


def tower(state: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}


@pytest.mark.parametrize(
    "spell",
    [
        lambda state: state,
        lambda state: {"model": state, "step": 1},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3},
        tower,
        lambda state: {f"visual.{name}": value for name, value in tower(state).items()},
        lambda state: {f"module.{name}": value for name, value in tower(state).items()},
        lambda state: {"model_state_dict": tower(state), "optimizer": {"state": {}, "param_groups": []}},
    ],
)
def test_every_spelling_of_a_state_dict_gives_the_same_tokens(
    clip: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, spell: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    path, state = clip
    torch.save(spell(state), tmp_path / "spelt.pt")
    images = noise(2, 96, 96)
    with torch.no_grad():
        first, again = (
            load_encoder("ViT-demo", pretrained=p).eval().tokens(images) for p in (path, tmp_path / "spelt.pt")
        )
    assert torch.equal(first, again)


def test_a_dict_without_one_dict_of_tensors_is_named_by_its_entries(tmp_path: Path) -> None:
    one = {"w": torch.zeros(2)}
    for content, message in (
        (
            {"model": one, "ema": one, "step": 3},
            r"entries model, ema, step, of which model and ema are dicts of tensors",
        ),
        ({"epoch": 3}, "entries epoch"),
        ({}, "entries none"),
        ([torch.zeros(2)], "found list"),
    ):
        torch.save(content, tmp_path / "odd.pt")
        with pytest.raises(InputError, match=rf"odd\.pt: .*{message}"):
            read_tensors(tmp_path / "odd.pt")


def test_tensors_of_another_tower_are_shown_beside_those_that_are_needed(
    clip: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    torch.save({"conv9.weight": torch.zeros(3), "bias": torch.zeros(4)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt .*2: visual\.conv9\.weight.*visual\.class_embedding is missing"):
        load_encoder("ViT-demo", pretrained=tmp_path / "other.pt")
    torch.save({name: value for name, value in clip[1].items() if "ln_post" not in name}, tmp_path / "part.pt")
    with pytest.raises(InputError, match=r"part\.pt .*Missing key.*visual\.ln_post\.weight"):
        load_encoder("ViT-demo", pretrained=tmp_path / "part.pt")
    np.savez(tmp_path / "some.npz", a=np.zeros(3))
    with pytest.raises(InputError, match=r"some\.npz .*SigLIP"):
        load_encoder("ViT-demo", pretrained=tmp_path / "some.npz")


@pytest.mark.parametrize("alone", [False, True])
def test_weights_that_are_not_finite_are_named_before_they_spoil_a_step(
    clip: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, alone: bool
) -> None:
    spoilt = {**clip[1], "visual.proj": torch.full_like(clip[1]["visual.proj"], torch.nan)}
    torch.save(tower(spoilt) if alone else spoilt, tmp_path / "nan.pt")
    with pytest.raises(InputError, match=r"nan\.pt: weights must be finite; .* visual\.proj \(1 of"):
        load_encoder("ViT-demo", pretrained=tmp_path / "nan.pt")
    backbone = {**resnet18_backbone().state_dict()}
    backbone["conv1.weight"] = backbone["conv1.weight"] * torch.inf
    torch.save(backbone, tmp_path / "resnet.pt")
    with pytest.raises(InputError, match=r"resnet\.pt: weights must be finite; .* conv1\.weight"):
        read_resnet18_weights(str(tmp_path / "resnet.pt"))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_numbers_that_do_not_fit_a_learnt_tensor_are_refused_whatever_its_name(
    clip: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, dtype: torch.dtype
) -> None:
    for name in ("visual.class_embedding", "visual.conv1.weight"):
        torch.save({**clip[1], name: clip[1][name].to(dtype)}, tmp_path / "odd.pt")
        with pytest.raises(InputError, match=rf"odd\.pt.*{name} is of type {str(dtype).removeprefix('torch.')}"):
            load_encoder("ViT-demo", pretrained=tmp_path / "odd.pt")
    backbone = dict(resnet18_backbone().state_dict())
    backbone["bn1.running_mean"] = backbone["bn1.running_mean"].to(dtype)
    torch.save(backbone, tmp_path / "resnet.pt")
    with pytest.raises(InputError, match=r"resnet\.pt.*bn1\.running_mean is "):
        read_resnet18_weights(str(tmp_path / "resnet.pt"))


def test_unusable_weights_are_found_before_episodes_are_read(tmp_path: Path) -> None:
    (tmp_path / "lfs.pt").write_bytes(POINTER)
    model = {"model": "ViT-demo", "pretrained": str(tmp_path / "lfs.pt")}
    vision, scratch = {"vision": model}, {"vision": {**model, "pretrained": "scratch"}}
    resnet = {"vision": "resnet18", "cameras": ["left_wrist"], "vision_weights": str(tmp_path / "lfs.pt")}
    for changes in (
        {"features": vision},
        {"features": {**scratch, "touch": model}},
        {"features": scratch, "policy": resnet},
        {"features": scratch, "init": str(tmp_path / "lfs.pt")},
    ):
        config = small_training(tmp_path / "no_recordings", tmp_path / "run", **changes)
        with pytest.raises(InputError, match=r"lfs\.pt: .*Git LFS pointer"):
            train(config, progress=False)
    unused = {"features": vision, "hsa": {"weight": 0.0}, "train_policy": True, "contact_share": "natural"}
    blind = {"vision": "none", "region_tokens": False, "touch_tokens": False}
    check_weights(small_training(tmp_path, tmp_path / "run", policy=blind, **unused))


def test_a_tower_alone_is_warned_of_too_where_it_may_need_quickgelu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = open_clip.create_model("ViT-demo", pretrained=None).visual.state_dict()
    torch.save(state, tmp_path / "tower.pt")
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda model: ["openai"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: {"quick_gelu": True})
    with pytest.warns(UserWarning, match=r"tower\.pt does not state"):
        load_encoder("ViT-demo", pretrained=tmp_path / "tower.pt")
