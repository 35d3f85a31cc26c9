"""Small models that open_clip knows during the tests."""

import pytest

from tests.features.making import registered


@pytest.fixture(scope="module")
def timm_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small timm tower, as open_clip's SigLIP towers are timm's."""
    return registered(
        tmp_path_factory.mktemp("models"),
        "timm-tiny",
        192,
        {"image_size": 224, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token"},
    )
