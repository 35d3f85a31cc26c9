"""Reader of files of named tensors, .safetensors and torch.save files, which states what an unusable file is."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tactile_align.checks import text_table
from tactile_align.errors import InputError
from tactile_align.files import foreign_file


def read_torch(path: Path) -> Any:
    """Return the contents of a torch.save file, on the CPU; the file may contain only tensors and plain values.

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: The file cannot be read.
        InputError: The file is truncated, damaged or of another kind, or contains other objects.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a file of tensors. Check the path")
    path.open("rb").close()  # torch raises an OSError for a truncated file too
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        if "GLOBAL" in str(error) and not foreign_file(path):  # torch names the Python object that it refuses to build
            raise InputError(
                f"{path}: expected a file of tensors and plain values; the file contains objects that cannot be read "
                f"without running its code. Save the weights as .safetensors"
            ) from error
        raise unreadable(path) from error


def header_of(path: Path) -> dict[str, str]:
    """Return the texts in the header of a .safetensors file, by name; empty if `path` is not a .safetensors file.

    Raises:
        InputError: The file is damaged.
    """
    return read_safetensors(path, tensors=False)[1] if path.suffix == ".safetensors" and path.is_file() else {}


def read_safetensors(path: Path, tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a .safetensors file, and the texts in its header; `tensors` = False reads only the texts.

    Raises:
        FileNotFoundError: The file does not exist.
        InputError: The file is damaged, or of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a file of tensors. Check the path")
    try:
        with safe_open(path, "pt") as file:
            names = file.keys() if tensors else []
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise unreadable(path) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the named tensors of a .safetensors or torch.save file, on the CPU, and the name of the file's entry.

    The tensors may be the file's content, its entry `state_dict`, or its only entry that is a dict of tensors. The name
    is "" for the content itself.

    Raises:
        FileNotFoundError, OSError: As for `read_torch`.
        InputError: The file is damaged, contains something other than named tensors, or a tensor is sparse, without
            data, complex or quantised. `require_floating` checks the types of numbers that a model needs.
    """
    tensors, entry = (read_safetensors(path)[0], "") if path.suffix == ".safetensors" else _state_in(path)
    for name, value in tensors.items():
        if what := _unfit_for_weights(value):
            raise _unfit(path, name, what)
    return tensors, entry


def require_floating(tensors: Mapping[str, Tensor], model: nn.Module, source: str | Path) -> None:
    """Check that the tensors of a file `source` are of a type that the floating-point tensors of a model can take.

    Raises:
        InputError: A tensor is of whole numbers or of 8-bit floating-point numbers; the message names it.
    """
    for name, wanted in model.state_dict().items():
        if name in tensors and wanted.is_floating_point() and tensors[name].dtype not in FLOATING:
            raise _unfit(source, name, f"of type {tensors[name].dtype}")


FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _unfit(source: str | Path, name: str, what: str) -> InputError:
    return InputError(
        f"{source}: weights must be dense floating-point tensors; {name} is {what.replace('torch.', '')}. Save the "
        f"model's weights as float32, float16 or bfloat16, before it is quantised"
    )


def _unfit_for_weights(value: Tensor) -> str:
    """Return why a tensor cannot be loaded unchanged into any model; "" if it can."""
    if value.is_meta:
        return "on the device meta, without data"
    if value.layout != torch.strided:
        return "sparse"
    return f"of type {value.dtype}" if value.is_complex() or value.is_quantized else ""


def _state_in(path: Path) -> tuple[dict[str, Tensor], str]:
    loaded = read_torch(path)
    if _is_state(loaded):
        return dict(loaded), ""
    entries = [str(name) for name, value in loaded.items() if _is_state(value)] if isinstance(loaded, Mapping) else []
    chosen = ["state_dict"] if "state_dict" in entries else entries
    if len(chosen) != 1:
        names = list(map(str, loaded)) if isinstance(loaded, Mapping) else None
        found = type(loaded).__name__ if names is None else f"a dict with the entries {', '.join(names[:6]) or 'none'}"
        which = f", of which {' and '.join(entries)} are dicts of tensors" if entries else ""
        raise InputError(
            f"{path}: expected a dict of named tensors; found {found}{which}. Save only the model's state_dict()"
        )
    return dict(loaded[chosen[0]]), chosen[0]


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and len(value) > 0 and all(isinstance(one, Tensor) for one in value.values())


def unreadable(path: Path) -> InputError:
    """Return the error for a file that is no file of tensors, or a damaged one."""
    damaged = "a truncated or damaged file, or one of another kind", "Copy it again, or use an earlier file"
    with path.open("rb") as file:
        is_hdf5 = file.read(6) == b"\x89HDF\r\n"
    what, remedy = ("an HDF5 file", "Check the path") if is_hdf5 else foreign_file(path) or damaged
    return InputError(f"{path}: expected a file of tensors and plain values; found {what}. {remedy}")


def mismatches(tensors: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    """Return one line for each tensor that is missing, is unknown or has another shape than in the model."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    both = [name for name in wanted if name in shapes]
    wrong = [f"{k} is {shapes[k]} instead of {wanted[k]}" for k in both if shapes[k] != wanted[k]]
    missing = [f"{name} is missing" for name in wanted if name not in shapes]
    return wrong + missing + [f"{name} is unknown" for name in shapes if name not in wanted]


Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorFit:
    """Comparison of the tensors of a file with those of a model.

    Attributes:
        loaded: Shapes of the tensors that both have in equal shape, by name.
        left: Shapes of the file's tensors that the model does not have, by name.
        missing: Shapes of the model's tensors that the file does not have, by name.
        wrong: (shape in the file, shape in the model) where these differ, by name.
    """

    loaded: dict[str, Shape]
    left: dict[str, Shape]
    missing: dict[str, Shape]
    wrong: dict[str, tuple[Shape, Shape]]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], model: nn.Module) -> "TensorFit":
        """Return the comparison of the tensors of a file, by the names of a model, with the model."""
        wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        came = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        return cls(
            loaded={name: shape for name, shape in came.items() if wanted.get(name) == shape},
            left={name: shape for name, shape in came.items() if name not in wanted},
            missing={name: shape for name, shape in wanted.items() if name not in came},
            wrong={n: (came[n], shape) for n, shape in wanted.items() if n in came and came[n] != shape},
        )

    def with_left(self, tensors: Mapping[str, Tensor]) -> "TensorFit":
        """Return the comparison with further tensors that are left in the file."""
        return replace(self, left={**self.left, **{name: tuple(tensor.shape) for name, tensor in tensors.items()}})

    def with_wrong(self, wrong: Mapping[str, tuple[Shape, Shape]]) -> "TensorFit":
        """Return the comparison with further tensors of a wrong shape, which then do not count as loaded."""
        loaded = {name: shape for name, shape in self.loaded.items() if name not in wrong}
        return replace(self, loaded=loaded, wrong={**self.wrong, **wrong})

    def more_of_the_same(self, model: nn.Module) -> dict[str, Shape]:
        """Return the tensors left in the file that continue a sequence of the model, such as those of a 13th block."""
        patterns = {_pattern(name) for name in model.state_dict() if _pattern(name) != name}
        return {name: shape for name, shape in self.left.items() if _pattern(name) in patterns}

    def text(self) -> str:
        """Return a table of all tensors. Tensors of equal shape whose names differ in a number share a line."""
        rows: dict[tuple[str, str, Shape], int] = {}
        for state in ("loaded", "left", "missing"):
            for name, shape in getattr(self, state).items():
                key = (state, _pattern(name), shape)
                rows[key] = rows.get(key, 0) + 1
        cells = [(state, name, "x".join(map(str, shape)) or "1", str(n)) for (state, name, shape), n in rows.items()]
        return "\n".join(text_table(("", "tensor", "shape", "number"), cells))


def _pattern(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def require_finite(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Check that weights are finite.

    Raises:
        InputError: A tensor contains nan or infinity; the message states `source` and the tensors.
    """
    bad = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise InputError(
            f"{source}: weights must be finite; found nan or infinity in {', '.join(bad[:3])}{more} ({len(bad)} of "
            f"{len(tensors)} tensors). The training that wrote them diverged: use earlier weights"
        )
