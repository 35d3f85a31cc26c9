"""Choice of the action head that a config names."""

from tactile_align.policies.act import ACT, ACTConfig, ObservationEncoder


def make_head(config: ACTConfig, *, fill_vision: bool = True) -> ObservationEncoder:
    """Return the policy network of a config with random weights.

    Args:
        config: Architecture of the network.
        fill_vision: Whether to read `vision_weights`; False is for networks whose checkpoint is loaded right after.
    """
    return ACT(config, fill_vision=fill_vision)
