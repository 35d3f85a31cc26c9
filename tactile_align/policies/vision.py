"""Image backbone of ACT: a ResNet-18 up to its last feature map, with frozen batch norm."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from tactile_align.errors import InputError
from tactile_align.policies.checkpoint import read_torch


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a .safetensors file or a torch state-dict file, on the CPU.

    Raises:
        FileNotFoundError: The file does not exist.
        InputError: The file is damaged, or contains something other than named tensors.
    """
    if path.suffix == ".safetensors" and path.is_file():
        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"{path}: the .safetensors file is damaged ({error}). Copy the file again") from error
    loaded = read_torch(path)
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise InputError(
            f"{path}: expected a dict of named tensors; found "
            f"{'a dict with other values' if isinstance(loaded, dict) else type(loaded).__name__}. Save only the "
            f"model's state_dict()."
        )
    return dict(loaded)


def mismatches(tensors: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    """Return one line for each tensor that is missing, is unknown or has another shape than in the model."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    both = [name for name in wanted if name in shapes]
    wrong = [f"{k} is {shapes[k]} instead of {wanted[k]}" for k in both if shapes[k] != wanted[k]]
    missing = [f"{name} is missing" for name in wanted if name not in shapes]
    return wrong + missing + [f"{name} is unknown" for name in shapes if name not in wanted]


RESNET18_CHANNELS = 512


def resnet18_backbone() -> nn.Sequential:
    """Return a ResNet-18 with random weights, without pooling and classifier: (B, 3, H, W) -> (B, 512, H/32, W/32).

    Its state-dict keys are those of torchvision without `fc`. Batch norm is frozen because batches of robot images are
    too small and too similar for statistics to be estimated from them.
    """
    resnet = torchvision.models.resnet18(weights=None, norm_layer=FrozenBatchNorm2d)
    return nn.Sequential(OrderedDict((k, m) for k, m in resnet.named_children() if k not in ("avgpool", "fc")))


def read_resnet18_weights(name: str) -> dict[str, Tensor]:
    """Return the backbone tensors of a torchvision tag (`IMAGENET1K_V1`) or of a local file.

    Raises:
        FileNotFoundError: `name` is neither a known tag nor a file.
        InputError: The file does not contain a complete ResNet-18.
    """
    tags = torchvision.models.ResNet18_Weights.__members__
    tag = name.removeprefix("ResNet18_Weights.")
    if tag in tags:
        tensors = dict(tags[tag].get_state_dict(progress=False, check_hash=True, weights_only=True))
    elif Path(name).is_file():
        tensors = read_tensors(Path(name))
    else:
        raise FileNotFoundError(
            f"vision_weights must be one of {sorted(tags)}, the path of a file, or 'scratch'; "
            f"got '{name}', and no such file exists. Correct vision_weights."
        )
    # Frozen batch norm has no batch counter, and the classifier is not used.
    kept = {k: v for k, v in tensors.items() if not k.startswith("fc.") and not k.endswith(".num_batches_tracked")}
    if faults := mismatches(kept, resnet18_backbone()):
        raise InputError(
            f"{name}: expected the tensors of a ResNet-18 with torchvision's names; {len(faults)} do not fit: "
            f"{'; '.join(faults[:4])}. Use a torchvision ResNet-18 state dict."
        )
    return kept
