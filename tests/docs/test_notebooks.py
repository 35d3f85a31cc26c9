"""The notebooks: stripped of output, and running from the first cell to the last on three simulated episodes."""

import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SAME_SEED = ("episodes=3, seed=1,", "episodes=3, seed=5,")  # that of the recording the bench has
LIGHTER = {"01_tour": [SAME_SEED], "02_your_rig": [SAME_SEED], "03_train": [SAME_SEED, ('"steps": 60', '"steps": 10')]}
RESET = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] == "tactile_align"]:
    del sys.modules[name]
%reset -f
"""
PLOTS = {"01_tour": 6, "02_your_rig": 3, "03_train": 4}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_output_and_no_trace_of_who_ran_it(path: Path) -> None:
    book = json.loads(path.read_text(encoding="utf-8"))
    for cell in book["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert set(book["metadata"]) == {"kernelspec", "language_info"}


def test_there_are_three_and_the_counted_plots_belong_to_them() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(PLOTS)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, regrasp_folder: Path) -> Path:
    """One folder for all, in which the episodes are recorded already."""
    folder = tmp_path_factory.mktemp("notebooks")
    recording = folder / "runs" / "notebooks" / "regrasp"
    shutil.copytree(regrasp_folder, recording)
    (recording / "episode_init_3.hdf5").unlink()
    return folder


@pytest.fixture(scope="module")
def execute(bench: Path) -> Iterator[Callable[[Path], Any]]:
    """Runs a notebook in a kernel without names and modules of ours.

    It is one kernel for all, as a new one imports for longer than most notebooks run.
    """
    nbformat = pytest.importorskip("nbformat", reason="the notebooks need the extra `test`: nbformat")
    nbclient = pytest.importorskip("nbclient", reason="the notebooks need the extra `test`: nbclient")
    pytest.importorskip("ipykernel", reason="the notebooks need the extra `test`: ipykernel")
    client = nbclient.NotebookClient(nbformat.v4.new_notebook(), timeout=1200, kernel_name="python3")

    def run(path: Path) -> Any:
        client.nb = nbformat.read(path, as_version=4)
        for old, new in LIGHTER[path.stem]:
            (cell,) = (cell for cell in client.nb.cells if old in cell.source)
            cell.source = cell.source.replace(old, new)
        client.nb.cells.insert(0, nbformat.v4.new_code_cell(RESET))
        for index, cell in enumerate(client.nb.cells):
            client.execute_cell(cell, index)
        return client.nb

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with client.setup_kernel(cwd=str(bench), env=environment):
        yield run


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_its_plots(path: Path, execute: Callable[[Path], Any]) -> None:
    outputs = [out for cell in execute(path).cells for out in cell.get("outputs", [])]
    pictures = [out["data"]["image/png"] for out in outputs if "image/png" in out.get("data", {})]
    assert len(pictures) == PLOTS[path.stem]
    for picture in pictures:
        image = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None and image.shape[1] >= 500
        # More than paper and one ink.
        assert image.std() > 15 and len(np.unique(image.reshape(-1, 3), axis=0)) > 100
    said = "".join(out.get("text", "") for out in outputs)
    words = {"01_tour": ["chance"], "02_your_rig": ["verdict: fail", "verdict: pass"], "03_train": ["SCRATCH"]}
    assert all(word in said for word in words[path.stem])
