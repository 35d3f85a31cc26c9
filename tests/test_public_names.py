"""The names that the package offers at its top: loaded on first use, typed for editors."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import tactile_align

PACKAGE = Path(tactile_align.__file__).parent
NAMES = {
    "Arm", "load_arm", "forward_kinematics", "link_poses", "jacobian", "Rig", "load_rig", "Camera", "ImageMap",
    "opening_in_contact", "sensor_boxes", "token_weights", "list_episodes", "open_episode", "write_episode",
    "verify_episodes", "overlay", "HSALoss", "hsa_loss", "load_encoder", "train", "TrainConfig", "evaluate", "Policy",
}  # fmt: skip


def stub() -> dict[str, str]:
    """Return name -> home module as `__init__.pyi` gives them."""
    homes = {}
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body:
        assert isinstance(node, ast.ImportFrom) and node.module
        homes |= {alias.asname: node.module for alias in node.names if alias.asname == alias.name}
    return homes


def test_the_stub_and_the_package_offer_the_same_24_names() -> None:
    assert set(tactile_align.__all__) == set(stub()) == NAMES
    assert len(tactile_align.__all__) == 24
    assert set(dir(tactile_align)) >= NAMES


def test_each_name_is_the_object_of_the_module_that_the_stub_names() -> None:
    for name, module in stub().items():
        assert getattr(tactile_align, name) is getattr(importlib.import_module(module), name), name


def test_a_name_that_a_room_shares_does_not_become_the_room() -> None:
    importlib.import_module("tactile_align.viz.overlay")
    importlib.import_module("tactile_align.training.loop")
    assert callable(tactile_align.overlay) and callable(tactile_align.train)


def test_importing_the_package_loads_neither_numpy_nor_torch() -> None:
    code = "import sys, tactile_align; print([m for m in ('numpy', 'torch', 'pydantic', 'cv2') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_rig_is_imported_without_hdf5_and_without_the_writer_of_toml() -> None:
    code = "import sys, tactile_align.calibration.rig; print({'h5py', 'tomlkit'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(tactile_align, "forward_kinematic")  # noqa: B009
    assert all(name in str(caught.value) for name in NAMES)
