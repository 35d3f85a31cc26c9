"""Image encoders: any open_clip image tower, selected by model name.

The weights are loaded by tag (open_clip's name of a set of pretrained weights), loaded from a checkpoint file, or
random.
"""

import difflib
import logging
import math
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tactile_align.config.features import AdapterConfig, EncoderConfig
from tactile_align.errors import InputError, MissingExtra
from tactile_align.features.tensor_files import header_of, mismatches, read_tensors, require_finite
from tactile_align.files import write_atomically
from tactile_align.geometry.images import ImageMap


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
    """

    mean: Tensor
    std: Tensor

    def __init__(self, visual: Any, mean: tuple[float, ...], std: tuple[float, ...], config: EncoderConfig) -> None:
        super().__init__()
        self.visual, self.config, self.scratch = visual, config, config.pretrained == SCRATCH
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
        probe = self._features(torch.zeros(1, 3, int(height), int(width)))
        self.width, self.grid = int(probe.shape[1]), (int(probe.shape[2]), int(probe.shape[3]))
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
            images: (B, height, width, 3) uint8 RGB of exactly `input_size`.

        Returns:
            (B, rows, columns, D) float32 tokens, where D is `Encoder.width`.

        Raises:
            ValueError: The images have another dtype or size. Apply `input_map` to the images first, and keep them
                uint8.
        """
        width, height = self.input_size
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != (height, width, 3):
            raise ValueError(
                f"{self.name} expects uint8 RGB images of shape (B, {height}, {width}, 3); got {images.dtype} of "
                f"shape {tuple(images.shape)}. Resize images with Encoder.input_map(width, height).apply_to_image, "
                f"and do not normalise them; the encoder does this"
            )
        x = images.permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0
        learns = self.config.tune in ("full", "last")
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            tokens = self._features((x - self.mean) / self.std).permute(0, 2, 3, 1)
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
        used, last_blocks = blocks[: max(self._take) + 1], self.config.last_blocks
        if self.config.tune == "full":
            self.visual.requires_grad_(True)
            unused = ["proj", "head", "attn_pool", "attnpool"]
            unused += [] if self._norm_fits else ["ln_post", "attn_pool_contrastive"]
            parts = [getattr(self.visual, name, None) for name in unused]
            parts += [getattr(trunk, name, None) for name in ("attn_pool", "head", "fc_norm")]
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
        norm = getattr(self.visual, "ln_post", None) or getattr(trunk, "norm", None)
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
    return blocks if isinstance(blocks, nn.ModuleList | nn.Sequential) else None  # type: ignore[return-value]


def _patch(visual: Any) -> int:
    """Return the side of a token in the image, px. The encoder may be from timm, or a ResNet or ViT of open_clip."""
    trunk, patch = getattr(visual, "trunk", None), getattr(visual, "patch_size", None)
    if trunk is not None:
        return int(trunk.feature_info[-1]["reduction"])
    return 32 if patch is None else int(patch[0])


@dataclass(frozen=True)
class Catalogue:
    """Information from open_clip about the pretrained weights of one model.

    Attributes:
        model: Name of the model.
        tags: Information about each set of pretrained weights of the model, by its tag.
        models: Names of all open_clip models.
    """

    model: str
    tags: Mapping[str, Mapping[str, Any]]
    models: tuple[str, ...]

    def needs_quick_gelu(self, source: str | None) -> bool:
        """Return whether a tag or file is known to contain weights that were trained with QuickGELU."""
        return source is not None and bool(self.facts_of(source).get("quick_gelu"))

    def facts_of(self, source: str) -> dict[str, Any]:
        """Return the information about a tag, or about a file in the cache of the Hugging Face hub.

        The folder name of such a file contains the name of the tag's repository. Only the path is examined, because the
        path may come from a checkpoint and the file may no longer exist. Unix and Windows paths are accepted. The
        result is empty if nothing is known.
        """
        if source in self.tags:
            return dict(self.tags[source])
        parts = PureWindowsPath(source).parts
        for facts in self.tags.values():
            repository, _ = _repository_and_file(facts)
            if repository and f"models--{repository.replace('/', '--')}" in parts:
                return dict(facts)
        return {}

    def how_to_fetch(self, tag: str) -> str:
        """Return instructions for downloading the weights of a tag on another machine, and for using the file."""
        facts = self.facts_of(tag)
        repository, file = _repository_and_file(facts)
        files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        downloads = (
            [f"hf download {repository} {name}" for name in files] if repository else [f"curl -LO {facts['url']}"]
        )
        twin = self._quick_gelu_twin() if self.needs_quick_gelu(tag) else None
        advice = f"{' || '.join(downloads)}; then set `pretrained` to the file's path"
        return advice + (f" and `model` to '{twin}'" if twin else "")

    def warn_of_quick_gelu(self, source: str, visual: nn.Module) -> None:
        """Warn if a file may contain weights trained with QuickGELU, but the encoder uses another activation."""
        if self.facts_of(source) or not any(isinstance(part, nn.GELU) for part in visual.modules()):
            return
        tags = [tag for tag in self.tags if self.needs_quick_gelu(tag)]
        if tags:
            twin = self._quick_gelu_twin()
            advice = f"set `model` to '{twin}'" if twin else "set `pretrained` to that tag, which selects QuickGELU"
            warnings.warn(
                f"{source} does not state whether its weights need QuickGELU, which {self.model} does not use. "
                f"If the file contains the weights of one of the tags {', '.join(tags)}, {advice}",
                stacklevel=4,
            )

    def mean_and_std(self, visual: Any, source: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the RGB means and standard deviations that normalise images.

        A checkpoint file does not contain these values, and they differ between models such as CLIP and SigLIP. For a
        file, the values of the model's tags are used if all tags have the same values.
        """
        known = self.facts_of(source) if source is not None else {}
        tags = [known] if known else list(self.tags.values())
        stated = {(tuple(tag["mean"]), tuple(tag["std"])) for tag in tags if tag.get("mean") and tag.get("std")}
        if source is not None and len(stated) == 1:
            return stated.pop()
        return tuple(visual.image_mean), tuple(visual.image_std)

    def tag_or_path(self, pretrained: str) -> str:
        """Return `pretrained` if it is a tag of the model or a tensor file. Raises the errors of `load_encoder`."""
        if Path(pretrained).is_file():
            self._refuse_script(pretrained)
            return pretrained
        if Path(pretrained).suffix or len(Path(pretrained).parts) > 1:
            raise FileNotFoundError(
                f"{pretrained}: no such checkpoint file. Set `pretrained` to an open_clip tag, the path of an existing "
                f"file, or 'scratch' for random weights"
            )
        if pretrained not in self.tags:
            tags = list(self.tags)
            near = difflib.get_close_matches(pretrained, tags, n=4, cutoff=0.3) or tags[:6]
            raise InputError(
                f"{self.model} has no pretrained tag '{pretrained}'. Similar tags: {', '.join(near) or 'none'}. "
                f"Choose a tag of this model, a checkpoint file, or 'scratch' for random weights"
            )
        return pretrained

    def _quick_gelu_twin(self) -> str | None:
        """Return the name of the same model with QuickGELU. Return None if open_clip has no such model."""
        twin = f"{self.model}-quickgelu"
        return twin if twin in self.models else None

    def _refuse_script(self, path: str) -> None:
        """Check that a file is not a TorchScript archive, which contains a program. OpenAI publishes such archives."""
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            script = any(name.endswith("/constants.pkl") for name in archive.namelist())
        if script:
            openai = "openai" in self.tags
            instead = f"For OpenAI's weights, run: {self.how_to_fetch('openai')}" if openai else "Save its state dict"
            raise InputError(
                f"{path}: expected a state dict of {self.model}, saved by torch.save or as safetensors; found a "
                f"TorchScript archive, which can run code. {instead}"
            )


def _repository_and_file(facts: Mapping[str, Any]) -> tuple[str, str]:
    """Return (repository, file) of weights on the hub. The file is "" if it has open_clip's default name."""
    repository, _, file = str(facts.get("hf_hub") or "").rpartition("/")
    return repository, file


Fit = Literal["stretch", "letterbox"]
SCRATCH = "scratch"
QUICK = "-quickgelu"
"""End of the names of open_clip's models with the activation QuickGELU."""
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


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
        model: Name of an open_clip model (such as "ViT-B-16", "ViT-B-16-quickgelu", or a timm model), or "ViT-demo", a
            small model for tests and the demo. If `pretrained` is a file whose weights were trained with QuickGELU (as
            OpenAI's were), use the "-quickgelu" model. With a tag this is not needed.
        pretrained: Initial weights: an open_clip tag (the name of a set of pretrained weights, such as
            "laion2b_s34b_b88k"), the path of a checkpoint file (of a whole model, of its image tower alone, or a
            tower.safetensors of a run), or "scratch" for random weights. There is no default,
            so that nobody uses random weights by accident.
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
    return encoder_of(
        EncoderConfig(model=model, pretrained=str(pretrained), image_size=image_size, fit=fit, stem=stem, **options)
    )


def encoder_of(config: EncoderConfig, fill: bool = True) -> Encoder:
    """Return the image encoder of a config; see `load_encoder` for the errors.

    Args:
        config: Options of the encoder.
        fill: Whether to load the pretrained weights. Use False if a checkpoint is loaded afterwards.
    """
    _require_model(config.model)
    scratch = config.pretrained == SCRATCH
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
    _require_square_where_needed(config)
    visual = _create(config, known, None if tower else source, fill)
    if fill and source is not None and not (tower and tower.facts):
        known.warn_of_quick_gelu(source, visual)
    if config.stem == "conv":
        if not isinstance(visual, open_clip.transformer.VisionTransformer):
            raise InputError(
                f"stem = 'conv' needs one of open_clip's own vision transformers; {config.model} is a "
                f"{type(visual).__name__}. Omit stem, or use a model such as ViT-B-16"
            )
        visual.conv1 = ConvStem(visual.conv1.out_channels, visual.conv1.stride[0])
    encoder = Encoder(visual, *known.mean_and_std(visual, source), config)
    if tower is not None:
        tower.load_into(encoder)
    if source is not None and fill:
        require_finite(encoder.state_dict(), source)
    return encoder


@dataclass(frozen=True)
class Tower:
    """Image encoder in a file of its own: a tower.safetensors of a run, or the state dict of an open_clip image tower.

    Attributes:
        path: The file.
        tensors: Tensors by their names in an `Encoder`.
        facts: Properties of the encoder that `save_tower` wrote, by name; empty for a plain state dict.
    """

    path: str
    tensors: dict[str, Tensor]
    facts: dict[str, str]

    @classmethod
    def read(cls, path: str, model: str) -> "Tower | None":
        """Return the encoder in a file, or None if the file contains a whole model with its text encoder.

        Args:
            path: The file.
            model: Name of the open_clip model that the encoder belongs to, for the error message.

        Raises:
            InputError: The file is damaged, or contains something other than tensors.
        """
        if Path(path).suffix in (".npz", ".npy"):
            return None  # weights of whole SigLIP models, in the format of big_vision
        tensors, entry = read_tensors(Path(path))
        facts = header_of(Path(path))
        if all(name.startswith("module.") for name in tensors):  # the prefix of torch's DistributedDataParallel
            tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
        if "logit_scale" in tensors:
            if entry in ("", "state_dict"):  # open_clip reads no other entry
                return None
            tensors = {name: value for name, value in tensors.items() if name.startswith("visual.")}
        if TOWER in facts:
            return cls(path, tensors, facts)
        return cls(path, {f"visual.{name.removeprefix('visual.')}": value for name, value in tensors.items()}, {})

    def load_into(self, encoder: Encoder) -> None:
        """Load the weights into an encoder; adapters that the file does not have stay as they are.

        Raises:
            InputError: The encoder has another model, stem, activation or image size, or has no place for the adapters.
        """
        config = encoder.config
        for name, stated in _facts_of(encoder).items():
            if self.facts.get(name, stated) != stated:
                raise InputError(
                    f"{self.path}: the encoder was saved with {name} = {self.facts[name]}, but the config gives "
                    f"{stated}. Set {name} as saved (a model with QuickGELU has a name that ends in -quickgelu)"
                )
        given = dict(self.tensors)
        if not self.facts:
            open_clip.model.resize_pos_embed(given, encoder)
        own = encoder.state_dict()
        kept = {n: value for n, value in own.items() if n in ("mean", "std") or n.startswith("adapters.")}
        if not any(name.startswith("adapters.") for name in given):
            given = {**kept, **given}
        given = {**{name: own[name] for name in ("mean", "std")}, **given}
        if faults := mismatches(given, encoder):
            some = ", ".join(list(self.tensors)[:2])
            text = (
                f"its tensors ({len(self.tensors)}: {some} ...) are not those of the encoder: {'; '.join(faults[:3])}"
            )
            raise _unfit(self.path, config.model, text)
        encoder.load_state_dict(given)


def _unfit(source: str, model: str, fault: str) -> InputError:
    """Return the error for weights that do not fit a model."""
    reason = " ".join(fault.split())[:300].rstrip(".")
    return InputError(
        f"the weights {source} do not fit the model {model}: {reason}. Use a state dict of this open_clip model or of "
        f"its image tower, saved by torch.save or as safetensors"
    )


def save_tower(path: Path, encoder: Encoder, tensors: Mapping[str, Tensor], **origin: str) -> None:
    """Write an image encoder to a .safetensors file that `pretrained` accepts.

    Args:
        path: File to write.
        encoder: The encoder.
        tensors: Its weights, by the names of its state dict.
        origin: Texts about the origin of the weights, for the header of the file.
    """
    facts = {TOWER: "1", **_facts_of(encoder), **origin}
    whole = {name: value.contiguous() for name, value in tensors.items()}
    write_atomically(path, lambda temporary: save_file(whole, temporary, facts))


TOWER = "tactile_align_tower"  # key in the header of the files that save_tower writes


def _facts_of(encoder: Encoder) -> dict[str, str]:
    """Return the properties of an encoder, besides its weights, that decide how it computes tokens."""
    config = encoder.config
    quick = any(isinstance(part, open_clip.transformer.QuickGELU) for part in encoder.visual.modules())
    width, height = encoder.input_size
    return {
        "model": config.model.removesuffix(QUICK) + (QUICK if quick else ""),
        "stem": config.stem,
        "image_size": f"[{width}, {height}]",
    }


def uses_quick_gelu(config: EncoderConfig) -> bool:
    """Return whether the encoder of a config has the activation QuickGELU, which its model or its tag decides."""
    _require_model(config.model)
    of_model = bool(open_clip.get_model_config(config.model).get("quick_gelu", False))
    return of_model or catalogue_of(config.model).needs_quick_gelu(config.pretrained)


def input_size_of(model: str, image_size: tuple[int, int] | None) -> tuple[int, int]:
    """Return (width, height) of a model's input image, px, without building the model.

    Raises:
        InputError: The model is unknown. The message lists similar names.
    """
    _require_model(model)
    if image_size is not None:
        return image_size
    size = open_clip.get_model_config(model)["vision_cfg"]["image_size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(width), int(height)


def catalogue_of(model: str) -> Catalogue:
    """Return the information from open_clip about the pretrained weights of a model."""
    tags = {tag: open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)}
    return Catalogue(model, tags, tuple(open_clip.list_models()))


def _create(config: EncoderConfig, known: Catalogue, source: str | None, fill: bool) -> Any:
    """Return the image tower with the weights of `source`.

    With `fill` = False the weights are random, but activation and normalisation are those of `source`.
    """
    foreign = "hf_model_name" in open_clip.get_model_config(config.model).get("text_cfg", {})
    # A text tower of Hugging Face downloads its config, which is needed only to load weights.
    text = {"text_cfg": _NO_TEXT} if (foreign if source is None else not fill) else {}
    facts = known.facts_of(source) if source is not None and not fill else {}
    size = config.image_size
    try:
        with _quiet_open_clip():
            clip = open_clip.create_model(
                config.model,
                pretrained=source if fill else None,
                force_quick_gelu=known.needs_quick_gelu(source),
                # Convolutional towers accept a number, not a pair.
                force_image_size=size[0] if size and size[0] == size[1] else size and size[::-1],
                force_preprocess_cfg={name: facts[name] for name in ("mean", "std") if name in facts},
                pretrained_text=False,
                weights_only=True,
                **text,
            )
    except Exception as error:  # a damaged file can raise any exception; without a file, an exception is a bug
        if source is None or not fill or isinstance(error, OSError):
            raise
        if "Failed to download" in str(error):
            raise ConnectionError(
                f"the weights '{source}' of {config.model} could not be downloaded. On a machine with network access "
                f"run: {known.how_to_fetch(source)}"
            ) from error
        if foreign and "transformers" in str(error):
            raise MissingExtra(
                f"the weights of {config.model} include a text encoder that needs the package transformers. Install it "
                f"with pip install transformers, or use another model"
            ) from error
        fault = "an .npz file must hold the weights of a SigLIP model" if source.endswith(".npz") else str(error)
        raise _unfit(source, config.model, fault or repr(error)) from error
    return clip.visual


@contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """Context in which open_clip does not write to the root logger.

    The warnings of open_clip about random weights are not needed: the name of such an encoder contains SCRATCH. A
    NullHandler is added because logging.warning() installs a handler if the root logger has none.
    """
    root, silent = logging.getLogger(), logging.NullHandler()
    package = str(Path(open_clip.__file__).parent)

    def ours(record: logging.LogRecord) -> bool:
        return not record.pathname.startswith(package)

    root.addHandler(silent)
    root.addFilter(ours)
    try:
        yield
    finally:
        root.removeFilter(ours)
        root.removeHandler(silent)


def _require_model(model: str) -> None:
    """Register our models with open_clip, then check that open_clip knows the model."""
    if "ViT-demo" not in open_clip.list_models():
        with resources.as_file(resources.files("tactile_align.features") / "models") as folder:
            open_clip.add_model_config(folder)
    models = open_clip.list_models()
    if model not in models:
        near = difflib.get_close_matches(model, models, n=4, cutoff=0.4)
        raise InputError(
            f"open_clip has no model '{model}'. Similar names: {', '.join(near) or 'none'}. Choose one of the names "
            f"that open_clip.list_models() returns"
        )


def _require_square_where_needed(config: EncoderConfig) -> None:
    convolutional = isinstance(open_clip.get_model_config(config.model)["vision_cfg"].get("layers"), list)
    if convolutional and config.image_size is not None and len(set(config.image_size)) > 1:
        raise InputError(
            f"{config.model} needs square images; got image_size = {config.image_size}. Use equal width and height "
            f"(fit = 'letterbox' keeps the aspect ratio), or use a vision transformer"
        )
