"""The small training config, for policies that come out of a run."""

from tests.training.conftest import small_config

__all__ = ["small_config"]
