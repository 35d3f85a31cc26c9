"""The house: which floor may import which, and that every package is listed."""

import ast
import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tactile_align"
FLOORS = ("geometry", "kinematics", "calibration", "projection")


def imports_of(path: Path) -> set[str]:
    """Return every module a file imports, at the top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def files(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


def importers(module: str, inside: list[Path]) -> list[str]:
    hit = [p for p in inside if any(name == module or name.startswith(module + ".") for name in imports_of(p))]
    return [p.relative_to(PACKAGE).as_posix() for p in hit]


def test_the_exception_types_import_nothing_of_ours() -> None:
    assert not {name for name in imports_of(PACKAGE / "errors.py") if name.startswith("tactile_align")}


def test_geometry_imports_nothing_of_ours_but_the_exception_types() -> None:
    for path in files("geometry"):
        ours = {name for name in imports_of(path) if name.startswith("tactile_align")}
        assert all(name.startswith(("tactile_align.geometry", "tactile_align.errors")) for name in ours), path


@pytest.mark.parametrize("folder", FLOORS)
def test_the_lower_floors_and_the_reader_never_import_torch(folder: str) -> None:
    reader = [p for p in files("datasets") if p.name not in ("moments.py",)]
    assert importers("torch", files(folder) + reader + files("viz")) == []


def test_only_the_toolbox_imports_roboticstoolbox_and_spatialmath() -> None:
    everything = files(".")
    for module in ("roboticstoolbox", "spatialmath"):
        assert set(importers(module, everything)) <= {"kinematics/toolbox.py"}


def test_only_the_encoder_imports_open_clip_and_only_the_simulation_mujoco() -> None:
    everything = files(".")
    assert importers("open_clip", everything) == ["features/encoder.py"]
    assert all(name.startswith("simulation/") for name in importers("mujoco", everything))


def test_losses_know_no_datasets_and_features_no_hdf5() -> None:
    assert importers("tactile_align.datasets", files("losses")) == []
    assert importers("h5py", files("features")) == []


def test_nobody_imports_the_command_line() -> None:
    assert importers("tactile_align.cli", [p for p in files(".") if p.name != "__main__.py"]) == []


def test_setup_cfg_lists_every_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    tree = {".".join(p.parent.relative_to(ROOT).parts) for p in PACKAGE.rglob("__init__.py")}
    shipped = {f"tactile_align._shipped.{name}" for name in ("calibration", "datasets", "kinematics")}
    assert listed == tree | shipped


def test_the_fact_folders_hold_no_python() -> None:
    for name in ("calibration", "datasets", "kinematics"):
        assert list((ROOT / name).rglob("*.py")) == []
        assert (ROOT / name / "README.md").is_file()
