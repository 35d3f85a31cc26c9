"""Files of weights in many spellings, sound and damaged, and what is wrong with the encoder that is read from them."""

import gzip
import pickle
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tactile_align.errors import InputError
from tactile_align.features.encoder import load_encoder
from tests.features.making import save_clip


@cache
def _state() -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        save_clip("ViT-demo", Path(folder) / "clip.pt")
        return dict(torch.load(Path(folder) / "clip.pt"))


def fault_of(folder: Path, rng: np.random.Generator) -> str:
    """Return what is wrong with the encoder from a random spelling of a state dict, damaged in half of the inputs."""
    with warnings.catch_warnings(action="ignore"):  # of torch about quantised tensors, of ours about QuickGELU
        return _fault_of(folder, rng)


def _fault_of(folder: Path, rng: np.random.Generator) -> str:
    state = _state()
    tower = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    named = {f"visual.{name}": value for name, value in tower.items()}
    spelt = dict([state, tower, named][rng.integers(3)])
    of_tower = tower if "proj" in spelt else named
    weight = str(rng.choice([name for name, value in of_tower.items() if value.ndim > 1]))
    hurts = rng.random() < 0.5
    if hurts and rng.random() < 0.6:
        value = spelt[weight]
        wrong_value = [
            torch.full_like(value, torch.nan),
            torch.where(torch.arange(value.numel()).view_as(value) == 1, torch.inf, value),
            (value * 1000).to(torch.int8),
            (value * 1000).long(),
            value > 0,
            value.to(torch.complex64),
            value[..., :-1].clone(),
            value.flatten(),
            torch.zeros(()),
            value.to_sparse(),
            torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
            value.to("meta"),
            value.numpy(),
            None,
        ][rng.integers(14)]
        spelt[weight] = wrong_value  # type: ignore[assignment]
        if wrong_value is None:
            del spelt[weight]
        damage: Callable[[bytes], bytes] = bytes
    else:
        damage = FOREIGN[rng.integers(len(FOREIGN))] if hurts else bytes
    dtype = [torch.float32, torch.float16, torch.bfloat16, torch.float64][rng.integers(4)]
    if not hurts:
        spelt = {name: value.to(dtype) for name, value in spelt.items()}
    prefix = str(rng.choice(["", "", "module."]))
    spelt = {f"{prefix}{name}": value for name, value in spelt.items()}
    path = folder / f"weights{rng.choice(['.pt', '.safetensors', '.bin', '.pth'])}"
    try:
        if path.suffix == ".safetensors":
            save_file({name: value.contiguous() for name, value in spelt.items()}, path)
        else:
            wraps = [
                spelt,
                {"state_dict": spelt, "epoch": 3},
                {"model": spelt, "optimizer": {"lr": 0.1}},
                OrderedDict(spelt),
            ]
            torch.save(wraps[rng.integers(4)], path, _use_new_zipfile_serialization=bool(rng.integers(4)))
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return ""  # no such file can be written
    path.write_bytes(damage(path.read_bytes()))
    try:
        found = load_encoder("ViT-demo", pretrained=path).state_dict()
    except InputError as error:
        is_named = str(path) in str(error) and "\n" not in str(error) and "weights_only" not in str(error)
        return "" if hurts and is_named else f"refused: {error}"
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    if hurts:
        return f"read, though {weight} of {path.name} is damaged"
    other = [name for name, value in tower.items() if not torch.equal(found[f"visual.{name}"], value.to(dtype).float())]
    return f"other values in {other[:3]}" if other else ""


FOREIGN: list[Callable[[bytes], bytes]] = [
    lambda whole: b"",
    lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 598641023\n",
    lambda whole: b"\n<!DOCTYPE html><html><body>404: not found</body></html>",
    lambda whole: b'{"error": "Repository not found"}',
    lambda whole: b"\x89HDF\r\n\x1a\n" + whole,
    gzip.compress,
    lambda whole: whole[: len(whole) // 3],
    lambda whole: whole[:-40],
    lambda whole: whole[:20],
    lambda whole: whole[100:],
    lambda whole: bytes(1000),
    lambda whole: pickle.dumps({"a": np.zeros(3)}),
    lambda whole: b"PK\x03\x04" + bytes(200),
]
