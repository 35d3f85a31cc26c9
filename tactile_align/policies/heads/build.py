"""Choice of the action head that a config names."""

from tactile_align.config.policy import Head
from tactile_align.policies.act import ACT, ACTConfig, ObservationEncoder
from tactile_align.policies.heads.diffusion import Diffusion
from tactile_align.policies.heads.flow import Flow

HEADS: dict[Head, type[ACT] | type[Flow] | type[Diffusion]] = {"act": ACT, "flow": Flow, "diffusion": Diffusion}


def make_head(config: ACTConfig, *, fill_vision: bool = True) -> ObservationEncoder:
    """Return the policy network of a config with random weights.

    Args:
        config: Architecture of the network.
        fill_vision: Whether to read `vision_weights`; False is for networks whose checkpoint is loaded right after.
    """
    return HEADS[config.head](config, fill_vision=fill_vision)
