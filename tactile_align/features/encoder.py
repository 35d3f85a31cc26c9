"""Any open_clip image tower by name, with weights from a tag, a file, or none."""

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

    Small transformers trained from scratch leave chance much sooner with it ("Early Convolutions Help
    Transformers See Better", arXiv 2106.14881). Group normalisation keeps a row independent of its batch.

    Args:
        width: Channels of a token.
        patch: Patch side, px; a power of two.

    Raises:
        ValueError: `patch` is not a power of two.
    """

    def __init__(self, width: int, patch: int) -> None:
        steps = round(math.log2(patch))
        if patch < 2 or 2**steps != patch:
            raise InputError(f"a conv stem halves the image step by step, so the patch must be 2, 4, 8...; got {patch}")
        layers: list[nn.Module] = []
        channels = 3
        for step in range(steps):
            out = max(width >> (steps - 1 - step), 8)
            layers += [
                nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False),
                nn.GroupNorm(_groups(out), out),
                nn.GELU(),
            ]
            channels = out
        super().__init__(*layers, nn.Conv2d(channels, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, H / patch, W / patch) of images (B, 3, H, W)."""
        return super().forward(x)


def _groups(channels: int) -> int:
    return next(g for g in (8, 4, 2, 1) if channels % g == 0)


class Adapters(nn.Sequential):
    """`depth` residual adapters: x + scale * net(norm(x)), token by token.

    Args:
        width: D of the tokens.
        config: Their sizes.
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


@dataclass(frozen=True)
class Catalogue:
    """What open_clip knows of the weights of a model.

    Attributes:
        model: Its name.
        tags: What is known of each of its pretrained tags.
        models: The names of all models.
    """

    model: str
    tags: Mapping[str, Mapping[str, Any]]
    models: tuple[str, ...]

    def needs_quick_gelu(self, source: str | None) -> bool:
        """Tell whether a tag or file is known to hold weights trained with QuickGELU; open_clip warns of tags only."""
        return source is not None and bool(self.facts_of(source).get("quick_gelu"))

    def facts_of(self, source: str) -> dict[str, Any]:
        """Return what is known of a tag, or of a file in the hub's cache, whose folder names a tag's repository.

        The path alone is read, by either system's separators: a checkpoint remembers it where the file is gone.
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
        """Say how to fetch a tag's weights elsewhere and how to use the file, which knows less than its tag."""
        facts = self.facts_of(tag)
        repository, file = _repository_and_file(facts)
        files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        fetch = " || ".join(f"hf download {repository} {one}" for one in files)
        twin = self._quick_gelu_twin() if self.needs_quick_gelu(tag) else None
        return (
            f"{fetch if repository else 'curl -LO ' + str(facts.get('url'))}; then give the file's path as `pretrained`"
            + (f" and '{twin}' as `model`" if twin else "")
        )

    def warn_of_quick_gelu(self, source: str, visual: nn.Module) -> None:
        """Warn where a file may have been trained with QuickGELU and its tower runs with another activation."""
        if self.facts_of(source) or not any(isinstance(part, nn.GELU) for part in visual.modules()):
            return
        tags = [tag for tag in self.tags if self.needs_quick_gelu(tag)]
        if tags:
            twin = self._quick_gelu_twin()
            advice = f"take '{twin}' as `model`" if twin else "give that tag as `pretrained`, which runs them with it"
            warnings.warn(
                f"{source} does not say whether it was trained with QuickGELU, and {self.model} runs it without. If "
                f"these are the weights of {', '.join(tags)}, {advice}",
                stacklevel=4,
            )

    def mean_and_std(self, visual: Any, source: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return what images are normalised by: the tag's, or for a file what all the model's tags agree on.

        A checkpoint file does not say it, and SigLIP's differs from CLIP's.
        """
        if source is not None:
            known = self.facts_of(source)
            found = [known] if known else list(self.tags.values())
            agreed = {(tuple(one["mean"]), tuple(one["std"])) for one in found if one.get("mean") and one.get("std")}
            if len(agreed) == 1:
                return agreed.pop()
        return tuple(visual.image_mean), tuple(visual.image_std)

    def tag_or_path(self, pretrained: str) -> str:
        """Return `pretrained` where it is a tag of the model or a file of tensors; raises as `load_encoder`."""
        if Path(pretrained).is_file():
            self._refuse_script(pretrained)
            return pretrained
        if Path(pretrained).suffix or len(Path(pretrained).parts) > 1:
            raise FileNotFoundError(f"{pretrained}: no such checkpoint. Needed: an open_clip tag, a file, or 'scratch'")
        if pretrained not in self.tags:
            tags = list(self.tags)
            near = difflib.get_close_matches(pretrained, tags, n=4, cutoff=0.3) or tags[:6]
            raise InputError(
                f"{self.model} has no pretrained tag '{pretrained}'. Near tags: {', '.join(near) or 'none'}; "
                f"or give a checkpoint file, or 'scratch' for random weights"
            )
        return pretrained

    def _quick_gelu_twin(self) -> str | None:
        """Return the same model with QuickGELU; None where it has it or open_clip has no such name."""
        twin = f"{self.model}-quickgelu"
        return twin if twin in self.models else None

    def _refuse_script(self, path: str) -> None:
        """Refuse a TorchScript archive, which is a program; OpenAI's own files are such."""
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            script = any(name.endswith("/constants.pkl") for name in archive.namelist())
        if script:
            known = "openai" in self.tags
            instead = f"For OpenAI's run: {self.how_to_fetch('openai')}" if known else "Save its state dict alone"
            raise InputError(
                f"{path}: needed a state dict of {self.model}, saved by torch.save or as safetensors; got a "
                f"TorchScript archive, which runs code. {instead}"
            )


def _repository_and_file(facts: Mapping[str, Any]) -> tuple[str, str]:
    """Split open_clip's owner/name/file; the file is empty where it has open_clip's usual name."""
    repository, _, file = str(facts.get("hf_hub") or "").rpartition("/")
    return repository, file


__all__ = ["SCRATCH", "Encoder", "encoder_of", "input_size_of", "load_encoder"]

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
            "-quickgelu" model; a tag says so itself.
        pretrained: An open_clip tag ("laion2b_s34b_b88k"), the path of a checkpoint file, or "scratch" for random
            weights. There is no default: a random encoder has to be asked for by name.
        image_size: (width, height) of its input, px; None keeps the model's own. Positional embeddings of
            pretrained weights are interpolated.
        fit: How an image is brought to that size: stretched, or letterboxed with its aspect kept.
        stem: "conv" puts a convolutional stem in place of the patch projection; for scratch training only.
        options: Other fields of `EncoderConfig`: layers, tune, last_blocks, adapters, checkpointing, precision.

    Raises:
        ValueError: Unknown model or tag (near names are listed), a checkpoint that does not fit, or an image size
            or stem that the tower does not take.
        FileNotFoundError: `pretrained` looks like a path and no file is there.
        ConnectionError: The weights of a tag could not be fetched; says how to fetch the file elsewhere.

    Warns:
        UserWarning: Some weights of this model were trained with QuickGELU, and a file does not say whether it holds
            such; the files that `hf download` put into its cache do, by their folder.
    """
    return encoder_of(
        EncoderConfig(model=model, pretrained=str(pretrained), image_size=image_size, fit=fit, stem=stem, **options)
    )


def encoder_of(config: EncoderConfig, fill: bool = True) -> Encoder:
    """Build the encoder of a config; see `load_encoder`.

    Args:
        config: The tower.
        fill: False neither looks for the pretrained weights nor fetches them: a checkpoint is loaded right after.
    """
    _register_own_models()
    _require_model(config.model)
    scratch = config.pretrained == SCRATCH
    if config.stem == "conv" and not scratch:
        raise InputError("stem='conv' replaces pretrained weights of the patch projection; use it with 'scratch' only")
    known = catalogue_of(config.model)
    source = None if scratch else known.tag_or_path(config.pretrained) if fill else config.pretrained
    _require_square_where_needed(config)
    visual = _create(config, known, source) if fill or source is None else _create_unfilled(config, known, source)
    if fill and source is not None:
        known.warn_of_quick_gelu(source, visual)
    if config.stem == "conv":
        if not isinstance(visual, open_clip.transformer.VisionTransformer):
            raise InputError(
                f"stem = 'conv' replaces the patch projection of open_clip's own vision transformers; {config.model} "
                f"is a {type(visual).__name__}. Leave stem out, or take a model such as ViT-B-16"
            )
        visual.conv1 = ConvStem(visual.conv1.out_channels, visual.conv1.stride[0])
    mean, std = known.mean_and_std(visual, source)
    name = f"{config.model} ({'SCRATCH' if scratch else config.pretrained})"
    return Encoder(visual, name, scratch, mean, std, config)


def input_size_of(model: str, image_size: tuple[int, int] | None) -> tuple[int, int]:
    """Return (width, height) of a model's input without building it; raises as `load_encoder` for unknown names."""
    _register_own_models()
    _require_model(model)
    if image_size is not None:
        return image_size
    size = open_clip.get_model_config(model)["vision_cfg"]["image_size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(width), int(height)


def catalogue_of(model: str) -> Catalogue:
    """Return what open_clip knows of the weights of a model."""
    tags = {tag: open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)}
    return Catalogue(model, tags, tuple(open_clip.list_models()))


def _create(config: EncoderConfig, known: Catalogue, source: str | None) -> Any:
    # A text tower of Hugging Face fetches its config; random weights have no use for it.
    foreign = "hf_model_name" in open_clip.get_model_config(config.model).get("text_cfg", {})
    text = {"text_cfg": _NO_TEXT} if foreign and source is None else {}
    try:
        with _no_remarks_of_open_clip():
            clip = open_clip.create_model(
                config.model,
                pretrained=source,
                force_quick_gelu=known.needs_quick_gelu(source),
                force_image_size=_height_width(config),
                pretrained_text=False,
                weights_only=True,
                **text,
            )
    except Exception as error:  # a damaged file can raise anything; without one, an exception is a bug
        if source is None or isinstance(error, OSError):
            raise
        if "Failed to download" in str(error):
            raise ConnectionError(
                f"the weights '{source}' of {config.model} could not be fetched. On a machine with network access "
                f"run: {known.how_to_fetch(str(source))}"
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


def _create_unfilled(config: EncoderConfig, known: Catalogue, source: str) -> Any:
    """Build the tower that `source` would fill, as its tag says it is used, with random weights."""
    facts = known.facts_of(source)
    with _no_remarks_of_open_clip():
        clip = open_clip.create_model(
            config.model,
            force_quick_gelu=known.needs_quick_gelu(source),
            force_image_size=_height_width(config),
            force_preprocess_cfg={name: facts[name] for name in ("mean", "std") if name in facts},
            pretrained_text=False,
            text_cfg=_NO_TEXT,  # some text towers fetch their own config
        )
    return clip.visual


def _height_width(config: EncoderConfig) -> int | tuple[int, int] | None:
    if config.image_size is None:
        return None
    width, height = config.image_size
    return width if width == height else (height, width)  # convolutional towers take no pair


@contextmanager
def _no_remarks_of_open_clip() -> Iterator[None]:
    """Keep open_clip from writing to the root logger; a random encoder names itself SCRATCH already.

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


def _register_own_models() -> None:
    if "ViT-demo" not in open_clip.list_models():
        with resources.as_file(resources.files("tactile_align.features") / "models") as folder:
            open_clip.add_model_config(folder)


def _require_model(model: str) -> None:
    known = open_clip.list_models()
    if model not in known:
        near = difflib.get_close_matches(model, known, n=4, cutoff=0.4)
        raise InputError(f"open_clip has no model '{model}'. Near names: {', '.join(near) or 'none'}")


def _require_square_where_needed(config: EncoderConfig) -> None:
    convolutional = isinstance(open_clip.get_model_config(config.model)["vision_cfg"].get("layers"), list)
    if convolutional and config.image_size is not None and len(set(config.image_size)) > 1:
        raise InputError(
            f"{config.model} takes square images; got image_size = {config.image_size}. Give one side twice "
            f"(fit = 'letterbox' keeps the aspect), or take a vision transformer"
        )
