"""ACT (action chunking with transformers), which predicts a chunk of actions from state, images and extra tokens.

Zhao et al. 2023, arXiv 2304.13705. The encoder of ACT is a base class, behind which other action heads decode, too; see
`policies.heads`. With the default options, all parameters have the names of LeRobot's ACT, so
LeRobot's weights load with `strict=True`. Modules that LeRobot's ACT does not have use new names and are created
last, so that a seed initialises the shared modules identically with and without them.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
import torchvision
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from tactile_align.config.policy import DenoiserConfig, Head
from tactile_align.errors import InputError
from tactile_align.facts import Strict
from tactile_align.features.tensor_files import mismatches, read_tensors, require_finite, require_floating
from tactile_align.moments.batch import MomentBatch
from tactile_align.policies.heads.head import ActionHead, Draws, Memory, Observed


class ACTConfig(Strict):
    """Architecture and loss options of an ACT network; the defaults are those of the paper and of LeRobot.

    A network with another `head` has the same encoder, and only the options of the encoder.
    """

    state_dim: int = Field(ge=1)
    """Number of columns of the robot state."""
    action_dim: int = Field(ge=1)
    """Number of columns of an action."""
    chunk_size: int = Field(default=100, ge=1)
    """Number of actions predicted at once; choose about one second of motion."""
    cameras: tuple[str, ...] = ()
    """Names of the cameras, in the order in which their images are passed."""
    d_model: int = Field(default=512, ge=4)
    """Token width; a multiple of `heads`, and of 4 for the 2-D sine position embedding."""
    heads: int = Field(default=8, ge=1)
    """Number of attention heads."""
    ffn_dim: int = Field(default=3200, ge=1)
    """Hidden width of the feed-forward blocks."""
    encoder_layers: int = Field(default=4, ge=1)
    """Number of transformer encoder layers."""
    decoder_layers: int = Field(default=1, ge=1)
    """Number of transformer decoder layers; the original code builds 7 but uses the output of the first only."""
    vae_layers: int = Field(default=4, ge=1)
    """Number of layers of the CVAE encoder."""
    latent_dim: int = Field(default=32, ge=1)
    """Width of the CVAE latent."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of activations dropped in training."""
    pre_norm: bool = False
    """Apply layer norm before each block instead of after the block."""
    use_vae: bool = True
    """Train with a latent variable that encodes the style of the demonstration."""
    kl_weight: float = Field(default=10.0, ge=0)
    """Weight of the KL term; with a higher weight, the latent carries less information."""
    loss_reduction: Literal["valid", "all"] = "valid"
    """Steps that the L1 loss is averaged over. valid: real steps only. all: padded steps too, as in the original ACT
    and in LeRobot up to 0.5."""
    vision: Literal["resnet18", "none"] = "resnet18"
    """Image backbone. resnet18: a ResNet-18 inside ACT. none: no backbone; the caller passes image tokens as extra
    tokens."""
    vision_weights: str | None = None
    """Initial weights of the ResNet: a torchvision tag such as IMAGENET1K_V1, a .safetensors or .pth file, or "scratch"
    for random weights."""
    per_camera_backbones: bool = False
    """Use a separate ResNet for each camera; LeRobot's ACT does not support this option."""
    camera_embedding: bool = False
    """Add a learnt vector per camera to the positions of the image tokens of that camera."""
    extra_tokens: int = Field(default=0, ge=0)
    """Largest number of extra tokens (touch, region, ViT) in one forward pass."""
    extra_token_dim: int | None = Field(default=None, ge=1)
    """Width of the extra tokens that the caller passes; None means `d_model`."""
    head: Head = "act"
    """Head that decodes the encoder's memory; see `PolicyConfig.head`. The class `ACT` is the head "act"."""
    denoiser: DenoiserConfig = DenoiserConfig()
    """Options of the heads "flow" and "diffusion"."""

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if self.d_model % self.heads or self.d_model % 4:
            raise InputError(
                f"d_model must be a multiple of heads ({self.heads}) and of 4; got {self.d_model}. "
                f"Use d_model = {-(-self.d_model // (4 * self.heads)) * 4 * self.heads}, or change heads."
            )
        if self.extra_token_dim is not None and self.extra_tokens == 0:
            raise InputError(
                f"extra_token_dim = {self.extra_token_dim} requires extra_tokens >= 1, the largest number of extra "
                "tokens in a forward pass; got extra_tokens = 0. Set extra_tokens, or remove extra_token_dim."
            )
        return self

    @model_validator(mode="after")
    def _check_vision(self) -> Self:
        if len(set(self.cameras)) != len(self.cameras):
            raise InputError(f"cameras contains a name more than once: {list(self.cameras)}. List each camera once.")
        if self.vision == "none":
            options = ("cameras", "vision_weights", "per_camera_backbones", "camera_embedding")
            given = [name for name in options if getattr(self, name)]
            if given:
                raise InputError(
                    f"{', '.join(given)} require an image backbone, but vision = 'none' has no backbone. "
                    "Remove these options and pass image tokens as extra tokens, or set vision = 'resnet18'."
                )
        elif not self.cameras:
            raise InputError(
                "cameras is empty, but vision = 'resnet18' requires cameras. Set cameras, or vision = 'none'."
            )
        elif self.vision_weights is None:
            raise InputError(
                "vision = 'resnet18' requires vision_weights; got None. Set vision_weights to a torchvision tag such "
                "as 'IMAGENET1K_V1', to a .safetensors or .pth file, or to 'scratch' for a random ResNet."
            )
        return self

    def loss(self, l1: Tensor, kl: Tensor) -> Tensor:
        """Return the training loss of ACT, l1 + kl_weight * kl, from the two results of `act_loss`."""
        return l1 + self.kl_weight * kl


# Per-channel RGB statistics of images scaled to 0..1; torchvision's ResNet weights were trained with them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ACTOutput(NamedTuple):
    """Output of ACT.

    `actions` (B, C, A) are normalised: B samples of C actions, each of A columns. `mu` and `logvar` (B, latent_dim) are
    the mean and the log variance of the latent's posterior; None if no actions were encoded.
    """

    actions: Tensor
    mu: Tensor | None
    logvar: Tensor | None


def act_loss(
    output: ACTOutput, actions: Tensor, is_pad: Tensor | None, reduction: Literal["valid", "all"] = "valid"
) -> tuple[Tensor, Tensor]:
    """Return the unweighted L1 error of the actions and the unweighted KL term, each a scalar tensor on the device.

    `ACTConfig.loss` combines the two terms, in `AlignedPolicy.losses` and `training.step.total_loss`.

    Args:
        output: Output of the network.
        actions: (B, C, A) normalised target actions; the sizes are those of `ACTOutput`.
        is_pad: (B, C) bool; padded steps contribute no error. None: no step is padded.
        reduction: Divisor of the L1 sum. valid: the number of real elements (LeRobot since 0.6). all: the number of
            all elements (original code, LeRobot 0.4), which reduces the loss of batches with much padding. With
            "valid", a batch that contains only padding gives nan.

    Returns:
        (l1, kl). KL is summed over the latent and averaged over the batch; it is 0 without a posterior.
    """
    error = (output.actions - actions).abs()
    if is_pad is None:
        l1 = error.mean()
    else:
        error = error.masked_fill(is_pad[..., None], 0)
        real = (~is_pad).sum() * actions.shape[-1]
        l1 = error.mean() if reduction == "all" else error.sum() / real
    if output.mu is None or output.logvar is None:
        return l1, torch.zeros_like(l1)
    return l1, -0.5 * (1 + output.logvar - output.mu**2 - output.logvar.exp()).sum(-1).mean()


def act_parameter_groups(model: nn.Module, lr: float, lr_backbone: float, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trainable parameters as two AdamW groups, "policy" and "backbone"; an empty group is left out.

    In the paper and in LeRobot's preset both learning rates are 1e-5, the weight decay is 1e-4, and gradients are
    clipped at norm 10.
    """
    groups: dict[str, dict[str, Any]] = {
        name: {"name": name, "params": [], "lr": rate, "weight_decay": weight_decay}
        for name, rate in (("policy", lr), ("backbone", lr_backbone))
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["backbone" if name.startswith("backbone") else "policy"]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


class EncoderLayer(nn.Module):
    """Transformer layer of self-attention and a feed-forward block; positions are added to queries and keys only."""

    def __init__(self, d_model: int, heads: int, ffn_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = nn.MultiheadAttention(d_model, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(d_model, ffn_dim)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(ffn_dim, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)

    def _attend(self, x: Tensor, pos: Tensor, is_pad: Tensor | None) -> Tensor:
        q = x + pos
        return self.dropout1(self.self_attn(q, q, x, key_padding_mask=is_pad, need_weights=False)[0])

    def _feed(self, x: Tensor) -> Tensor:
        return self.dropout2(self.linear2(self.dropout(torch.relu(self.linear1(x)))))

    def forward(self, x: Tensor, pos: Tensor, is_pad: Tensor | None = None) -> Tensor:
        """Return the layer's output for tokens x (B, N, D) with positions pos (1 or B, N, D).

        B samples have N tokens of width D each; the output has the shape of x. Tokens are ignored where is_pad (B, N)
        is True.
        """
        if self.pre_norm:
            x = x + self._attend(self.norm1(x), pos, is_pad)
            return x + self._feed(self.norm2(x))
        x = self.norm1(x + self._attend(x, pos, is_pad))
        return self.norm2(x + self._feed(x))


class Encoder(nn.Module):
    """Stack of encoder layers; a final layer norm follows only with `pre_norm`."""

    def __init__(self, layers: int, d_model: int, heads: int, ffn_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(d_model, heads, ffn_dim, dropout, pre_norm) for _ in range(layers))
        self.norm: nn.Module = nn.LayerNorm(d_model) if pre_norm else nn.Identity()

    def forward(self, x: Tensor, pos: Tensor, is_pad: Tensor | None = None) -> Tensor:
        """Return the output tokens, of the shape of x; the arguments are those of `EncoderLayer.forward`."""
        for layer in self.layers:
            x = layer(x, pos, is_pad)
        out: Tensor = self.norm(x)
        return out


class DecoderLayer(nn.Module):
    """Transformer layer of self-attention over the queries, cross-attention to the memory and a feed-forward block."""

    def __init__(self, d_model: int, heads: int, ffn_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = nn.MultiheadAttention(d_model, heads, dropout=dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d_model, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(d_model, ffn_dim)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(ffn_dim, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.dropout3 = nn.Dropout(dropout)

    def _attend_self(self, x: Tensor, query_pos: Tensor) -> Tensor:
        q = x + query_pos
        return self.dropout1(self.self_attn(q, q, x, need_weights=False)[0])

    def _attend_memory(self, x: Tensor, pos: Tensor, keys: Tensor, memory: Tensor, is_pad: Tensor | None) -> Tensor:
        q = x + pos
        return self.dropout2(self.multihead_attn(q, keys, memory, key_padding_mask=is_pad, need_weights=False)[0])

    def _feed(self, x: Tensor) -> Tensor:
        return self.dropout3(self.linear2(self.dropout(torch.relu(self.linear1(x)))))

    def forward(
        self, x: Tensor, query_pos: Tensor, keys: Tensor, memory: Tensor, is_pad: Tensor | None = None
    ) -> Tensor:
        """Return the layer's output, of the shape of x.

        Args:
            x: (B, C, D) query tokens: C tokens of width D in each of B samples.
            query_pos: (1, C, D) positions of the queries.
            keys: (B, N, D) attention keys: the N memory tokens of each sample with their positions added.
            memory: (B, N, D) memory tokens, the attention values.
            is_pad: (B, N) bool, True where a memory token is ignored.
        """
        if self.pre_norm:
            x = x + self._attend_self(self.norm1(x), query_pos)
            x = x + self._attend_memory(self.norm2(x), query_pos, keys, memory, is_pad)
            return x + self._feed(self.norm3(x))
        x = self.norm1(x + self._attend_self(x, query_pos))
        x = self.norm2(x + self._attend_memory(x, query_pos, keys, memory, is_pad))
        return self.norm3(x + self._feed(x))


class Decoder(nn.Module):
    """Stack of decoder layers and a final layer norm."""

    def __init__(self, layers: int, d_model: int, heads: int, ffn_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(d_model, heads, ffn_dim, dropout, pre_norm) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(
        self, x: Tensor, query_pos: Tensor, memory: Tensor, memory_pos: Tensor, is_pad: Tensor | None = None
    ) -> Tensor:
        """Return the output tokens, of the shape of x; the other arguments are those of `DecoderLayer.forward`.

        The positions memory_pos (1 or B, N, D) are added to the keys but not to the values.
        """
        keys = memory + memory_pos
        for layer in self.layers:
            x = layer(x, query_pos, keys, memory, is_pad)
        out: Tensor = self.norm(x)
        return out


def sine_table(positions: int, width: int) -> Tensor:
    """Return the (positions, width) float32 position embedding of Vaswani et al. 2017.

    The columns contain sines and cosines in turn.
    """
    # Computed in float64 and rounded once, so that the table equals the one stored in published checkpoints.
    pair = torch.arange(width, dtype=torch.float64) // 2
    angle = torch.arange(positions, dtype=torch.float64)[:, None] / 10000 ** (2 * pair / width)
    return torch.where(torch.arange(width) % 2 == 0, angle.sin(), angle.cos()).float()


def sine_positions_2d(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """Return the (rows * columns, width) float32 position embedding of a feature map, row by row.

    The first half of the width encodes the row and the second half the column. Over an axis of n cells, the angle
    runs from 1 / n of a full turn to a full turn (DETR's normalised form, scale 2 pi, temperature 10000), so the
    table depends on the shape of the feature map.
    """
    half = width // 2
    frequency = 10000 ** (2 * (torch.arange(half, dtype=torch.float32, device=device) // 2) / half)

    def one_axis(n: int) -> Tensor:
        turn = torch.arange(1, n + 1, dtype=torch.float32, device=device) / (n + 1e-6) * (2 * math.pi)
        angle = turn[:, None] / frequency
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1)

    row, column = one_axis(rows)[:, None], one_axis(columns)[None]
    both = (axis.expand(rows, columns, half) for axis in (row, column))
    return torch.cat(tuple(both), dim=-1).flatten(0, 1)


RESNET18_CHANNELS = 512


def resnet18_backbone() -> nn.Sequential:
    """Return a ResNet-18 with random weights, without pooling and classifier: (B, 3, H, W) -> (B, 512, H/32, W/32).

    Its state-dict keys are those of torchvision without `fc`. Batch norm is frozen because batches of robot images are
    too small and too similar for statistics to be estimated from them.
    """
    resnet = torchvision.models.resnet18(weights=None, norm_layer=FrozenBatchNorm2d)
    return nn.Sequential(OrderedDict((k, m) for k, m in resnet.named_children() if k not in ("avgpool", "fc")))


def read_resnet18_weights(name: str) -> dict[str, Tensor]:
    """Return the backbone tensors of a torchvision tag (`IMAGENET1K_V1`) or of a local file.

    Raises:
        FileNotFoundError: `name` is neither a known tag nor a file.
        InputError: The file does not contain a complete ResNet-18.
    """
    tags = torchvision.models.ResNet18_Weights.__members__
    tag = name.removeprefix("ResNet18_Weights.")
    if tag in tags:
        tensors = dict(tags[tag].get_state_dict(progress=False, check_hash=True, weights_only=True))
    elif Path(name).is_file():
        tensors, _ = read_tensors(Path(name))
    else:
        raise FileNotFoundError(
            f"vision_weights must be one of {sorted(tags)}, the path of a file, or 'scratch'; "
            f"got '{name}', and no such file exists. Correct vision_weights."
        )
    # Frozen batch norm has no batch counter, and the classifier is not used.
    kept = {k: v for k, v in tensors.items() if not k.startswith("fc.") and not k.endswith(".num_batches_tracked")}
    backbone = resnet18_backbone()
    require_floating(kept, backbone, name)
    if faults := mismatches(kept, backbone):
        raise InputError(
            f"{name}: expected the tensors of a ResNet-18 with torchvision's names; {len(faults)} do not fit: "
            f"{'; '.join(faults[:4])}. Use a torchvision ResNet-18 state dict."
        )
    require_finite(kept, name)
    return kept


class ObservationEncoder(ActionHead):
    """Transformer encoder of ACT over state, images and extra tokens: the part that all action heads share.

    A subclass creates its modules and calls the `_add_` methods once each, in an order that fixes which module gets
    which random weights.
    """

    config: ACTConfig

    def _add_backbone(self) -> None:
        c = self.config
        if c.vision == "resnet18":
            if c.per_camera_backbones:
                self.backbones = nn.ModuleList(resnet18_backbone() for _ in c.cameras)
            else:
                self.backbone = resnet18_backbone()

    def _add_encoder(self) -> None:
        c = self.config
        self.encoder = Encoder(c.encoder_layers, c.d_model, c.heads, c.ffn_dim, c.dropout, c.pre_norm)

    def _add_inputs(self, latent_dim: int | None) -> None:
        """Create the projections of the encoder's inputs; `latent_dim` is the width of a latent, None without one."""
        c = self.config
        self.encoder_robot_state_input_proj = nn.Linear(c.state_dim, c.d_model)
        if latent_dim is not None:
            self.encoder_latent_input_proj = nn.Linear(latent_dim, c.d_model)
        if c.vision == "resnet18":
            self.encoder_img_feat_input_proj = nn.Conv2d(RESNET18_CHANNELS, c.d_model, kernel_size=1)
        self.encoder_1d_feature_pos_embed = nn.Embedding(1 if latent_dim is None else 2, c.d_model)

    def _add_options(self, fill_vision: bool) -> None:
        """Create the modules of options beyond LeRobot's ACT, and read `vision_weights` if `fill_vision` is True."""
        c = self.config
        if c.camera_embedding:
            self.camera_embed = nn.Embedding(len(c.cameras), c.d_model)
        if c.extra_token_dim is not None:
            self.extra_token_input_proj = nn.Linear(c.extra_token_dim, c.d_model)
        if c.extra_tokens:
            self.extra_token_pos_embed = nn.Embedding(c.extra_tokens, c.d_model)
        if fill_vision and c.vision_weights not in (None, "scratch"):
            tensors = read_resnet18_weights(str(c.vision_weights))
            for backbone in self.backbones if c.per_camera_backbones else [self.backbone]:
                backbone.load_state_dict(tensors)

    def encode(self, observed: Observed, latent: Tensor | None = None) -> Memory:
        """Return the memory of B moments: tokens of the latent (if any), the state, the images and the extra tokens.

        Args:
            observed: Input of the network, of the shapes that `ACT.forward` states.
            latent: (B, latent_dim) latent; None for a head without a latent.
        """
        c = self.config
        state, images, extra_tokens, extra_is_pad = observed
        first = self.encoder_robot_state_input_proj(state)[:, None]
        if latent is not None:
            first = torch.cat((self.encoder_latent_input_proj(latent)[:, None], first), 1)
        tokens, positions = [first], [self.encoder_1d_feature_pos_embed.weight]
        if images is not None:
            image_tokens, image_positions = self._image_tokens(images)
            tokens.append(image_tokens)
            positions.append(image_positions)
        pad = None
        if extra_tokens is not None and extra_tokens.shape[1]:
            k = extra_tokens.shape[1]
            tokens.append(extra_tokens if c.extra_token_dim is None else self.extra_token_input_proj(extra_tokens))
            positions.append(self.extra_token_pos_embed.weight[:k])
            if extra_is_pad is not None:
                plain = sum(t.shape[1] for t in tokens[:-1])
                pad = torch.cat((extra_is_pad.new_zeros(len(state), plain), extra_is_pad), 1)
        pos = torch.cat(positions)[None]
        return Memory(self.encoder(torch.cat(tokens, 1), pos, pad), pos, pad)

    def _image_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image tokens (B, N * rows * columns, d_model) of N cameras, and their positions."""
        c = self.config
        if c.per_camera_backbones:
            maps = torch.stack([net(images[:, i]) for i, net in enumerate(self.backbones)], 1).flatten(0, 1)
        else:
            maps = self.backbone(images.flatten(0, 1))
        maps = self.encoder_img_feat_input_proj(maps)
        rows, columns = maps.shape[-2:]
        tokens = maps.unflatten(0, images.shape[:2]).flatten(3).transpose(2, 3).flatten(1, 2)
        where = sine_positions_2d(rows, columns, c.d_model, images.device).repeat(len(c.cameras), 1)
        if c.camera_embedding:
            where = where + self.camera_embed.weight.repeat_interleave(rows * columns, 0)
        return tokens, where

    def _check(self, observed: Observed, **more: tuple[tuple[str | int, ...], Tensor | None]) -> None:
        """Check the shapes of the inputs; `more` are further tensors, each after its required shape."""
        c, images, extra = self.config, observed.images, observed.extra_tokens
        if c.vision == "resnet18" and images is None:
            raise ValueError(
                f"images is missing; this policy uses cameras {list(c.cameras)}. Pass images (B, N, 3, H, W)."
            )
        if c.vision == "none" and images is not None:
            raise ValueError(
                "images were given, but this policy has vision 'none' and uses no images. Pass images=None."
            )
        most = f"K <= {c.extra_tokens}"
        shapes: dict[str, tuple[str | int, ...]] = {
            "state": ("B", c.state_dim),
            "images": ("B", len(c.cameras), 3, "H", "W"),
            "extra_tokens": ("B", most, c.extra_token_dim or c.d_model),
            "extra_is_pad": ("B", "K"),
        } | {name: shape for name, (shape, _) in more.items()}
        given = observed._asdict() | {name: tensor for name, (_, tensor) in more.items()}
        count = 0 if extra is None else extra.shape[1]
        sizes: dict[str | int, int] = {"B": len(observed.state), "K": count, most: min(count, c.extra_tokens)}
        for name, tensor in given.items():
            wanted = shapes[name]
            if tensor is not None and (
                tensor.ndim != len(wanted)
                or any(
                    sizes.get(n, n) != m for n, m in zip(wanted, tensor.shape, strict=True) if n not in ("H", "W", "S")
                )
            ):
                raise ValueError(
                    f"{name} must have shape ({', '.join(map(str, wanted))}) with B = len(state); "
                    f"got {tuple(tensor.shape)}. Change {name}, or the config of this policy."
                )


class ACT(ObservationEncoder):
    """ACT network, the action head "act".

    Args:
        config: Architecture of the network.
        fill_vision: Whether to read `vision_weights`; False is for networks whose checkpoint is loaded right after.
    """

    loss_name = "l1"
    vae_encoder_pos_enc: Tensor

    def __init__(self, config: ACTConfig, *, fill_vision: bool = True) -> None:
        super().__init__()
        self.config = c = config
        shape = (c.d_model, c.heads, c.ffn_dim, c.dropout, c.pre_norm)
        if c.use_vae:
            self.vae_encoder = Encoder(c.vae_layers, *shape)
            self.vae_encoder_cls_embed = nn.Embedding(1, c.d_model)
            self.vae_encoder_robot_state_input_proj = nn.Linear(c.state_dim, c.d_model)
            self.vae_encoder_action_input_proj = nn.Linear(c.action_dim, c.d_model)
            self.vae_encoder_latent_output_proj = nn.Linear(c.d_model, 2 * c.latent_dim)
            self.register_buffer("vae_encoder_pos_enc", sine_table(2 + c.chunk_size, c.d_model)[None])
        self._add_backbone()
        self._add_encoder()
        self.decoder = Decoder(c.decoder_layers, *shape)
        self._add_inputs(c.latent_dim)
        self.decoder_pos_embed = nn.Embedding(c.chunk_size, c.d_model)
        self.action_head = nn.Linear(c.d_model, c.action_dim)
        for p in chain(self.encoder.parameters(), self.decoder.parameters()):
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)
        # Created after all other modules, so that these options do not change the random weights of plain ACT.
        self._add_options(fill_vision)

    def forward(
        self,
        state: Tensor,
        images: Tensor | None = None,
        extra_tokens: Tensor | None = None,
        actions: Tensor | None = None,
        is_pad: Tensor | None = None,
        *,
        extra_is_pad: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> ACTOutput:
        """Return the predicted chunk of actions, and the posterior of the latent.

        The latent is drawn from the posterior whenever `actions` is given, in eval mode too. Without `actions`, the
        prediction uses the mean of the prior, a latent of zeros, as on the robot.

        Args:
            state: (B, state_dim) normalised robot state of each of B samples.
            images: (B, N, 3, H, W) float images of height H and width W of the N cameras, in the config's order. They
                are scaled to 0..1 and normalised by ImageNet statistics. None with vision "none".
            extra_tokens: (B, K, extra_token_dim or d_model) K extra tokens, K <= config.extra_tokens, appended at the
                end of the encoder sequence; token k gets the learnt position k. None or K = 0 gives plain ACT.
            actions: (B, C, A) normalised actions to encode, see `ACTOutput`; required in training mode with use_vae.
            is_pad: (B, C) bool, True where an action lies past the end of the episode; None: no action does.
            extra_is_pad: (B, K) bool, True where a sample lacks a token (no box, no contact). Attention ignores such a
                token, but its values must be finite. None: every sample has all K tokens.
            noise: (B, latent_dim) standard normal sample for the latent; None: sampled here.

        Raises:
            ValueError: A shape does not fit the config, or actions are missing in training.
        """
        c, b = self.config, "B"
        observed = Observed(state, images, extra_tokens, extra_is_pad)
        if self.training and c.use_vae and actions is None:
            raise ValueError(
                "actions is None, but training with use_vae needs the actions. Pass actions and is_pad, or call eval() "
                "to predict."
            )
        self._check(
            observed,
            actions=((b, c.chunk_size, c.action_dim), actions),
            is_pad=((b, c.chunk_size), is_pad),
            noise=((b, c.latent_dim), noise),
        )
        mu = logvar = None
        if c.use_vae and actions is not None:
            mu, logvar = self._posterior(state, actions, is_pad)
            z = mu + (logvar / 2).exp() * (torch.randn_like(mu) if noise is None else noise)
        else:
            z = state.new_zeros(len(state), c.latent_dim)
        memory = self.encode(observed, z)
        start = memory.tokens.new_zeros(len(state), c.chunk_size, c.d_model)
        decoded = self.decoder(start, self.decoder_pos_embed.weight[None], *memory)
        return ACTOutput(self.action_head(decoded), mu, logvar)

    def random(self, rows: int, generator: torch.Generator) -> Draws:
        """Return standard normal samples for the latent."""
        return Draws(torch.randn(rows, self.config.latent_dim, generator=generator))

    def counts(self, batch: MomentBatch) -> dict[str, Tensor]:
        """Return the number of steps that the L1 loss is averaged over, as "steps"."""
        real = torch.ones_like(batch.is_pad) if self.config.loss_reduction == "all" else ~batch.is_pad
        return {"steps": real.sum()}

    def losses(
        self, observed: Observed, batch: MomentBatch, totals: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the loss as "action", and its terms "l1" and "kl"; see `act_loss` and `ActionHead.losses`."""
        state, images, extra, pad = observed
        output = self(state, images, extra, batch.action, batch.is_pad, extra_is_pad=pad, noise=batch.noise)
        l1, kl = act_loss(output, batch.action, batch.is_pad, self.config.loss_reduction)
        if totals is not None:
            l1, kl = l1 * (self.counts(batch)["steps"] / totals["steps"]), kl * (len(batch) / totals["rows"])
        return {"action": self.config.loss(l1, kl), "l1": l1, "kl": kl}

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the loss from its logged terms."""
        return self.config.loss(parts["l1"], parts["kl"])

    def noise(self, rows: int, generator: torch.Generator) -> None:
        """Return None: the latent is zero on the robot."""
        return None

    def sample(self, observed: Observed, noise: Tensor | None = None) -> Tensor:
        """Return the actions at a latent of zeros.

        Raises:
            ValueError: Noise is given.
        """
        if noise is not None:
            raise ValueError("ACT predicts with a latent of zeros; got noise. Pass noise = None")
        output: ACTOutput = self(observed.state, *observed[1:3], extra_is_pad=observed.extra_is_pad)
        return output.actions

    def _posterior(self, state: Tensor, actions: Tensor, is_pad: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latent, each (B, latent_dim), from the tokens [cls, state, actions]."""
        cls = self.vae_encoder_cls_embed.weight[None].expand(len(state), -1, -1)
        joint = self.vae_encoder_robot_state_input_proj(state)[:, None]
        x = torch.cat((cls, joint, self.vae_encoder_action_input_proj(actions)), 1)
        pad = None if is_pad is None else torch.cat((is_pad.new_zeros(len(state), 2), is_pad), 1)
        summary = self.vae_encoder(x, self.vae_encoder_pos_enc, pad)[:, 0]
        mu, logvar = self.vae_encoder_latent_output_proj(summary).chunk(2, -1)
        return mu, logvar
