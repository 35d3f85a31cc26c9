"""The small training config, for diagnoses."""

from tests.training.conftest import small_config

__all__ = ["small_config"]
