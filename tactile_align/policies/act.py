"""ACT, action chunking with transformers: from state, images and extra tokens to a chunk of actions.

Zhao et al. 2023, arXiv 2304.13705. Without options of our own the parameters carry the names of LeRobot's
ACT, so its weights load with `strict=True`; options beyond it live under new names and are created last, so
that the same seed gives the same network with them and without.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from tactile_align.policies.act_config import ACTConfig
from tactile_align.policies.act_objective import ACTOutput, act_loss, act_parameter_groups
from tactile_align.policies.transformer import Decoder, Encoder, sine_positions_2d, sine_table
from tactile_align.policies.vision import RESNET18_CHANNELS, read_resnet18_weights, resnet18_backbone

__all__ = ["ACT", "ACTConfig", "ACTOutput", "act_loss", "act_parameter_groups"]


class ACT(nn.Module):
    """The network. `fill_vision=False` leaves `vision_weights` unread: a checkpoint is loaded right after."""

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
        if c.vision == "resnet18":
            if c.per_camera_backbones:
                self.backbones = nn.ModuleList(resnet18_backbone() for _ in c.cameras)
            else:
                self.backbone = resnet18_backbone()
        self.encoder = Encoder(c.encoder_layers, *shape)
        self.decoder = Decoder(c.decoder_layers, *shape)
        self.encoder_robot_state_input_proj = nn.Linear(c.state_dim, c.d_model)
        self.encoder_latent_input_proj = nn.Linear(c.latent_dim, c.d_model)
        if c.vision == "resnet18":
            self.encoder_img_feat_input_proj = nn.Conv2d(RESNET18_CHANNELS, c.d_model, kernel_size=1)
        self.encoder_1d_feature_pos_embed = nn.Embedding(2, c.d_model)
        self.decoder_pos_embed = nn.Embedding(c.chunk_size, c.d_model)
        self.action_head = nn.Linear(c.d_model, c.action_dim)
        for p in chain(self.encoder.parameters(), self.decoder.parameters()):
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)

        # Our own options draw their random numbers after all others: same seed, same plain ACT.
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
        """Predict a chunk of actions.

        The latent is drawn from the posterior wherever actions are given, also in eval mode; leave them out
        to predict from the prior's mean, z = 0, as on the robot.

        Args:
            state: (B, S) normalised robot state.
            images: (B, N, 3, H, W) float, scaled to 0..1 and normalised by ImageNet statistics, cameras in
                the config's order; None for vision "none".
            extra_tokens: (B, K, extra_token_dim or d_model), K <= config.extra_tokens, appended at the end of
                the encoder sequence; token k takes learned position k. None or K = 0 is plain ACT.
            actions: (B, C, A) normalised actions to encode; needed in training mode with use_vae.
            is_pad: (B, C) bool, True where an action lies past the end of the episode; None: nowhere.
            extra_is_pad: (B, K) bool, True where a row has no such token (no box, no contact): nothing looks
                at it, but it must be finite. None: every row has all K.
            noise: (B, latent_dim) standard normal draw for the latent; drawn here where None.

        Raises:
            ValueError: A shape does not fit the config, or training lacks actions.
        """
        c = self.config
        self._check(state, images, extra_tokens, actions, is_pad, extra_is_pad, noise)
        mu = logvar = None
        if c.use_vae and actions is not None:
            mu, logvar = self._posterior(state, actions, is_pad)
            z = mu + (logvar / 2).exp() * (torch.randn_like(mu) if noise is None else noise)
        else:
            z = state.new_zeros(len(state), c.latent_dim)

        tokens = [torch.stack((self.encoder_latent_input_proj(z), self.encoder_robot_state_input_proj(state)), 1)]
        positions = [self.encoder_1d_feature_pos_embed.weight]
        if images is not None:
            seen, where = self._see(images)
            tokens.append(seen)
            positions.append(where)
        pad = None
        if extra_tokens is not None and extra_tokens.shape[1]:
            k = extra_tokens.shape[1]
            tokens.append(extra_tokens if c.extra_token_dim is None else self.extra_token_input_proj(extra_tokens))
            positions.append(self.extra_token_pos_embed.weight[:k])
            if extra_is_pad is not None:
                plain = sum(t.shape[1] for t in tokens[:-1])
                pad = torch.cat((extra_is_pad.new_zeros(len(state), plain), extra_is_pad), 1)

        pos = torch.cat(positions)[None]
        memory = self.encoder(torch.cat(tokens, 1), pos, pad)
        start = memory.new_zeros(len(state), c.chunk_size, c.d_model)
        decoded = self.decoder(start, self.decoder_pos_embed.weight[None], memory, pos, pad)
        return ACTOutput(self.action_head(decoded), mu, logvar)

    def _posterior(self, state: Tensor, actions: Tensor, is_pad: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latent, each (B, latent), from [cls, state, actions]."""
        cls = self.vae_encoder_cls_embed.weight[None].expand(len(state), -1, -1)
        joint = self.vae_encoder_robot_state_input_proj(state)[:, None]
        x = torch.cat((cls, joint, self.vae_encoder_action_input_proj(actions)), 1)
        pad = None if is_pad is None else torch.cat((is_pad.new_zeros(len(state), 2), is_pad), 1)
        summary = self.vae_encoder(x, self.vae_encoder_pos_enc, pad)[:, 0]
        mu, logvar = self.vae_encoder_latent_output_proj(summary).chunk(2, -1)
        return mu, logvar

    def _see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return image tokens (B, N * rows * columns, D), camera after camera, and their positions."""
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

    def _check(
        self,
        state: Tensor,
        images: Tensor | None,
        extra_tokens: Tensor | None,
        actions: Tensor | None,
        is_pad: Tensor | None,
        extra_is_pad: Tensor | None,
        noise: Tensor | None,
    ) -> None:
        c, b = self.config, len(state)
        _fits("state", state, ("B", c.state_dim), (b, c.state_dim))
        if c.vision == "resnet18":
            if images is None:
                raise ValueError(f"This ACT sees {list(c.cameras)}; got no images. Pass images (B, N, 3, H, W).")
            want = (b, len(c.cameras), 3, *images.shape[3:5])
            _fits("images", images, ("B", len(c.cameras), 3, "H", "W"), want if images.ndim == 5 else ())
        elif images is not None:
            raise ValueError("This ACT has vision 'none', so images must be None; got some. Pass them as extra tokens.")
        if extra_tokens is not None and extra_tokens.shape[1]:
            k, width = extra_tokens.shape[1], c.extra_token_dim or c.d_model
            _fits(
                "extra_tokens",
                extra_tokens,
                ("B", f"K <= {c.extra_tokens}", width),
                (b, min(k, c.extra_tokens), width),
            )
            if extra_is_pad is not None:
                _fits("extra_is_pad", extra_is_pad, ("B", "K"), (b, k))
        if actions is not None:
            _fits("actions", actions, ("B", c.chunk_size, c.action_dim), (b, c.chunk_size, c.action_dim))
        elif self.training and c.use_vae:
            raise ValueError(
                "Training with use_vae encodes the actions into the latent; got none. Pass actions and "
                "is_pad, or call eval() to predict."
            )
        if is_pad is not None:
            _fits("is_pad", is_pad, ("B", c.chunk_size), (b, c.chunk_size))
        if noise is not None:
            _fits("noise", noise, ("B", c.latent_dim), (b, c.latent_dim))


def _fits(name: str, tensor: Tensor, shown: tuple[object, ...], want: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != want:
        raise ValueError(
            f"{name} must have shape ({', '.join(map(str, shown))}) with B = len(state); "
            f"got {tuple(tensor.shape)}. Check it against the config this ACT was built from."
        )
