"""An image tower as a grid of tokens, and which of its weights learn."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tactile_align.errors import InputError
from tactile_align.features.adapters import Adapters
from tactile_align.features.config import EncoderConfig
from tactile_align.geometry.images import ImageMap


class Encoder(nn.Module):
    """An image tower whose patch tokens keep their place in the image.

    Built by `features.encoder.load_encoder`.

    Attributes:
        name: Model name and where its weights come from, "ViT-B-16 (openai)" or "ViT-demo (SCRATCH)".
        scratch: Whether the weights are random.
        input_size: (width, height) of the images `tokens` takes, px.
        grid: (rows, columns) of tokens.
        width: D, the length of a token; several layers lie side by side.
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
        config: EncoderConfig,
    ) -> None:
        super().__init__()
        self.visual, self.name, self.scratch, self.config = visual, name, scratch, config
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        height, width = visual.image_size if isinstance(visual.image_size, tuple) else (visual.image_size,) * 2
        self.input_size = (int(width), int(height))
        if config.image_size is not None:
            self._require_whole_patches(_patch(visual))
        self._take = self._layers(visual, config.layers)
        self._norm_fits = _norm_fits(visual)
        self.requires_grad_(False)
        visual.eval()
        probe = self._features(torch.zeros(1, 3, int(height), int(width)))
        self.width, self.grid = int(probe.shape[1]), (int(probe.shape[2]), int(probe.shape[3]))
        self.adapters = Adapters(self.width, config.adapters) if config.tune == "adapters" else None
        if config.tune in ("full", "last"):
            self._thaw()
        if config.checkpointing:
            visual.set_grad_checkpointing(True)
        self.train()

    def input_map(self, width: int, height: int) -> ImageMap:
        """Return how a width x height image becomes this encoder's input; move boxes by the same map."""
        whole = ImageMap.identity(width, height)
        if self.config.fit == "letterbox":
            return whole.letterbox(*self.input_size)
        return whole.resize(*self.input_size)

    def tokens(self, images: Tensor) -> Tensor:
        """Return the token grid of the chosen blocks, each after the final norm.

        CoCa's towers have theirs behind the attention pooling, at another width: their tokens are normalised plainly.

        Args:
            images: (B, H, W, 3) uint8 RGB of exactly `input_size`.

        Returns:
            (B, rows, columns, D) float32.

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
        learns = self.config.tune in ("full", "last")
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            found = self._features((x - self.mean) / self.std).permute(0, 2, 3, 1)
        return found if self.adapters is None else self.adapters(found)

    def train(self, mode: bool = True) -> "Encoder":
        """Switch dropout on or off; a tower that does not learn never drops anything."""
        super().train(mode)
        if self.config.tune in ("adapters", "frozen"):
            self.visual.eval()
        return self

    def _features(self, x: Tensor) -> Tensor:
        bf16 = self.config.precision == "bfloat16"
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16):
            found = self.visual.forward_intermediates(
                x,
                indices=sorted(set(self._take)),
                normalize_intermediates=self._norm_fits,
                output_fmt="NCHW",
                intermediates_only=True,
                stop_early=True,
            )["image_intermediates"]
            if not self._norm_fits:
                found = [F.layer_norm(one.permute(0, 2, 3, 1), one.shape[1:2]).permute(0, 3, 1, 2) for one in found]
        by_layer = dict(zip(sorted(set(self._take)), found, strict=True))
        chosen = [by_layer[layer] for layer in self._take]
        features: Tensor = chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=1)
        return features.float() if bf16 else features

    def _require_whole_patches(self, patch: int) -> None:
        """Refuse a size whose last pixels belong to no token: all tokens would stand beside their place."""
        if any(side % patch for side in self.input_size):
            near = tuple(max(round(side / patch), 1) * patch for side in self.input_size)
            raise InputError(
                f"{self.name} needs an image_size of whole patches of {patch} px; got {self.input_size}. "
                f"Take {near}, or leave image_size out for the model's own"
            )

    def _layers(self, visual: Any, asked: tuple[int, ...]) -> list[int]:
        blocks = _blocks(visual)
        if blocks is None:
            if asked == (-1,):
                return [-1]
            raise InputError(f"{self.name} has no list of transformer blocks, so layers must be (-1,); got {asked}")
        count = len(blocks)
        if any(not -count <= layer < count for layer in asked):
            raise InputError(
                f"{self.name} has {count} blocks, so layers must lie in {-count}..{count - 1}; got {asked}"
            )
        return [layer % count for layer in asked]

    def _thaw(self) -> None:
        """Let those weights learn that tokens depend on: nothing behind the last block that is used."""
        blocks = _blocks(self.visual)
        behind = ["proj", "head", "attn_pool", "attnpool"]
        behind += [] if self._norm_fits else ["ln_post", "attn_pool_contrastive"]
        unused = [getattr(self.visual, name, None) for name in behind]
        trunk = getattr(self.visual, "trunk", None)
        unused += [getattr(trunk, name, None) for name in ("attn_pool", "head", "fc_norm")]
        if self.config.tune == "full":
            self.visual.requires_grad_(True)
            for part in unused:
                if isinstance(part, nn.Parameter | nn.Module):
                    part.requires_grad_(False)
            for block in blocks[max(self._take) + 1 :] if blocks is not None else ():
                block.requires_grad_(False)
            return
        used = None if blocks is None else blocks[: max(self._take) + 1]
        if used is None or self.config.last_blocks > len(used):
            raise InputError(
                f"{self.name}: tune = 'last' with last_blocks = {self.config.last_blocks} needs as many transformer "
                f"blocks; there are {0 if used is None else len(used)} before the tokens are taken"
            )
        for block in used[-self.config.last_blocks :]:
            block.requires_grad_(True)
        norm = getattr(self.visual, "ln_post", None) or getattr(trunk, "norm", None)
        if norm is not None and self._norm_fits:
            norm.requires_grad_(True)


def _norm_fits(visual: Any) -> bool:
    """Tell whether the tower's final norm takes tokens: not where an attention pooling of another width precedes it."""
    norm, stem = getattr(visual, "ln_post", None), getattr(visual, "conv1", None)
    width = getattr(stem, "out_channels", None)
    return not (isinstance(norm, nn.LayerNorm) and width is not None and tuple(norm.normalized_shape) != (width,))


def _blocks(visual: Any) -> nn.ModuleList | None:
    """Return the transformer blocks of an open_clip or timm tower, in order; None for other networks."""
    transformer, trunk = getattr(visual, "transformer", None), getattr(visual, "trunk", None)
    found = getattr(transformer, "resblocks", None) if transformer is not None else getattr(trunk, "blocks", None)
    return found if isinstance(found, nn.ModuleList | nn.Sequential) else None  # type: ignore[return-value]


def _patch(visual: Any) -> int:
    """Return how many px a token is wide: of a timm tower, of open_clip's transformers, of its residual networks."""
    trunk, patch = getattr(visual, "trunk", None), getattr(visual, "patch_size", None)
    if trunk is not None:
        return int(trunk.feature_info[-1]["reduction"])
    return 32 if patch is None else int(patch[0])
