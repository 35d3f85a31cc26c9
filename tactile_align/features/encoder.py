"""Image encoders: any image tower of open_clip or timm, or one of Sparsh's, selected by model name.

The weights are loaded by tag (open_clip's name of a set of pretrained weights), loaded from a checkpoint file, or
random.
"""

import json
import logging
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tactile_align.config.features import AdapterConfig, EncoderConfig
from tactile_align.errors import InputError
from tactile_align.features.foreign import foreign_tower, form_of, is_foreign, load_foreign, local_file
from tactile_align.features.tensor_files import TensorFit, header_of, require_finite
from tactile_align.features.weights import QUICK, TOWER, Tower, catalogue_of, image_tower, inflated, require_model
from tactile_align.geometry.images import ImageMap

logger = logging.getLogger(__name__)
Fit = Literal["stretch", "letterbox"]
SCRATCH = "scratch"


class ConvStem(nn.Sequential):
    """Convolutional stem: stride-2 convolutions that replace the patch projection and give the same token grid.

    Small transformers that are trained from scratch rise above chance much sooner with this stem ("Early Convolutions
    Help Transformers See Better", arXiv 2106.14881). With group normalisation, the result for an image does not depend
    on the other images of the batch.

    Args:
        width: Number of channels of a token.
        patch: Side of a patch, px; a power of two.

    Raises:
        InputError: `patch` is not a power of two.
    """

    def __init__(self, width: int, patch: int) -> None:
        steps = round(math.log2(patch))
        if patch < 2 or 2**steps != patch:
            raise InputError(
                f"stem = 'conv' needs a model whose patch side is a power of two; got {patch} px. Set stem = 'patch'"
            )
        layers: list[nn.Module] = []
        channels = 3
        for step in range(steps):
            out = max(width >> (steps - 1 - step), 8)
            groups = next(count for count in (8, 4, 2, 1) if out % count == 0)
            convolution = nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.GroupNorm(groups, out), nn.GELU()]
            channels = out
        super().__init__(*layers, nn.Conv2d(channels, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens (B, width, H / patch, W / patch) of B images of height H and width W, (B, 3, H, W)."""
        return super().forward(x)


class Adapters(nn.Sequential):
    """Sequence of `depth` residual adapters, each of which computes x + scale * net(norm(x)) for every token x.

    Args:
        width: Length of a token.
        config: Sizes of the adapters.
    """

    def __init__(self, width: int, config: AdapterConfig) -> None:
        super().__init__(*(Adapter(width, config) for _ in range(config.depth)))


class Adapter(nn.Module):
    """Residual adapter, a small network whose output is scaled and added to its input: tokens (..., D) of length D."""

    def __init__(self, width: int, config: AdapterConfig) -> None:
        super().__init__()
        self.scale = config.scale
        self.net = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus the scaled output of the adapter's layers, (..., D), for tokens x (..., D)."""
        changed: Tensor = x + self.scale * self.net(x)
        return changed


class Encoder(nn.Module):
    """Image encoder that returns its patch tokens as a grid over the image. Build it with `load_encoder`.

    Attributes:
        name: Name of the model and the source of its weights, such as "ViT-B-16 (openai)" or "ViT-demo (SCRATCH)".
        scratch: Whether the initial weights are random.
        input_size: (width, height) of the images that `tokens` accepts, px.
        grid: (rows, columns) of the token grid.
        width: Length of a token. If several layers are used, it is the sum over the layers.
        frames: Number of images that are stacked as channels of one input.
        fit: Tensors of the weights' file, if the model is one of timm or Sparsh; else None.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        visual: Any,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        config: EncoderConfig,
        frames: int = 1,
        fit: TensorFit | None = None,
    ) -> None:
        super().__init__()
        self.visual, self.config, self.scratch = visual, config, config.pretrained == SCRATCH
        self.frames, self.fit = frames, fit
        self.name = f"{config.model} ({'SCRATCH' if self.scratch else config.pretrained})"
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        height, width = visual.image_size if isinstance(visual.image_size, tuple) else (visual.image_size,) * 2
        self.input_size = (int(width), int(height))
        if config.image_size is not None:
            self._require_whole_patches(_patch(visual))
        self._take = self._layers()
        self._norm_fits = _norm_fits(visual)
        self.requires_grad_(False)
        visual.eval()
        try:
            probe = self._features(torch.zeros(1, 3 * frames, int(height), int(width)))
            _, self.width, *grid = map(int, probe.shape)
            self.grid = grid[0], grid[1]
        except Exception as error:  # networks of timm raise any exception
            if not is_foreign(config.model):
                raise
            raise InputError(
                f"{self.name} needs to give a grid of tokens; its first image gave {error!r}. Use a vision transformer "
                f"or ConvNet of timm, such as timm/vit_small_patch14_dinov2.lvd142m"
            ) from error
        self.adapters = Adapters(self.width, config.adapters) if config.tune == "adapters" else None
        if config.tune in ("full", "last"):
            self._thaw()
        if config.checkpointing:
            visual.set_grad_checkpointing(True)
        if self.scratch and self._batch_norms():
            raise InputError(
                f"{self.name} has batch norm, which mixes the images of a batch unless its statistics come from loaded "
                f"weights; got pretrained = 'scratch'. Load weights, or use a vision transformer such as ViT-B-16"
            )
        self.train()

    @property
    def facts(self) -> dict[str, str]:
        """Properties, besides the weights, that decide how the encoder computes tokens, by name, as text."""
        config, (width, height) = self.config, self.input_size
        quick = any(isinstance(part, open_clip.transformer.QuickGELU) for part in self.visual.modules())
        facts = {
            "model": config.model.removesuffix(QUICK) + (QUICK if quick else ""),
            "stem": config.stem,
            "image_size": f"[{width}, {height}]",
        }
        return facts if self.frames == 1 else facts | {"frames": str(self.frames)}

    @property
    def used_layers(self) -> tuple[int, ...]:
        """Indices of the transformer blocks whose tokens are used, each at least 0; (-1,) for other networks."""
        return tuple(self._take)

    @property
    def blocks(self) -> nn.ModuleList | None:
        """Transformer blocks in order; None for other networks."""
        return _blocks(self.visual)

    @property
    def origin(self) -> str | None:
        """Table of the tensors that were loaded, left in the file or missing, with the licence of the weights.

        None for random weights and for open_clip, which loads all tensors or none.
        """
        if self.fit is None:
            return None
        wanted, licence = len(self.fit.loaded) + len(self.fit.missing), form_of(self.config.model, None).licence
        head = f"{self.config.model}: {len(self.fit.loaded)} of {wanted} tensors loaded from {self.config.pretrained}, "
        return f"{head}{len(self.fit.left)} left there. Licence of the weights: {licence}\n{self.fit.text()}"

    @property
    def header(self) -> dict[str, str]:
        """`facts`, and further properties that a reader of the weights needs, by name, as text."""
        mean, std = (json.dumps(values.flatten().tolist()) for values in (self.mean, self.std))
        return {**self.facts, "mean": mean, "std": std, "layers": json.dumps(list(self.config.layers))}

    def input_map(self, width: int, height: int) -> ImageMap:
        """Return the map from a width x height image, px, to the encoder's input, for images and boxes."""
        whole = ImageMap.identity(width, height)
        if self.config.fit == "letterbox":
            return whole.letterbox(*self.input_size)
        return whole.resize(*self.input_size)

    def tokens(self, images: Tensor) -> Tensor:
        """Return the patch tokens of B images as a grid, from the blocks in `EncoderConfig.layers`.

        The final layer norm is applied to the tokens. In CoCa models that norm follows an attention pooling of another
        width, so it does not fit the tokens. Their tokens are normalised by a layer norm without weights.

        Args:
            images: (B, height, width, 3 * frames) uint8 RGB of exactly `input_size`; of several stacked images, the
                newest comes first.

        Returns:
            (B, rows, columns, D) float32 tokens, where D is `Encoder.width`.

        Raises:
            ValueError: The images have another dtype or size. Apply `input_map` to the images first, and keep them
                uint8.
        """
        width, height = self.input_size
        channels = 3 * self.frames
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != (height, width, channels):
            raise ValueError(
                f"{self.name} expects uint8 RGB images of shape (B, {height}, {width}, {channels}); got "
                f"{images.dtype} of shape {tuple(images.shape)}. Resize images with Encoder.input_map(width, "
                f"height).apply_to_image, and do not normalise them; the encoder does this"
            )
        x = images.permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0
        learns = self.config.tune in ("full", "last")
        mean, std = (part.repeat(1, self.frames, 1, 1) for part in (self.mean, self.std))
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            tokens = self._features((x - mean) / std).permute(0, 2, 3, 1)
        return tokens if self.adapters is None else self.adapters(tokens)

    def train(self, mode: bool = True) -> "Encoder":
        """Switch training mode on or off, and return the encoder.

        In a frozen image tower, dropout stays off. Batch norm always uses the statistics of the loaded weights, so the
        tokens of an image do not depend on the other images of the batch.
        """
        super().train(mode)
        if self.config.tune in ("adapters", "frozen"):
            self.visual.eval()
        for norm in self._batch_norms():
            norm.eval()
        return self

    def _batch_norms(self) -> list[nn.Module]:
        return [module for module in self.visual.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]

    def _features(self, x: Tensor) -> Tensor:
        precision, layers = self.config.precision, sorted(set(self._take))
        options = {"output_fmt": "NCHW", "intermediates_only": True, "stop_early": True}
        bf16 = torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
        with nullcontext() if precision is None else bf16:
            grids = self.visual.forward_intermediates(
                x, indices=layers, normalize_intermediates=self._norm_fits, **options
            )["image_intermediates"]
            if not self._norm_fits:
                grids = [F.layer_norm(g.permute(0, 2, 3, 1), g.shape[1:2]).permute(0, 3, 1, 2) for g in grids]
        chosen = [grids[layers.index(layer)] for layer in self._take]
        features: Tensor = chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=1)
        return features.to(x.dtype)

    def _require_whole_patches(self, patch: int) -> None:
        """Check that width and height are multiples of the patch size.

        Otherwise the last pixels belong to no token, and all tokens would be assigned to wrong image positions.
        """
        if any(side % patch for side in self.input_size):
            near = tuple(max(round(side / patch), 1) * patch for side in self.input_size)
            raise InputError(
                f"{self.name} needs a width and height that are multiples of its patch side, {patch} px; got "
                f"image_size = {self.input_size}. Use {near}, or omit image_size to use the model's own size"
            )

    def _layers(self) -> list[int]:
        blocks, layers = _blocks(self.visual), self.config.layers
        if blocks is None and layers != (-1,):
            raise InputError(
                f"layers = {layers} selects transformer blocks, but {self.name} has no transformer blocks; only (-1,) "
                f"is possible. Omit layers"
            )
        if blocks is None:
            return [-1]
        count = len(blocks)
        if any(not -count <= layer < count for layer in layers):
            raise InputError(
                f"layers = {layers} contains an index that does not exist; {self.name} has {count} blocks, so an "
                f"index must be from {-count} to {count - 1}. Change layers, or omit layers to use the last block"
            )
        return [layer % count for layer in layers]

    def _thaw(self) -> None:
        """Make all used weights trainable, or only the last blocks. Layers after the last used block stay frozen."""
        trunk, blocks = getattr(self.visual, "trunk", None), list(_blocks(self.visual) or ())
        late = getattr(self.visual, "late_norm", None)
        used, last_blocks = blocks[: max(self._take) + 1], self.config.last_blocks
        if self.config.tune == "full":
            self.visual.requires_grad_(True)
            unused = ["proj", "head", "attn_pool", "attnpool"]
            unused += [] if self._norm_fits else ["ln_post", "attn_pool_contrastive"]
            parts = [getattr(self.visual, name, None) for name in unused]
            parts += [getattr(trunk, name, None) for name in ("attn_pool", "head")]
            parts += [] if late is not None else [getattr(trunk, "fc_norm", None)]
            for part in (*parts, *blocks[len(used) :]):
                if isinstance(part, nn.Parameter | nn.Module):
                    part.requires_grad_(False)
            return
        if last_blocks > len(used):
            raise InputError(
                f"{self.name}: tune = 'last' trains last_blocks = {last_blocks} blocks, but only {len(used)} "
                f"transformer blocks are used. "
                f"{f'Set last_blocks to at most {len(used)}' if used else 'Set tune to full, adapters or frozen'}"
            )
        norm = getattr(self.visual, "ln_post", None) or late or getattr(trunk, "norm", None)
        for part in (*used[-last_blocks:], *([norm] if norm is not None and self._norm_fits else [])):
            part.requires_grad_(True)


def _norm_fits(visual: Any) -> bool:
    """Return whether the final layer norm fits the tokens. After an attention pooling of another width it does not."""
    norm, stem = getattr(visual, "ln_post", None), getattr(visual, "conv1", None)
    width = getattr(stem, "out_channels", None)
    return not (isinstance(norm, nn.LayerNorm) and width is not None and tuple(norm.normalized_shape) != (width,))


def _blocks(visual: Any) -> nn.ModuleList | None:
    """Return the transformer blocks of an open_clip or timm encoder, in order, or None for other networks."""
    transformer, trunk = getattr(visual, "transformer", None), getattr(visual, "trunk", None)
    blocks = getattr(trunk, "blocks", None) if transformer is None else getattr(transformer, "resblocks", None)
    if not isinstance(blocks, nn.ModuleList | nn.Sequential):
        return None
    # In ConvNets and in networks of stages, `blocks` are not the parts whose tokens timm returns by index.
    by_stage = trunk is not None and len(trunk.feature_info) != len(blocks)
    return None if by_stage or isinstance(blocks[0], nn.Sequential) else blocks  # type: ignore[return-value]


def _patch(visual: Any) -> int:
    """Return the side of a token in the image, px. The encoder may be from timm, or a ResNet or ViT of open_clip."""
    trunk, patch = getattr(visual, "trunk", None), getattr(visual, "patch_size", None)
    if trunk is not None:
        return int(trunk.feature_info[-1]["reduction"])
    return 32 if patch is None else int(patch[0])


def load_encoder(
    model: str,
    *,
    pretrained: str | Path,
    image_size: tuple[int, int] | None = None,
    fit: Fit = "stretch",
    stem: Literal["patch", "conv"] = "patch",
    **options: Any,
) -> Encoder:
    """Return the image encoder with the given model and weights.

    Args:
        model: Name of an open_clip model (such as "ViT-B-16" or "ViT-B-16-quickgelu"), of a timm model (such as
            "timm/vit_small_patch14_dinov2.lvd142m"), of one of Sparsh's touch encoders (such as
            "sparsh/dino_vitbase"), or "ViT-demo", a small model for tests and the demo. If `pretrained` is a file whose
            weights were trained with QuickGELU (as OpenAI's were), use the "-quickgelu" model. With a tag this is not
            needed.
        pretrained: Initial weights: an open_clip tag (the name of a set of pretrained weights, such as
            "laion2b_s34b_b88k"), the path of a checkpoint file (of a whole model, of its image tower alone, or a
            tower.safetensors of a run), or "scratch" for random weights. There is no default, so that nobody uses
            random weights by accident. The weights of timm and Sparsh are read only from a file; which of their tensors
            were loaded is logged.
        image_size: (width, height) of the input image, px. None: the size of the model. Positional embeddings of
            pretrained weights are interpolated to this size.
        fit: Method that resizes an image to the input size. "stretch": the aspect ratio may change. "letterbox": the
            aspect ratio is kept.
        stem: First layers. "patch": one patch projection. "conv": a convolutional stem, for training from scratch only.
        options: Other fields of `EncoderConfig`: layers, tune, last_blocks, adapters, checkpointing, precision.

    Raises:
        InputError: The model or tag is unknown (the message lists similar names), the checkpoint does not fit the
            model, or the model does not support the image size or stem.
        FileNotFoundError: `pretrained` looks like a path, but the file does not exist.
        ConnectionError: The weights of a tag could not be downloaded. The message states how to download the file on
            another machine.
        MissingExtra: The text encoder that belongs to the weights needs the package transformers.

    Warns:
        UserWarning: Some pretrained weights of this model were trained with QuickGELU, and the checkpoint file does not
            state whether it contains these weights. (For a file in the cache of `hf download`, the folder name does.)
    """
    encoder = encoder_of(
        EncoderConfig(model=model, pretrained=str(pretrained), image_size=image_size, fit=fit, stem=stem, **options)
    )
    if encoder.origin is not None:
        logger.info(encoder.origin)
    return encoder


def encoder_of(config: EncoderConfig, fill: bool = True, frames: int = 1) -> Encoder:
    """Return the image encoder of a config; see `load_encoder` for the errors.

    Args:
        config: Options of the encoder.
        fill: Whether to load the pretrained weights. Use False if a checkpoint is loaded afterwards.
        frames: Number of images that are stacked as channels. Weights for one image are repeated for each and divided
            by the number. Sparsh's encoders always get two.
    """
    scratch = config.pretrained == SCRATCH
    if is_foreign(config.model):
        return _foreign_encoder(config, fill and not scratch, frames)
    require_model(config.model)
    known = catalogue_of(config.model)
    tower = None
    if fill and not scratch and Path(config.pretrained).is_file():
        tower = Tower.read(known.tag_or_path(config.pretrained), config.model)
    if config.stem == "conv" and not scratch and fill and tower is None:
        raise InputError(
            f"stem = 'conv' needs random weights; got pretrained = '{config.pretrained}'. Set pretrained = 'scratch' "
            f"or stem = 'patch'"
        )
    source = None if scratch else known.tag_or_path(config.pretrained) if fill else config.pretrained
    visual = image_tower(config, known, None if tower else source, fill)
    if fill and source is not None and not (tower and tower.facts):
        known.warn_of_quick_gelu(source, visual)
    if config.stem == "conv":
        if not isinstance(visual, open_clip.transformer.VisionTransformer):
            raise InputError(
                f"stem = 'conv' needs one of open_clip's own vision transformers; {config.model} is a "
                f"{type(visual).__name__}. Omit stem, or use a model such as ViT-B-16"
            )
        visual.conv1 = ConvStem(visual.conv1.out_channels, visual.conv1.stride[0])
    _stack(visual, frames)
    encoder = Encoder(visual, *known.mean_and_std(visual, source), config, frames)
    if tower is not None:
        tower.load_into(encoder, encoder.facts)
        if "objective" in tower.facts:
            encoder.name = f"{config.model} (pretrained here: {tower.facts['objective']}, {tower.facts['steps']} steps)"
    if source is not None and fill:
        require_finite(encoder.state_dict(), source)
    return encoder


def _foreign_encoder(config: EncoderConfig, fill: bool, frames: int) -> Encoder:
    """Return the image encoder of a model of timm or Sparsh; see `encoder_of`."""
    form, fit = form_of(config.model, config.image_size), None
    file = local_file(config) if fill else None
    visual = foreign_tower(config)
    ours = file is not None and TOWER in header_of(file)
    if file is not None and not ours:
        fit = load_foreign(visual, file, config)
    if form.frames == 1:
        _stack(visual, frames)
    encoder = Encoder(visual, form.mean, form.std, config, frames if form.frames == 1 else form.frames, fit)
    if file is not None:
        tower = Tower.read(str(file), config.model) if ours else None
        if tower is not None:
            tower.load_into(encoder, encoder.facts)
        require_finite(encoder.state_dict(), file)
    return encoder


def _stack(visual: nn.Module, frames: int) -> None:
    """Change the first convolution of a tower for images to one for `frames` stacked images."""
    if frames > 1:
        first = next(part for part in visual.modules() if isinstance(part, nn.Conv2d))
        wanted = first.weight.new_empty(first.out_channels, 3 * frames, *first.kernel_size)
        first.weight = nn.Parameter(inflated(first.weight.detach(), wanted))
        first.in_channels = 3 * frames
