"""Files of named tensors: safetensors, or torch files read without running any code from them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tactile_align.errors import InputError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a .safetensors file or a torch state-dict file, on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file holds something other than named tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: needed a file of tensors; there is none. Check the path.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(
                f"{path}: needed a whole .safetensors file; it is damaged ({error}). Copy it again"
            ) from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(
            f"{path}: needed a torch file of plain tensors; reading it without running its code failed. "
            "Save it again as a state dict, best as .safetensors."
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        kind = type(loaded).__name__
        raise InputError(
            f"{path}: needed a dict of named tensors; got a {kind} that holds other things. "
            "Save the model's state_dict() alone."
        )
    return dict(loaded)
