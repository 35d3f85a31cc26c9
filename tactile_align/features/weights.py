"""Pretrained weights of image encoders: what open_clip knows about them, and the files that contain them."""

import difflib
import logging
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PureWindowsPath
from typing import Any

import open_clip
from safetensors.torch import save_file
from torch import Tensor, nn

from tactile_align.config.features import EncoderConfig
from tactile_align.errors import InputError, MissingExtra
from tactile_align.features.foreign import form_of, is_foreign
from tactile_align.features.tensor_files import header_of, mismatches, read_tensors, require_floating
from tactile_align.files import write_atomically

QUICK = "-quickgelu"
"""End of the names of open_clip's models with the activation QuickGELU."""
TOWER = "tactile_align_tower"  # key in the header of the files that save_tower writes
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


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
        twin = f"{self.model}{QUICK}"
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


def catalogue_of(model: str) -> Catalogue:
    """Return the information from open_clip about the pretrained weights of a model."""
    tags = {tag: open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)}
    return Catalogue(model, tags, tuple(open_clip.list_models()))


def uses_quick_gelu(config: EncoderConfig) -> bool:
    """Return whether the encoder of a config has the activation QuickGELU, which its model or its tag decides."""
    if is_foreign(config.model):
        return False
    require_model(config.model)
    of_model = bool(open_clip.get_model_config(config.model).get("quick_gelu", False))
    return of_model or catalogue_of(config.model).needs_quick_gelu(config.pretrained)


def input_size_of(model: str, image_size: tuple[int, int] | None) -> tuple[int, int]:
    """Return (width, height) of a model's input image, px, without building the model.

    Raises:
        InputError: The model is unknown. The message lists similar names.
    """
    if is_foreign(model):
        return form_of(model, image_size).size
    require_model(model)
    if image_size is not None:
        return image_size
    size = open_clip.get_model_config(model)["vision_cfg"]["image_size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(width), int(height)


def require_model(model: str) -> None:
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


def image_tower(config: EncoderConfig, known: Catalogue, source: str | None, fill: bool) -> Any:
    """Return the image tower of a config with the weights of `source`.

    With `fill` = False the weights are random, but activation and normalisation are those of `source`.

    Args:
        config: Options of the encoder.
        known: Information about the pretrained weights of the config's model.
        source: Tag or file of the weights; None: random weights.
        fill: Whether to load the weights.

    Raises:
        InputError: The weights do not fit the model, or the model does not support the image size.
        ConnectionError: The weights of a tag could not be downloaded.
        MissingExtra: The text encoder that belongs to the weights needs the package transformers.
    """
    _require_square_where_needed(config)
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
    if fill and source is not None and Path(source).is_file() and Path(source).suffix not in WHOLE_SIGLIP:
        whole, _ = read_tensors(Path(source))
        require_floating({name.removeprefix("module."): value for name, value in whole.items()}, clip, source)
    return clip.visual


def _require_square_where_needed(config: EncoderConfig) -> None:
    convolutional = isinstance(open_clip.get_model_config(config.model)["vision_cfg"].get("layers"), list)
    if convolutional and config.image_size is not None and len(set(config.image_size)) > 1:
        raise InputError(
            f"{config.model} needs square images; got image_size = {config.image_size}. Use equal width and height "
            f"(fit = 'letterbox' keeps the aspect ratio), or use a vision transformer"
        )


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


WHOLE_SIGLIP = (".npz", ".npy")
"""Endings of files with the weights of whole SigLIP models, in the format of big_vision."""


@dataclass(frozen=True)
class Tower:
    """Image encoder in a file of its own: a tower.safetensors of a run, or the state dict of an open_clip image tower.

    Attributes:
        path: The file.
        model: Name of the open_clip model that the encoder belongs to.
        tensors: Tensors by their names in an `Encoder`.
        facts: The `Encoder.facts` that `save_tower` wrote; empty for a plain state dict.
    """

    path: str
    model: str
    tensors: dict[str, Tensor]
    facts: dict[str, str]

    @classmethod
    def read(cls, path: str, model: str) -> "Tower | None":
        """Return the encoder in a file, or None if the file contains a whole model with its text encoder.

        Args:
            path: The file.
            model: Name of the open_clip model that the encoder belongs to.

        Raises:
            InputError: The file is damaged, or contains something other than tensors.
        """
        if Path(path).suffix in WHOLE_SIGLIP:
            return None
        tensors, entry = read_tensors(Path(path))
        facts = header_of(Path(path))
        if all(name.startswith("module.") for name in tensors):  # the prefix of torch's DistributedDataParallel
            tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
        if "logit_scale" in tensors:
            if entry in ("", "state_dict"):  # open_clip reads no other entry
                return None
            tensors = {name: value for name, value in tensors.items() if name.startswith("visual.")}
        if TOWER in facts:
            return cls(path, model, tensors, facts)
        tensors = {f"visual.{name.removeprefix('visual.')}": value for name, value in tensors.items()}
        return cls(path, model, tensors, {})

    def load_into(self, encoder: nn.Module, facts: Mapping[str, str]) -> None:
        """Load the weights into an `Encoder` with the given facts; adapters that the file lacks stay as they are.

        Raises:
            InputError: The encoder has another model, stem, activation or image size, or has no place for the adapters.
        """
        for name, stated in facts.items():
            if self.facts.get(name, stated) != stated:
                raise InputError(
                    f"{self.path}: the encoder was saved with {name} = {self.facts[name]}, but the config gives "
                    f"{stated}. Set {name} as saved (a model with QuickGELU has a name that ends in -quickgelu)"
                )
        require_floating(self.tensors, encoder, self.path)
        given = dict(self.tensors)
        if not self.facts:
            open_clip.model.resize_pos_embed(given, encoder)
        own = encoder.state_dict()
        given = {name: inflated(value, own[name]) if name in own else value for name, value in given.items()}
        kept = {n: value for n, value in own.items() if n in ("mean", "std") or n.startswith("adapters.")}
        if not any(name.startswith("adapters.") for name in given):
            given = {**kept, **given}
        given = {**{name: own[name] for name in ("mean", "std")}, **given}
        if faults := mismatches(given, encoder):
            some = ", ".join(list(self.tensors)[:2])
            text = (
                f"its tensors ({len(self.tensors)}: {some} ...) are not those of the encoder: {'; '.join(faults[:3])}"
            )
            raise _unfit(self.path, self.model, text)
        encoder.load_state_dict(given)


def inflated(kernel: Tensor, wanted: Tensor) -> Tensor:
    """Return the kernel of a first convolution for several stacked images, from that for one; else `kernel` itself.

    The kernel (out, 3, h, w) is repeated for each image and divided by their number, so that equal images give the
    output of one image. `wanted` is the tensor whose place the kernel takes.
    """
    if kernel.ndim != 4 or kernel.shape[1] != 3 or wanted.ndim != 4 or wanted.shape[1] % 3:
        return kernel
    frames = wanted.shape[1] // 3
    return kernel if frames == 1 else kernel.repeat(1, frames, 1, 1) / frames


def save_tower(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Write the weights of an image encoder to a .safetensors file that `pretrained` accepts.

    Args:
        path: File to write.
        tensors: The weights, by the names of the encoder's state dict.
        facts: `Encoder.facts`, and optionally texts about the origin of the weights, for the header of the file.
    """
    header = {TOWER: "1", **facts}
    whole = {name: value.contiguous() for name, value in tensors.items()}
    write_atomically(path, lambda temporary: save_file(whole, temporary, header))


def _unfit(source: str, model: str, fault: str) -> InputError:
    """Return the error for weights that do not fit a model."""
    reason = " ".join(fault.split())[:300].rstrip(".")
    return InputError(
        f"the weights {source} do not fit the model {model}: {reason}. Use a state dict of this open_clip model or of "
        f"its image tower, saved by torch.save or as safetensors"
    )
