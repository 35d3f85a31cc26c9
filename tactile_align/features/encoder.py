"""Any open_clip image tower by name, with weights from a tag, a file, or none."""

import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import open_clip

from tactile_align.errors import InputError, MissingExtra
from tactile_align.features.config import EncoderConfig
from tactile_align.features.stem import ConvStem
from tactile_align.features.tower import Encoder
from tactile_align.features.weights import Catalogue

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
