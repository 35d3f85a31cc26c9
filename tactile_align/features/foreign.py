"""Towers from elsewhere: timm models and Sparsh's touch encoders, with weights from local files. Nothing is downloaded.

| name of the model | tower | file |
|---|---|---|
| timm/NAME, such as timm/vit_small_patch14_dinov2.lvd142m | a timm vision transformer or ConvNet | as timm reads it |
| sparsh/METHOD_vitSIZE, such as sparsh/dino_vitbase | Sparsh, two touch images | METHOD_vitSIZE.ckpt or .safetensors |

Sparsh (arXiv 2410.24090) is a ViT with 16 px patches and fixed positions. Its input is the touch image and an earlier
one (5 frames earlier at 30 Hz), both without their background: clip((image - background) / 255 + 0.5, 0, 1).
"""

import difflib
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tactile_align.config.features import SPARSH, TIMM, EncoderConfig
from tactile_align.errors import InputError
from tactile_align.features.tensor_files import TensorFit, read_tensors, require_floating

SIZES = {"small": (384, 12, 6), "base": (768, 12, 12)}
"""Width, number of blocks and number of attention heads of Sparsh's encoders."""
METHODS = {
    "dino": (("teacher_encoder.backbone.", "teacher_encoder."), 1),
    "dinov2": (("teacher_encoder.backbone.", "teacher_encoder."), 1),
    "ijepa": (("target_encoder.backbone.", "target_encoder."), 0),
    "mae": (("encoder.backbone.", "encoder."), 0),
}
"""Names before the encoder's tensors in Sparsh's files, and the number of register tokens, by pretraining method."""
PATCH = 16  # side of Sparsh's patches, px
SPARSH_SIZE = (320, 240)
SPARSH_LICENCE = "CC-BY-NC 4.0 (no commercial use)"
GREY = 128  # value of a pixel without difference in `moments.inputs.difference`, which halves differences
SCALE = 0.5
OFFSET = (GREY / 255 - 0.5 * SCALE,) * 3
"""Mean and standard deviation (SCALE) that turn such a pixel x into Sparsh's: (x / 255 - OFFSET) / SCALE."""


@dataclass(frozen=True)
class InputForm:
    """Input of a tower from elsewhere.

    Attributes:
        size: (width, height) of the input image, px.
        mean: RGB means that are subtracted from values in 0..1.
        std: RGB standard deviations by which the result is divided.
        frames: Number of images that are stacked as channels, the newest first.
        fixed: Whether the model is built for one size of its input.
        licence: Licence of the weights.
        fetch: Instructions that obtain the file of the weights.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    frames: int
    fixed: bool
    licence: str
    fetch: str


def is_foreign(model: str) -> bool:
    """Return whether a model is one of timm or Sparsh, by its name."""
    return model.startswith((TIMM, SPARSH))


def form_of(model: str, image_size: tuple[int, int] | None) -> InputForm:
    """Return the input form of a model, with the given (width, height) of its input image, px; None: the model's own.

    Raises:
        InputError: The model is unknown. The message lists similar names.
    """
    if model.startswith(SPARSH):
        method, size = _sparsh_parts(model)
        if image_size not in (None, SPARSH_SIZE, SPARSH_SIZE[::-1]):
            raise InputError(
                f"{model} needs images of {SPARSH_SIZE[0]}x{SPARSH_SIZE[1]} px, because its positions belong to this "
                f"size; got image_size = {image_size}. Omit image_size"
            )
        fetch = f"hf download facebook/sparsh-{method}-{size}"
        return InputForm(image_size or SPARSH_SIZE, OFFSET, (SCALE,) * 3, 2, True, SPARSH_LICENCE, fetch)
    name = model.removeprefix(TIMM)
    try:
        facts = get_pretrained_cfg(name)
    except RuntimeError:  # a tag that timm does not know
        facts = None
    if facts is None:
        near = difflib.get_close_matches(name, timm.list_pretrained() + timm.list_models(), n=4, cutoff=0.4)
        raise InputError(
            f"timm {timm.__version__} has no model '{name}'. Similar names: {', '.join(near) or 'none'}. Choose one of "
            f"the names that timm.list_models() and timm.list_pretrained() return, or install a newer timm"
        )
    _, height, width = facts.input_size
    fetch = f"hf download {facts.hf_hub_id or f'timm/{name}'} model.safetensors"
    licence = facts.license or "not stated by timm"
    return InputForm(image_size or (width, height), facts.mean, facts.std, 1, facts.fixed_input_size, licence, fetch)


class TimmTower(nn.Module):
    """timm model with the interface of open_clip's image towers.

    Models that pool by the mean, such as BEiT, have their trained final norm, `fc_norm`, behind the pooling. It is
    applied to the tokens instead.

    Args:
        trunk: The timm model, without classifier.
        size: (width, height) of the input image, px.
    """

    def __init__(self, trunk: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.trunk, self.image_size = trunk, size[::-1]

    @property
    def late_norm(self) -> nn.Module | None:
        """Final norm of a model that pools by the mean; None if the model has a norm of its tokens."""
        late = getattr(self.trunk, "fc_norm", None)
        without = late is None or isinstance(late, nn.Identity) or not isinstance(self.trunk.norm, nn.Identity)
        return None if without else late

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch gradient checkpointing on or off."""
        self.trunk.set_grad_checkpointing(enable)

    def forward_intermediates(
        self, x: Tensor, normalize_intermediates: bool, **options: Any
    ) -> dict[str, list[Tensor]]:
        """Return the token grids (B, D, rows, columns) of images x (B, channels, H, W), as open_clip's towers do."""
        grids = self.trunk.forward_intermediates(x, norm=normalize_intermediates, **options)
        if self.late_norm is not None and normalize_intermediates:
            grids = [self.late_norm(grid.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for grid in grids]
        return {"image_intermediates": grids}


class Upright(nn.Module):
    """Limiting of pixels to 0 to 1, and `turns` clockwise turns by 90 degrees."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self.turns = turns

    def forward(self, x: Tensor) -> Tensor:
        """Return images x (B, channels, H, W), limited and turned."""
        return torch.rot90(x.clamp(0, 1), -self.turns, (2, 3))


class SparshTower(TimmTower):
    """Encoder of Sparsh. Images wider than high are turned by 90 degrees clockwise, and their token grid back."""

    def __init__(self, trunk: Any, size: tuple[int, int]) -> None:
        super().__init__(trunk, size)
        self.upright = Upright(int(size[0] > size[1]))

    def forward_intermediates(
        self, x: Tensor, normalize_intermediates: bool, **options: Any
    ) -> dict[str, list[Tensor]]:
        """Return the token grids (B, D, rows, columns) of pairs of touch images x (B, 6, H, W)."""
        grids = super().forward_intermediates(self.upright(x), normalize_intermediates, **options)
        return {name: [torch.rot90(g, self.upright.turns, (2, 3)) for g in parts] for name, parts in grids.items()}


def foreign_tower(config: EncoderConfig) -> TimmTower:
    """Return the tower of a config with random weights.

    Raises:
        InputError: The model is unknown, does not support the image size, or has no grid of tokens.
    """
    form = form_of(config.model, config.image_size)
    if config.stem == "conv":
        raise InputError(
            f"stem = 'conv' needs one of open_clip's own vision transformers; got {config.model}. Omit stem, or use a "
            f"model such as ViT-B-16"
        )
    if config.model.startswith(SPARSH):
        return SparshTower(_sparsh(config.model, form.size), form.size)
    name = config.model.removeprefix(TIMM)
    sized: dict[str, Any] = {"img_size": form.size[::-1]} if form.fixed else {}
    try:
        trunk = timm.create_model(name, num_classes=0, **sized)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"timm cannot build {name} for images of {form.size[0]}x{form.size[1]} px: {error}. Omit image_size, or "
            f"use another model"
        ) from error
    if not hasattr(trunk, "forward_intermediates"):
        raise InputError(
            f"{config.model}: a tower needs a grid of tokens, but this timm model has no forward_intermediates. Use "
            f"a vision transformer such as timm/vit_small_patch14_dinov2.lvd142m"
        )
    return TimmTower(trunk, form.size)


def local_file(config: EncoderConfig) -> Path:
    """Return the file of a config's weights.

    Raises:
        InputError: `pretrained` is a tag; weights from elsewhere are read only from a file.
        FileNotFoundError: The file does not exist.
    """
    file, fetch = Path(config.pretrained), form_of(config.model, None).fetch
    if file.is_file():
        return file
    then = f"On a machine with network access run: {fetch}; then set `pretrained` to the file's path"
    if file.suffix or len(file.parts) > 1:
        raise FileNotFoundError(f"{file}: no such file, which should hold the weights of {config.model}. {then}")
    raise InputError(f"{config.model} needs a local file of weights or 'scratch'; got '{config.pretrained}'. {then}")


def load_foreign(tower: TimmTower, file: Path, config: EncoderConfig) -> TensorFit:
    """Load the weights of a file into a tower, and return which tensors were loaded, left in the file, or missing.

    The positions of a timm model are resampled to the image size by timm.

    Raises:
        InputError: The file is unusable, contains another model, or lacks a tensor that the tokens need.
    """
    read, _ = read_tensors(file)
    raw = {name.removeprefix("module."): value for name, value in read.items()}
    trunk = tower.trunk
    if isinstance(tower, SparshTower):
        inside, outside = _sparsh_tensors(raw, config.model, trunk, file)
        fit = TensorFit.of(inside, trunk)
        extra, fit = fit.left, fit.with_left(outside)
    else:
        inside = _as_timm_reads(raw, trunk, file, config.model)
        kept = {id(value) for value in inside.values()}
        # timm resamples patches of another size and positions; only the latter keep their meaning.
        as_is = {n: value for n, value in raw.items() if not n.endswith("pos_embed") and n in inside}
        fit = TensorFit.of(inside, trunk).with_wrong(TensorFit.of(as_is, trunk).wrong)
        fit = fit.with_left({n: value for n, value in raw.items() if n not in inside and id(value) not in kept})
        extra = fit.more_of_the_same(trunk)
    require_floating({**inside, **raw}, trunk, file)
    if fit.wrong or fit.missing or extra:
        faults = [f"{name} is {got} instead of {wanted}" for name, (got, wanted) in fit.wrong.items()]
        faults += [f"{name} is missing" for name in fit.missing] + [f"{name} is unknown" for name in extra]
        some = ", ".join(list(raw)[:2])
        raise InputError(
            f"{file} does not fit {config.model}: {len(fit.loaded)} of {len(trunk.state_dict())} tensors fit; "
            f"{'; '.join(faults[:3])}{' ...' if len(faults) > 3 else ''}; the file has {len(raw)} tensors: {some} ... "
            f"Use the file of this model: {form_of(config.model, None).fetch}"
        )
    trunk.load_state_dict(inside, strict=False)
    return fit


def _as_timm_reads(raw: dict[str, Tensor], trunk: nn.Module, file: Path, model: str) -> dict[str, Tensor]:
    """Return the tensors of a file by the names of a timm model, as the reader of its architecture converts them."""
    convert = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return dict(raw)
    try:
        return dict(convert(dict(raw), trunk))
    except Exception as error:  # timm's readers of foreign files raise any exception
        raise InputError(
            f"{file} does not fit {model}: timm cannot read its {len(raw)} tensors ({', '.join(list(raw)[:2])} ...): "
            f"{error!r}. Use the file of this model: {form_of(model, None).fetch}"
        ) from error


def _sparsh_parts(model: str) -> tuple[str, str]:
    method, _, size = model.removeprefix(SPARSH).partition("_vit")
    if method not in METHODS or size not in SIZES:
        names = ", ".join(f"{SPARSH}{method}_vit{size}" for method in METHODS for size in SIZES)
        raise InputError(f"no Sparsh encoder '{model}'; supported: {names} (vjepa needs video). Choose one of these")
    return method, size


def _sparsh(model: str, size: tuple[int, int]) -> VisionTransformer:
    """Return the vision transformer of a Sparsh encoder for images of (width, height) `size`, px."""
    method, scale = _sparsh_parts(model)
    width, depth, heads = SIZES[scale]
    upright = (max(size), min(size)) if size[0] > size[1] else size[::-1]
    trunk = VisionTransformer(
        img_size=upright,
        patch_size=PATCH,
        in_chans=6,
        num_classes=0,
        global_pool="avg",
        fc_norm=False,
        final_norm=True,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        class_token=False,
        reg_tokens=METHODS[method][1],
        no_embed_class=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    del trunk.pos_embed
    table = positions((upright[0] // PATCH, upright[1] // PATCH), width)
    trunk.register_buffer("pos_embed", table.to(torch.float32)[None], persistent=False)
    return trunk


def positions(grid: tuple[int, int], width: int) -> Tensor:
    """Return Sparsh's fixed positions of a grid of (rows, columns) tokens, (rows * columns, width) float64.

    Token p, counted along the rows of the grid, has the two numbers p % rows and p // rows. Only in a square grid are
    they its column and row, but the weights were trained with them. A quarter of the values each are the sines and
    cosines of the first number, then of the second, with frequencies 10000^(-4 i / width) for i = 0 .. width / 4 - 1.
    """
    rows, index = grid[0], torch.arange(grid[0] * grid[1])
    angles = [number[:, None] * frequencies(width) for number in (index % rows, index // rows)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)


def frequencies(width: int) -> Tensor:
    """Return the frequencies of `positions`, (width / 4,) float64."""
    bands = width // 4
    return 10000.0 ** (-torch.arange(bands, dtype=torch.float64) / bands)


def _sparsh_tensors(
    raw: dict[str, Tensor], model: str, trunk: VisionTransformer, file: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the encoder's tensors in a file of Sparsh, by the names of our tower, and the file's other tensors."""
    plain = {name.removeprefix("model."): value for name, value in raw.items()}
    prefixes = (*METHODS[_sparsh_parts(model)[0]][0], "")
    prefix = next((p for p in prefixes if f"{p}patch_embed.proj.weight" in plain), None)
    if prefix is None:
        return {}, plain
    inside = {name.removeprefix(prefix): value for name, value in plain.items() if name.startswith(prefix)}
    outside = {name: value for name, value in plain.items() if not name.startswith(prefix)}
    stated, bands = inside.pop("pos_embed.frequency_bands", None), frequencies(trunk.embed_dim).float()
    if stated is not None and not (
        stated.shape == (2, len(bands)) and torch.allclose(stated.float(), bands.expand(2, -1))
    ):
        raise InputError(
            f"{file}: the positions of {model} have the frequencies 10000^(-i / {len(bands)}); found others, of shape "
            f"{tuple(stated.shape)}. Use the file of this model: {form_of(model, None).fetch}"
        )
    return {("reg_token" if name == "register_tokens" else name): value for name, value in inside.items()}, outside
