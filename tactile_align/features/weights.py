"""Where an encoder's weights come from: a tag, a file, and what is known of each."""

import difflib
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from torch import nn

from tactile_align.errors import InputError


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
