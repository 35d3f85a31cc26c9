"""Where an encoder's weights come from: a tag, a file, and what is known of each."""

import difflib
import warnings
import zipfile
from pathlib import Path, PureWindowsPath
from typing import Any

import open_clip
from torch import nn


def needs_quick_gelu(model: str, source: str | None) -> bool:
    """Tell whether a tag or file is known to hold weights trained with QuickGELU; open_clip warns about tags only."""
    return source is not None and bool(facts_of(model, source).get("quick_gelu"))


def facts_of(model: str, source: str) -> dict[str, Any]:
    """Return what open_clip knows of a tag, or of a file in the hub's cache, whose folder names a tag's repository.

    The path alone is read, by either system's separators: a checkpoint remembers it where the file is gone.
    """
    found = open_clip.get_pretrained_cfg(model, source)
    parts = PureWindowsPath(source).parts
    for tag in () if found else open_clip.list_pretrained_tags_by_model(model):
        repository, _ = _repository_and_file(open_clip.get_pretrained_cfg(model, tag))
        if repository and f"models--{repository.replace('/', '--')}" in parts:
            return dict(open_clip.get_pretrained_cfg(model, tag))
    return dict(found or {})


def how_to_fetch(model: str, tag: str) -> str:
    """Say how to fetch a tag's weights on another machine and how to use the file, which knows less than its tag."""
    facts = facts_of(model, tag)
    repository, file = _repository_and_file(facts)
    files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    fetch = " || ".join(f"hf download {repository} {one}" for one in files)
    twin = _quick_gelu_twin(model) if needs_quick_gelu(model, tag) else None
    return (
        f"{fetch if repository else 'curl -LO ' + str(facts.get('url'))}; then give the file's path as `pretrained`"
        + (f" and '{twin}' as `model`" if twin else "")
    )


def _quick_gelu_twin(model: str) -> str | None:
    """Return the same model with QuickGELU; None where it has it or open_clip has no such name."""
    twin = f"{model}-quickgelu"
    return twin if twin in open_clip.list_models() else None


def warn_of_quick_gelu(model: str, source: str, visual: Any) -> None:
    """Warn where a file may have been trained with QuickGELU and its tower runs with another activation."""
    if facts_of(model, source) or not any(isinstance(part, nn.GELU) for part in visual.modules()):
        return
    tags = [tag for tag in open_clip.list_pretrained_tags_by_model(model) if needs_quick_gelu(model, tag)]
    if tags:
        warnings.warn(
            f"{source} does not say whether it was trained with QuickGELU, and {model} runs it without. If these are "
            f"the weights of {', '.join(tags)}, take '{_quick_gelu_twin(model)}' as `model`",
            stacklevel=4,
        )


def mean_and_std(model: str, visual: Any, source: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return what images are normalised by: the tag's, or for a file what all the model's tags agree on.

    A checkpoint file does not say it, and SigLIP's differs from CLIP's.
    """
    if source is not None:
        known = facts_of(model, source)
        tags = open_clip.list_pretrained_tags_by_model(model)
        found = [known] if known else [open_clip.get_pretrained_cfg(model, tag) for tag in tags]
        agreed = {(tuple(one["mean"]), tuple(one["std"])) for one in found if one.get("mean") and one.get("std")}
        if len(agreed) == 1:
            return agreed.pop()
    return tuple(visual.image_mean), tuple(visual.image_std)


def tag_or_path(model: str, pretrained: str) -> str:
    """Return `pretrained` where it is a tag of the model or a file of tensors; raises as `load_encoder`."""
    if Path(pretrained).is_file():
        _refuse_script(model, pretrained)
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


def _repository_and_file(facts: dict[str, Any]) -> tuple[str, str]:
    """Split open_clip's owner/name/file; the file is empty where it has open_clip's usual name."""
    repository, _, file = str(facts.get("hf_hub") or "").rpartition("/")
    return repository, file


def _refuse_script(model: str, path: str) -> None:
    """Refuse a TorchScript archive, which is a program; OpenAI's own files are such."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        script = any(name.endswith("/constants.pkl") for name in archive.namelist())
    if script:
        known = "openai" in open_clip.list_pretrained_tags_by_model(model)
        instead = f"For OpenAI's run: {how_to_fetch(model, 'openai')}" if known else "Save its state dict alone"
        raise ValueError(
            f"{path}: needed a state dict of {model}, saved by torch.save or as safetensors; got a TorchScript "
            f"archive, which runs code. {instead}"
        )
