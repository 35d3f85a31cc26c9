"""Codebook: tokens are replaced by the nearest of a few codes, by vector-quantize-pytorch (extra `vq`)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tactile_align.config.pretrain import CodebookConfig
from tactile_align.extras import need


class Codebook(nn.Module):
    """Quantiser of tokens, whose gradient passes straight through to the tokens.

    kind = "vq": the codes are the nearest of learnt vectors, in cosine distance. They follow the tokens by an
    exponential moving average, once in `stepped`, however many micro-batches a step has. kind = "fsq": each of a few
    coordinates is rounded to one of its levels, so there are no codes that could be lost.

    Args:
        width: Length D of a token.
        config: Options of the codebook.

    Raises:
        MissingExtra: The package vector-quantize-pytorch is not installed.

    Source: van den Oord et al., VQ-VAE, arXiv 1711.00937; Mentzer et al., FSQ, arXiv 2309.15505.
    """

    steps: Tensor

    def __init__(self, width: int, config: CodebookConfig) -> None:
        super().__init__()
        library = need("vector_quantize_pytorch", "pretrain.codebook", "vector-quantize-pytorch", "vq")
        c = self.config = config
        self.net: Any
        if c.kind == "fsq":
            self.net, self.size = library.FSQ(levels=list(c.levels), dim=width), math.prod(c.levels)
        else:
            self.size = c.size
            self.net = library.VectorQuantize(
                dim=width,
                codebook_size=c.size,
                codebook_dim=c.dim,
                use_cosine_sim=not c.learn,
                kmeans_init=not c.learn,
                decay=c.decay,
                commitment_weight=c.commitment,
                threshold_ema_dead_code=c.expire_below,
                rotation_trick=False,
                learnable_codebook=c.learn,
                ema_update=not c.learn,
            )
            # With 0, the default for codes that never expire, the moving average of a refreshed code would be 0.
            self.net._codebook.reset_cluster_size = max(c.expire_below, 1.0)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self._seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return quantised tokens (..., D), the weighted commitment loss, and the index of each token's code (...).

        In training mode, tokens and codes are kept until `stepped`. A codebook whose codes are not yet initialised, by
        k-means over the first training batch, returns the tokens unchanged in eval mode, with index 0.
        """
        flat = tokens.reshape(1, -1, tokens.shape[-1])
        none = tokens.new_zeros(())
        if self.config.kind == "fsq":
            quantised, index = self.net(flat)
            return quantised.view_as(tokens), none, index.view(tokens.shape[:-1])
        if not self.training and not self.ready:
            return tokens, none, torch.zeros(tokens.shape[:-1], dtype=torch.long, device=tokens.device)
        quantised, index, loss = self.net(flat, freeze_codebook=not self.config.learn)
        if self.training and not self.config.learn:
            self._seen.append((flat.detach(), index.detach()))
        return quantised.view_as(tokens), loss.sum(), index.view(tokens.shape[:-1])

    @property
    def ready(self) -> bool:
        """Whether the codes are initialised."""
        return self.config.kind == "fsq" or bool(self.net._codebook.initted)

    @torch.no_grad()
    def stepped(self) -> None:
        """Update the codes after an optimiser step, from all tokens since the last call, and refresh rare codes."""
        if not self._seen:
            return
        tokens, index = (torch.cat(parts, dim=1) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
        self.net.update_indices(tokens, index)
        self.steps += 1
        if self.config.refresh_every and int(self.steps) % self.config.refresh_every == 0:
            codes = self.net._codebook
            rare = codes.cluster_size < self.config.refresh_below * codes.cluster_size.mean(dim=-1, keepdim=True)
            codes.replace(self.net.project_in(tokens), rare)


def usage(counts: Tensor) -> Mapping[str, float]:
    """Return how tokens are spread over the codes.

    Args:
        counts: (K,) number of tokens of each of K codes.

    Returns:
        usage: share of the codes that occur. perplexity: e^H / K, where H is the entropy of the codes; 1 if all occur
        equally often. dead_codes: number of codes that do not occur.
    """
    share = counts.double() / counts.sum()
    dead = int((counts == 0).sum())
    perplexity = float(torch.special.entr(share).sum().exp()) / len(counts)
    return {"usage": 1 - dead / len(counts), "perplexity": perplexity, "dead_codes": float(dead)}
