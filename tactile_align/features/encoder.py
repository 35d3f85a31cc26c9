"""Any open_clip image tower by name, with weights from a tag, a file, or none."""

import difflib
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import open_clip

from tactile_align.features.config import EncoderConfig
from tactile_align.features.stem import ConvStem
from tactile_align.features.tower import Encoder

__all__ = ["SCRATCH", "Encoder", "encoder_of", "input_size_of", "load_encoder", "needs_quick_gelu"]

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
            a small one for tests and the demo. A file with OpenAI's weights needs the "-quickgelu" model.
        pretrained: An open_clip tag ("laion2b_s34b_b88k"), the path of a checkpoint file, or "scratch" for random
            weights. There is no default: a random encoder has to be asked for by name.
        image_size: (width, height) of its input, px; None keeps the model's own. Positional embeddings of
            pretrained weights are interpolated.
        fit: How an image is brought to that size: stretched, or letterboxed with its aspect kept.
        stem: "conv" puts a convolutional stem in place of the patch projection; for scratch training only.
        options: Other fields of `EncoderConfig`: layers, tune, last_blocks, adapters, checkpointing, precision.

    Raises:
        ValueError: Unknown model or tag (near names are listed), or a checkpoint that does not fit.
        FileNotFoundError: `pretrained` looks like a path and no file is there.
        ConnectionError: The weights of a tag could not be fetched; says how to fetch the file elsewhere.
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
        raise ValueError("stem='conv' replaces pretrained weights of the patch projection; use it with 'scratch' only")
    source = None if scratch else _tag_or_path(config.model, config.pretrained) if fill else config.pretrained
    visual = _create(config, source) if fill or source is None else _create_unfilled(config, source)
    if config.stem == "conv":
        visual.conv1 = ConvStem(visual.conv1.out_channels, visual.conv1.stride[0])
    mean, std = _mean_and_std(config.model, visual, source)
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


def needs_quick_gelu(model: str, tag: str | None) -> bool:
    """Tell whether weights were trained with QuickGELU, as OpenAI's were; open_clip only warns about a mismatch."""
    return bool(tag and (open_clip.get_pretrained_cfg(model, tag) or {}).get("quick_gelu"))


def _create(config: EncoderConfig, source: str | None) -> Any:
    # A text tower of Hugging Face fetches its config; random weights have no use for it.
    foreign = "hf_model_name" in open_clip.get_model_config(config.model).get("text_cfg", {})
    text = {"text_cfg": _NO_TEXT} if foreign and source is None else {}
    try:
        with _no_remarks_of_open_clip():
            clip = open_clip.create_model(
                config.model,
                pretrained=source,
                force_quick_gelu=needs_quick_gelu(config.model, source),
                force_image_size=_height_width(config),
                pretrained_text=False,
                weights_only=True,
                **text,
            )
    except (RuntimeError, pickle.UnpicklingError, KeyError, AttributeError) as error:
        if "Failed to download" in str(error):
            raise ConnectionError(
                f"the weights '{source}' of {config.model} could not be fetched. On a machine with network access "
                f"run: {_how_to_fetch(config.model, str(source))}; then give the file's path as `pretrained`"
            ) from error
        if foreign and "transformers" in str(error):
            raise ImportError(
                f"the weights of {config.model} come with a text tower of Hugging Face, which open_clip builds with "
                f"transformers: pip install transformers, or take a model without one"
            ) from error
        first = str(error).strip().splitlines()
        raise ValueError(
            f"{source} does not fit {config.model}: {first[0] if first else error!r}. Needed: a state dict of that "
            f"open_clip model, saved by torch.save or as safetensors"
        ) from error
    return clip.visual


def _create_unfilled(config: EncoderConfig, source: str) -> Any:
    """Build the tower that `source` would fill, as its tag says it is used, with random weights."""
    tag = open_clip.get_pretrained_cfg(config.model, source) or {}
    with _no_remarks_of_open_clip():
        clip = open_clip.create_model(
            config.model,
            force_quick_gelu=needs_quick_gelu(config.model, source),
            force_image_size=_height_width(config),
            force_preprocess_cfg={name: tag[name] for name in ("mean", "std") if name in tag},
            pretrained_text=False,
            text_cfg=_NO_TEXT,  # some text towers fetch their own config
        )
    return clip.visual


def _height_width(config: EncoderConfig) -> tuple[int, int] | None:
    return None if config.image_size is None else (config.image_size[1], config.image_size[0])


def _how_to_fetch(model: str, tag: str) -> str:
    found = open_clip.get_pretrained_cfg(model, tag) or {}
    repository = str(found.get("hf_hub", "")).strip("/")
    if not repository:
        return f"curl -LO {found.get('url')}"
    files = "open_clip_model.safetensors (or open_clip_pytorch_model.bin)"
    return f"hf download {repository} {files}"


def _mean_and_std(model: str, visual: Any, source: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return what images are normalised by: the tag's, or for a file what all the model's tags agree on.

    A checkpoint file does not say it, and SigLIP's differs from CLIP's.
    """
    tags = open_clip.list_pretrained_tags_by_model(model)
    if source is not None and source not in tags:
        found = [open_clip.get_pretrained_cfg(model, tag) for tag in tags]
        agreed = {(tuple(one["mean"]), tuple(one["std"])) for one in found if one.get("mean") and one.get("std")}
        if len(agreed) == 1:
            return agreed.pop()
    return tuple(visual.image_mean), tuple(visual.image_std)


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
        raise ValueError(f"open_clip has no model '{model}'. Near names: {', '.join(near) or 'none'}")


def _tag_or_path(model: str, pretrained: str) -> str:
    if Path(pretrained).is_file():
        return pretrained
    if Path(pretrained).suffix or len(Path(pretrained).parts) > 1:
        raise FileNotFoundError(f"{pretrained}: no such checkpoint. Needed: an open_clip tag, a file, or 'scratch'")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained not in tags:
        near = difflib.get_close_matches(pretrained, tags, n=4, cutoff=0.3) or tags[:6]
        raise ValueError(
            f"{model} has no pretrained tag '{pretrained}'. Near tags: {', '.join(near) or 'none'}; "
            f"or give a checkpoint file, or 'scratch' for random weights"
        )
    return pretrained
