"""Image encoders: any open_clip image tower by name, with weights from a tag, from a file, or random."""

import difflib
import logging
import math
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tactile_align.config.features import AdapterConfig, EncoderConfig
from tactile_align.errors import InputError, MissingExtra
from tactile_align.geometry.images import ImageMap


class ConvStem(nn.Sequential):
    """Stride-2 convolutions in place of the single patch projection, ending on the same token grid.

    Small transformers trained from scratch rise above chance much sooner with it ("Early Convolutions Help
    Transformers See Better", arXiv 2106.14881). Group normalisation keeps a row independent of its batch.

    Args:
        width: Channels of a token.
        patch: Patch side, px; a power of two.

    Raises:
        InputError: `patch` is not a power of two.
    """

    def __init__(self, width: int, patch: int) -> None:
        steps = round(math.log2(patch))
        if patch < 2 or 2**steps != patch:
            raise InputError(f"stem = 'conv' needs a patch of 2, 4, 8... px; got {patch}. Take stem = 'patch'")
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
        """Return (B, width, H / patch, W / patch) of images (B, 3, H, W)."""
        return super().forward(x)


class Adapters(nn.Sequential):
    """`depth` residual adapters: x + scale * net(norm(x)), token by token.

    Args:
        width: D of the tokens.
        config: Sizes of the adapters.
    """

    def __init__(self, width: int, config: AdapterConfig) -> None:
        super().__init__(*(Adapter(width, config) for _ in range(config.depth)))


class Adapter(nn.Module):
    """One residual adapter on tokens (..., D)."""

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
        """Return (..., D) of tokens (..., D)."""
        changed: Tensor = x + self.scale * self.net(x)
        return changed


class Encoder(nn.Module):
    """An image tower that returns its patch tokens as a grid over the image; built by `load_encoder`.

    Attributes:
        name: Name of the model and source of its weights, "ViT-B-16 (openai)" or "ViT-demo (SCRATCH)".
        scratch: Whether the weights are random.
        input_size: (width, height) of the images that `tokens` takes, px.
        grid: (rows, columns) of tokens.
        width: D, the length of a token; the features of several layers are concatenated.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, visual: Any, mean: tuple[float, ...], std: tuple[float, ...], config: EncoderConfig) -> None:
        super().__init__()
        self.visual, self.config, self.scratch = visual, config, config.pretrained == SCRATCH
        self.name = f"{config.model} ({'SCRATCH' if self.scratch else config.pretrained})"
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
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
        self.train()

    def input_map(self, width: int, height: int) -> ImageMap:
        """Return the map from a width x height image to this encoder's input, which maps boxes as well."""
        whole = ImageMap.identity(width, height)
        if self.config.fit == "letterbox":
            return whole.letterbox(*self.input_size)
        return whole.resize(*self.input_size)

    def tokens(self, images: Tensor) -> Tensor:
        """Return the token grid of the chosen blocks, each after the final norm of the tower.

        CoCa's towers have that norm behind an attention pooling of another width: their tokens get a layer norm
        without weights.

        Args:
            images: (B, H, W, 3) uint8 RGB of exactly `input_size`.

        Returns:
            (B, rows, columns, D) float32.

        Raises:
            ValueError: Another dtype or size; images must pass through `input_map` first and stay uint8.
        """
        width, height = self.input_size
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != (height, width, 3):
            raise ValueError(
                f"{self.name} takes uint8 RGB images of shape (B, {height}, {width}, 3); got {images.dtype} "
                f"{tuple(images.shape)}. Pass them through Encoder.input_map(width, height).apply_to_image; the "
                f"encoder subtracts its mean and divides by its std"
            )
        x = images.permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0
        learns = self.config.tune in ("full", "last")
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            tokens = self._features((x - self.mean) / self.std).permute(0, 2, 3, 1)
        return tokens if self.adapters is None else self.adapters(tokens)

    def train(self, mode: bool = True) -> "Encoder":
        """Switch dropout on or off; it stays off in a tower that does not learn."""
        super().train(mode)
        if self.config.tune in ("adapters", "frozen"):
            self.visual.eval()
        return self

    def _features(self, x: Tensor) -> Tensor:
        bf16, layers = self.config.precision == "bfloat16", sorted(set(self._take))
        options = {"output_fmt": "NCHW", "intermediates_only": True, "stop_early": True}
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16):
            grids = self.visual.forward_intermediates(
                x, indices=layers, normalize_intermediates=self._norm_fits, **options
            )["image_intermediates"]
            if not self._norm_fits:
                grids = [F.layer_norm(g.permute(0, 2, 3, 1), g.shape[1:2]).permute(0, 3, 1, 2) for g in grids]
        chosen = [grids[layers.index(layer)] for layer in self._take]
        features: Tensor = chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=1)
        return features.float() if bf16 else features

    def _require_whole_patches(self, patch: int) -> None:
        """Refuse a size whose last pixels belong to no token, which would shift all tokens from their place."""
        if any(side % patch for side in self.input_size):
            near = tuple(max(round(side / patch), 1) * patch for side in self.input_size)
            raise InputError(
                f"{self.name} needs an image_size of whole patches of {patch} px; got {self.input_size}. "
                f"Take {near}, or leave image_size out for the model's own"
            )

    def _layers(self) -> list[int]:
        blocks, layers = _blocks(self.visual), self.config.layers
        if blocks is None and layers != (-1,):
            raise InputError(f"{self.name} has no list of transformer blocks, so layers must be (-1,); got {layers}")
        if blocks is None:
            return [-1]
        count = len(blocks)
        if any(not -count <= layer < count for layer in layers):
            raise InputError(
                f"{self.name} has {count} blocks, so layers must lie in {-count}..{count - 1}; got {layers}"
            )
        return [layer % count for layer in layers]

    def _thaw(self) -> None:
        """Make those weights learn on which the tokens depend: none behind the last block that is used."""
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
                f"{self.name}: tune = 'last' with last_blocks = {last_blocks} needs as many transformer blocks; there "
                f"are {len(used)} before the tokens are taken"
            )
        norm = getattr(self.visual, "ln_post", None) or getattr(trunk, "norm", None)
        for part in (*used[-last_blocks:], *([norm] if norm is not None and self._norm_fits else [])):
            part.requires_grad_(True)


def _norm_fits(visual: Any) -> bool:
    """Return whether the tower's final norm fits tokens; it does not behind an attention pooling of another width."""
    norm, stem = getattr(visual, "ln_post", None), getattr(visual, "conv1", None)
    width = getattr(stem, "out_channels", None)
    return not (isinstance(norm, nn.LayerNorm) and width is not None and tuple(norm.normalized_shape) != (width,))


def _blocks(visual: Any) -> nn.ModuleList | None:
    """Return the transformer blocks of an open_clip or timm tower, in order; None for other networks."""
    transformer, trunk = getattr(visual, "transformer", None), getattr(visual, "trunk", None)
    blocks = getattr(trunk, "blocks", None) if transformer is None else getattr(transformer, "resblocks", None)
    return blocks if isinstance(blocks, nn.ModuleList | nn.Sequential) else None  # type: ignore[return-value]


def _patch(visual: Any) -> int:
    """Return the width of a token, px: of a timm tower, of open_clip's transformers, or of its residual networks."""
    trunk, patch = getattr(visual, "trunk", None), getattr(visual, "patch_size", None)
    if trunk is not None:
        return int(trunk.feature_info[-1]["reduction"])
    return 32 if patch is None else int(patch[0])


@dataclass(frozen=True)
class Catalogue:
    """The facts that open_clip has about the weights of a model.

    Attributes:
        model: Name of the model.
        tags: Facts about each of its pretrained tags.
        models: Names of all models.
    """

    model: str
    tags: Mapping[str, Mapping[str, Any]]
    models: tuple[str, ...]

    def needs_quick_gelu(self, source: str | None) -> bool:
        """Return whether a tag or file is known to hold weights trained with QuickGELU."""
        return source is not None and bool(self.facts_of(source).get("quick_gelu"))

    def facts_of(self, source: str) -> dict[str, Any]:
        """Return the facts about a tag, or about a file in the hub's cache, whose folder names a tag's repository.

        Only the path is read, with the separators of either system: a checkpoint keeps it when the file is gone.
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
        """Return advice on how to fetch a tag's weights on another machine and how to use the file."""
        facts = self.facts_of(tag)
        repository, file = _repository_and_file(facts)
        files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        downloads = (
            [f"hf download {repository} {name}" for name in files] if repository else [f"curl -LO {facts['url']}"]
        )
        twin = self._quick_gelu_twin() if self.needs_quick_gelu(tag) else None
        advice = f"{' || '.join(downloads)}; then give the file's path as `pretrained`"
        return advice + (f" and '{twin}' as `model`" if twin else "")

    def warn_of_quick_gelu(self, source: str, visual: nn.Module) -> None:
        """Warn when a file may hold weights trained with QuickGELU and its tower runs with another activation."""
        if self.facts_of(source) or not any(isinstance(part, nn.GELU) for part in visual.modules()):
            return
        tags = [tag for tag in self.tags if self.needs_quick_gelu(tag)]
        if tags:
            twin = self._quick_gelu_twin()
            advice = f"take '{twin}' as `model`" if twin else "give that tag as `pretrained`, which runs them with it"
            warnings.warn(
                f"{source} does not state whether it was trained with QuickGELU, and {self.model} runs it without. If "
                f"these are the weights of {', '.join(tags)}, {advice}",
                stacklevel=4,
            )

    def mean_and_std(self, visual: Any, source: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the mean and standard deviation that normalise images.

        A checkpoint file does not state them, and SigLIP's differ from CLIP's: a file gets those on which all tags of
        the model agree, if they do.
        """
        known = self.facts_of(source) if source is not None else {}
        tags = [known] if known else list(self.tags.values())
        stated = {(tuple(tag["mean"]), tuple(tag["std"])) for tag in tags if tag.get("mean") and tag.get("std")}
        if source is not None and len(stated) == 1:
            return stated.pop()
        return tuple(visual.image_mean), tuple(visual.image_std)

    def tag_or_path(self, pretrained: str) -> str:
        """Return `pretrained` if it is a tag of the model or a file of tensors; raises as `load_encoder`."""
        if Path(pretrained).is_file():
            self._refuse_script(pretrained)
            return pretrained
        if Path(pretrained).suffix or len(Path(pretrained).parts) > 1:
            raise FileNotFoundError(f"{pretrained}: no such checkpoint. Needed: an open_clip tag, a file, or 'scratch'")
        if pretrained not in self.tags:
            tags = list(self.tags)
            near = difflib.get_close_matches(pretrained, tags, n=4, cutoff=0.3) or tags[:6]
            raise InputError(
                f"{self.model} has no pretrained tag '{pretrained}'. Similar tags: {', '.join(near) or 'none'}; "
                f"or give a checkpoint file, or 'scratch' for random weights"
            )
        return pretrained

    def _quick_gelu_twin(self) -> str | None:
        """Return the name of the same model with QuickGELU; None where open_clip has no such model."""
        twin = f"{self.model}-quickgelu"
        return twin if twin in self.models else None

    def _refuse_script(self, path: str) -> None:
        """Refuse a TorchScript archive, which is a program; OpenAI's files are such archives."""
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            script = any(name.endswith("/constants.pkl") for name in archive.namelist())
        if script:
            openai = "openai" in self.tags
            instead = f"For OpenAI's run: {self.how_to_fetch('openai')}" if openai else "Save its state dict alone"
            raise InputError(
                f"{path}: needed a state dict of {self.model}, saved by torch.save or as safetensors; got a "
                f"TorchScript archive, which runs code. {instead}"
            )


def _repository_and_file(facts: Mapping[str, Any]) -> tuple[str, str]:
    """Return repository and file of open_clip's owner/name/file; the file is "" where it has open_clip's usual name."""
    repository, _, file = str(facts.get("hf_hub") or "").rpartition("/")
    return repository, file


Fit = Literal["stretch", "letterbox"]
SCRATCH = "scratch"
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
    """Build an image encoder.

    Args:
        model: An open_clip model name ("ViT-B-16", "ViT-B-16-quickgelu", timm towers included), or "ViT-demo",
            a small one for tests and the demo. A file of weights trained with QuickGELU, as OpenAI's were, needs the
            "-quickgelu" model; a tag does not.
        pretrained: An open_clip tag ("laion2b_s34b_b88k"), the path of a checkpoint file, or "scratch" for random
            weights. There is no default, so that nobody gets a random encoder by accident.
        image_size: (width, height) of its input, px; None keeps the model's own. Positional embeddings of
            pretrained weights are interpolated.
        fit: How an image gets that size: "stretch", or "letterbox" to keep the aspect.
        stem: "conv" replaces the patch projection by a convolutional stem; for training from scratch only.
        options: Other fields of `EncoderConfig`: layers, tune, last_blocks, adapters, checkpointing, precision.

    Raises:
        InputError: Unknown model or tag (similar names are listed), a checkpoint that does not fit, or an image size
            or stem that the tower does not support.
        FileNotFoundError: `pretrained` looks like a path and the file does not exist.
        ConnectionError: The weights of a tag could not be fetched; states how to fetch the file elsewhere.
        MissingExtra: The text tower of the weights needs the library transformers.

    Warns:
        UserWarning: Some weights of this model were trained with QuickGELU, and the file does not state whether it
            holds them; a file in the cache of `hf download` does, by the name of its folder.
    """
    return encoder_of(
        EncoderConfig(model=model, pretrained=str(pretrained), image_size=image_size, fit=fit, stem=stem, **options)
    )


def encoder_of(config: EncoderConfig, fill: bool = True) -> Encoder:
    """Build the encoder of a config; see `load_encoder`.

    Args:
        config: The tower.
        fill: Whether to load the pretrained weights; False when a checkpoint is loaded right after.
    """
    _require_model(config.model)
    scratch = config.pretrained == SCRATCH
    if config.stem == "conv" and not scratch:
        raise InputError("stem='conv' replaces pretrained weights of the patch projection; use it with 'scratch' only")
    known = catalogue_of(config.model)
    source = None if scratch else known.tag_or_path(config.pretrained) if fill else config.pretrained
    _require_square_where_needed(config)
    visual = _create(config, known, source, fill)
    if fill and source is not None:
        known.warn_of_quick_gelu(source, visual)
    if config.stem == "conv":
        if not isinstance(visual, open_clip.transformer.VisionTransformer):
            raise InputError(
                f"stem = 'conv' replaces the patch projection of open_clip's own vision transformers; {config.model} "
                f"is a {type(visual).__name__}. Leave stem out, or take a model such as ViT-B-16"
            )
        visual.conv1 = ConvStem(visual.conv1.out_channels, visual.conv1.stride[0])
    return Encoder(visual, *known.mean_and_std(visual, source), config)


def input_size_of(model: str, image_size: tuple[int, int] | None) -> tuple[int, int]:
    """Return (width, height) of a model's input, px, without building it.

    Raises:
        InputError: Unknown model; similar names are listed.
    """
    _require_model(model)
    if image_size is not None:
        return image_size
    size = open_clip.get_model_config(model)["vision_cfg"]["image_size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(width), int(height)


def catalogue_of(model: str) -> Catalogue:
    """Return open_clip's facts about the weights of a model."""
    tags = {tag: open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)}
    return Catalogue(model, tags, tuple(open_clip.list_models()))


def _create(config: EncoderConfig, known: Catalogue, source: str | None, fill: bool) -> Any:
    """Build the image tower that `source` fills; without `fill` it gets random weights, but runs as its tag states."""
    foreign = "hf_model_name" in open_clip.get_model_config(config.model).get("text_cfg", {})
    # A text tower of Hugging Face fetches its config, which only a tower with weights needs.
    text = {"text_cfg": _NO_TEXT} if (foreign if source is None else not fill) else {}
    facts = known.facts_of(source) if source is not None and not fill else {}
    size = config.image_size
    try:
        with _quiet_open_clip():
            clip = open_clip.create_model(
                config.model,
                pretrained=source if fill else None,
                force_quick_gelu=known.needs_quick_gelu(source),
                # Convolutional towers take a number, not a pair.
                force_image_size=size[0] if size and size[0] == size[1] else size and size[::-1],
                force_preprocess_cfg={name: facts[name] for name in ("mean", "std") if name in facts},
                pretrained_text=False,
                weights_only=True,
                **text,
            )
    except Exception as error:  # a damaged file can raise anything; without a file, an exception is a bug
        if source is None or not fill or isinstance(error, OSError):
            raise
        if "Failed to download" in str(error):
            raise ConnectionError(
                f"the weights '{source}' of {config.model} could not be fetched. On a machine with network access "
                f"run: {known.how_to_fetch(source)}"
            ) from error
        if foreign and "transformers" in str(error):
            raise MissingExtra(
                f"the weights of {config.model} come with a text tower of Hugging Face, which open_clip builds with "
                f"transformers: pip install transformers, or take a model without one"
            ) from error
        first = str(error).strip().splitlines()
        raise InputError(
            f"{source} does not fit {config.model}: {first[0] if first else error!r}. Needed: a state dict of that "
            f"open_clip model, saved by torch.save or as safetensors"
        ) from error
    return clip.visual


@contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """Keep open_clip from writing to the root logger; the name of a random encoder states SCRATCH already.

    logging.warning() would also install a handler where the root logger has none, hence the NullHandler.
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
    """Register our models with open_clip, then refuse a name it does not know."""
    if "ViT-demo" not in open_clip.list_models():
        with resources.as_file(resources.files("tactile_align.features") / "models") as folder:
            open_clip.add_model_config(folder)
    models = open_clip.list_models()
    if model not in models:
        near = difflib.get_close_matches(model, models, n=4, cutoff=0.4)
        raise InputError(f"open_clip has no model '{model}'. Similar names: {', '.join(near) or 'none'}")


def _require_square_where_needed(config: EncoderConfig) -> None:
    convolutional = isinstance(open_clip.get_model_config(config.model)["vision_cfg"].get("layers"), list)
    if convolutional and config.image_size is not None and len(set(config.image_size)) > 1:
        raise InputError(
            f"{config.model} takes square images; got image_size = {config.image_size}. Give one side twice "
            f"(fit = 'letterbox' keeps the aspect), or take a vision transformer"
        )
