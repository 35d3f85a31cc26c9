"""Image backbone of ACT: a ResNet-18 up to its last feature map, with frozen batch norm."""

from collections import OrderedDict
from pathlib import Path

import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from tactile_align.errors import InputError
from tactile_align.features.tensor_files import mismatches, read_tensors, require_finite

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
        tensors, _ = read_tensors(Path(name))
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
    require_finite(kept, name)
    return kept
