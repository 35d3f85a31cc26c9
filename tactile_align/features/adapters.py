"""Small trainable nets behind a tower whose own weights stay as they are."""

from torch import Tensor, nn

from tactile_align.features.config import AdapterConfig


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
