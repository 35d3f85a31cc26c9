"""Any open_clip image tower as a grid of tokens."""

import difflib
import warnings
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from torch import Tensor, nn

from tactile_align.features.stem import ConvStem
from tactile_align.geometry.images import ImageMap

Fit = Literal["stretch", "letterbox"]
SCRATCH = "scratch"


class Encoder(nn.Module):
    """An image tower whose patch tokens keep their place in the image.

    Built by `load_encoder`.

    Attributes:
        name: Model name and where its weights come from, "ViT-B-16 (openai)" or "ViT-demo (SCRATCH)".
        scratch: Whether the weights are random.
        input_size: (width, height) of the images `tokens` takes, px.
        grid: (rows, columns) of tokens.
        width: D, the length of a token.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        visual: Any,
        name: str,
        scratch: bool,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        fit: Fit,
    ) -> None:
        super().__init__()
        self.visual, self.name, self.scratch, self.fit = visual, name, scratch, fit
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        height, width = visual.image_size if isinstance(visual.image_size, tuple) else (visual.image_size,) * 2
        self.input_size = (int(width), int(height))
        training = visual.training
        visual.eval()
        with torch.no_grad():
            probe = self._features(torch.zeros(1, 3, height, width))
        visual.train(training)
        self.width = int(probe.shape[1])
        self.grid = (int(probe.shape[2]), int(probe.shape[3]))

    def input_map(self, width: int, height: int) -> ImageMap:
        """Return how a width x height image becomes this encoder's input; move boxes by the same map."""
        whole = ImageMap.identity(width, height)
        return whole.letterbox(*self.input_size) if self.fit == "letterbox" else whole.resize(*self.input_size)

    def tokens(self, images: Tensor) -> Tensor:
        """Return the token grid of the last block, after the final norm.

        Args:
            images: (B, H, W, 3) uint8 RGB of exactly `input_size`.

        Returns:
            (B, rows, columns, D).

        Raises:
            ValueError: Another dtype or size; images must go through `input_map` first and stay uint8.
        """
        width, height = self.input_size
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != (height, width, 3):
            raise ValueError(
                f"{self.name} takes uint8 RGB images of shape (B, {height}, {width}, 3); got {images.dtype} "
                f"{tuple(images.shape)}. Bring them through Encoder.input_map(width, height).apply_to_image; the "
                f"encoder itself subtracts its mean and divides by its std"
            )
        x = images.permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0
        return self._features((x - self.mean) / self.std).permute(0, 2, 3, 1)

    def _features(self, x: Tensor) -> Tensor:
        visual: Any = self.visual
        found = visual.forward_intermediates(
            x,
            indices=1,
            normalize_intermediates=True,
            output_fmt="NCHW",
            intermediates_only=True,
            stop_early=True,
        )
        features: Tensor = found["image_intermediates"][-1]
        return features


def load_encoder(
    model: str,
    *,
    pretrained: str | Path,
    image_size: tuple[int, int] | None = None,
    fit: Fit = "stretch",
    stem: Literal["patch", "conv"] = "patch",
) -> Encoder:
    """Build an image encoder.

    Args:
        model: An open_clip model name ("ViT-B-16", "ViT-B-16-quickgelu", timm towers included), or "ViT-demo",
            a small one for tests and the demo.
        pretrained: An open_clip tag ("laion2b_s34b_b88k"), the path of a checkpoint file, or "scratch" for random
            weights. There is no default: a random encoder has to be asked for by name.
        image_size: (width, height) of its input, px; None keeps the model's own. Positional embeddings of
            pretrained weights are interpolated.
        fit: How an image is brought to that size: stretched, or letterboxed with its aspect kept.
        stem: "conv" puts a convolutional stem in place of the patch projection; for scratch training only.

    Raises:
        ValueError: Unknown model or tag (near names are listed), or a checkpoint that does not fit.
        FileNotFoundError: `pretrained` looks like a path and no file is there.
        ConnectionError: The weights of a tag could not be fetched; says how to fetch the file elsewhere.
    """
    _register_own_models()
    _require_model(model)
    scratch = str(pretrained) == SCRATCH
    if stem == "conv" and not scratch:
        raise ValueError("stem='conv' replaces pretrained weights of the patch projection; use it with 'scratch' only")
    tag_or_path = None if scratch else _tag_or_path(model, pretrained)
    size = None if image_size is None else (image_size[1], image_size[0])
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No potential checkpoint")
            clip = open_clip.create_model(
                _with_quickgelu(model, tag_or_path),
                pretrained=tag_or_path,
                force_image_size=size,
                pretrained_text=False,
                weights_only=True,
            )
    except RuntimeError as error:
        if "Failed to download" in str(error):
            raise ConnectionError(
                f"the weights '{pretrained}' of {model} could not be fetched. Fetch the checkpoint file on a machine "
                f"with network access and give its path as `pretrained`"
            ) from error
        raise ValueError(f"{pretrained} does not fit {model}: {error}") from error
    visual = clip.visual
    if stem == "conv":
        patch = visual.conv1.stride[0]
        visual.conv1 = ConvStem(visual.conv1.out_channels, patch)
    mean = getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    std = getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
    source = "SCRATCH" if scratch else str(pretrained)
    _freeze_unused(visual)
    return Encoder(visual, f"{model} ({source})", scratch, tuple(mean), tuple(std), fit)


def input_size_of(model: str, image_size: tuple[int, int] | None) -> tuple[int, int]:
    """Return (width, height) of a model's input without building it; raises as `load_encoder` for unknown names."""
    _register_own_models()
    _require_model(model)
    if image_size is not None:
        return image_size
    size = open_clip.get_model_config(model)["vision_cfg"]["image_size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(width), int(height)


def _freeze_unused(visual: nn.Module) -> None:
    """The tower's projection to text space takes no part in token features; it must not look trainable."""
    projection = getattr(visual, "proj", None)
    if isinstance(projection, nn.Parameter):
        projection.requires_grad_(False)
    head = getattr(visual, "head", None)
    if isinstance(head, nn.Module):
        head.requires_grad_(False)


def _register_own_models() -> None:
    if "ViT-demo" not in open_clip.list_models():
        with resources.as_file(resources.files("tactile_align.features") / "models") as folder:
            open_clip.add_model_config(folder)


def _require_model(model: str) -> None:
    known = open_clip.list_models()
    if model not in known:
        near = difflib.get_close_matches(model, known, n=4, cutoff=0.4)
        raise ValueError(f"open_clip has no model '{model}'. Near names: {', '.join(near) or 'none'}")


def _tag_or_path(model: str, pretrained: str | Path) -> str:
    text = str(pretrained)
    if Path(text).is_file():
        return text
    if Path(text).suffix or len(Path(text).parts) > 1:
        raise FileNotFoundError(f"{text}: no such checkpoint. Needed: an open_clip tag, a file, or 'scratch'")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if text not in tags:
        near = difflib.get_close_matches(text, tags, n=4, cutoff=0.3) or tags[:6]
        raise ValueError(
            f"{model} has no pretrained tag '{text}'. Near tags: {', '.join(near) or 'none'}; "
            f"or give a checkpoint file, or 'scratch' for random weights"
        )
    return text


def _with_quickgelu(model: str, tag: str | None) -> str:
    """Weights of OpenAI were trained with QuickGELU; open_clip only warns about it, we take the right model."""
    config = open_clip.get_pretrained_cfg(model, tag) if tag else None
    wanted = bool(config and config.get("quick_gelu"))
    twin = f"{model}-quickgelu"
    if wanted and "quickgelu" not in model and twin in open_clip.list_models():
        return twin
    return model
