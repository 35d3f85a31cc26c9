"""Where real recordings lie, beside the repository; tests that want them skip where they are not."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "calibration"


def recording(name: str) -> Path:
    """Return the folder of one recording, or skip."""
    folder = FOLDER / name
    if not folder.is_dir():
        pytest.skip(f"{Path('..', 'shared', 'data', 'calibration', name)} is not here: a real recording is needed")
    return folder
