"""The house: floors that import only floors above them, no circles, and every package listed."""

import ast
import configparser
import itertools
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tactile_align"
FLOORS = (
    ("errors",),
    ("geometry",),
    ("facts", "files", "extras", "workers", "evenly"),
    ("checks",),
    ("config",),
    ("kinematics",),
    ("datasets",),
    ("calibration",),
    ("projection",),
    ("sessions",),
    ("verify",),
    ("finger",),
    ("simulation",),
    ("losses",),
    ("moments",),
    ("features",),
    ("policies",),
    ("training",),
    ("diagnostics",),
    ("viz",),
    ("demo",),
    ("verbs",),
    ("cli",),
    ("__main__",),
)
"""From the ground up; each floor may import itself and those before it."""
LEVEL = {name: level for level, floor in enumerate(FLOORS) for name in floor}
WITHOUT_TORCH = LEVEL["finger"]
"""The highest floor of which nothing imports torch."""


def imports_of(path: Path) -> list[tuple[str, str | None]]:
    """Return (module, name or None) of every import of a file, inside functions and for types alike."""
    found = list[tuple[str, str | None]]()
    for node in _imports(path.read_text(encoding="utf-8")):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        else:
            assert node.level == 0 and node.module, f"{path}: relative import"
            found += [(node.module, alias.name) for alias in node.names]
    return found


@cache
def _imports(text: str) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]


def module_of(path: Path, package: Path) -> str:
    return ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")


def graph_of(package: Path) -> dict[str, set[str]]:
    """Return which modules of a package each of its modules imports."""
    modules = {module_of(path, package): path for path in package.rglob("*.py")}
    graph = {}
    for module, path in modules.items():
        named = ((f"{source}.{name}" if name else source, source) for source, name in imports_of(path))
        graph[module] = {full if full in modules else source for full, source in named} & set(modules)
    return graph


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Return the imports that run up the house, and modules on no floor."""
    wrong = []
    for module, targets in graph.items():
        room = module.split(".")[1:2]
        if not room:  # the package itself only names what it offers
            continue
        if room[0] not in LEVEL:
            wrong.append(f"{module} stands on no floor")
            continue
        wrong += [
            f"{module} -> {target}"
            for target in targets
            if LEVEL.get(([*target.split("."), ""])[1], len(FLOORS)) > LEVEL[room[0]]
        ]
    return sorted(wrong)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the sets of modules that import one another."""
    reach = {module: set(targets) for module, targets in graph.items()}
    for middle, module in itertools.product(graph, graph):
        if middle in reach[module]:
            reach[module] |= reach[middle]
    groups = {frozenset(b for b in reach[a] if a in reach[b]) for a in graph}
    return sorted(sorted(group) for group in groups if group)


def importers(library: str, below: Path = PACKAGE) -> list[str]:
    paths = below.rglob("*.py") if below.is_dir() else [below]
    return sorted(
        path.relative_to(PACKAGE).as_posix()
        for path in paths
        if any(source == library or source.startswith(library + ".") for source, _ in imports_of(path))
    )


def test_each_floor_imports_only_itself_and_the_floors_before_it() -> None:
    assert upward(graph_of(PACKAGE)) == []


@pytest.mark.parametrize(
    "line",
    [
        "from tactile_align.training import loop",
        "import tactile_align.training.loop",
        "def late():\n    from tactile_align.training.loop import train",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tactile_align.training.loop import train",
    ],
)
def test_an_upward_import_is_seen_wherever_it_stands(tmp_path: Path, line: str) -> None:
    package = tmp_path / "tactile_align"
    for folder, text in {"geometry": line, "training": "def train() -> None: ..."}.items():
        (package / folder).mkdir(parents=True)
        (package / folder / "__init__.py").write_text("")
        (package / folder / "loop.py").write_text(text)
    assert upward(graph_of(package)) == ["tactile_align.geometry.loop -> tactile_align.training.loop"]
    (package / "training" / "loop.py").write_text("from tactile_align.geometry.loop import train")
    assert circles(graph_of(package)) == [["tactile_align.geometry.loop", "tactile_align.training.loop"]]


def test_a_room_takes_no_name_from_the_top_of_the_package(tmp_path: Path) -> None:
    package = tmp_path / "tactile_align"
    (package / "geometry").mkdir(parents=True)
    (package / "__init__.py").write_text("from tactile_align.geometry import boxes")
    (package / "geometry" / "boxes.py").write_text("from tactile_align import train")
    assert upward(graph_of(package)) == ["tactile_align.geometry.boxes -> tactile_align"]


def test_no_modules_import_one_another() -> None:
    assert circles(graph_of(PACKAGE)) == []


def test_torch_begins_above_the_geometry_and_never_draws_an_overlay() -> None:
    floors = [PACKAGE / name for name, level in LEVEL.items() if level <= WITHOUT_TORCH]
    paths = [path if path.is_dir() else path.with_suffix(".py") for path in floors]
    assert [file for path in paths for file in importers("torch", path)] == []
    assert importers("torch", PACKAGE / "viz" / "overlay") == []


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("roboticstoolbox", "kinematics/toolbox.py"),
        ("spatialmath", "kinematics/toolbox.py"),
        ("open_clip", "features/"),
        ("timm", "features/"),
        ("mujoco", "simulation/"),
    ],
)
def test_a_library_is_imported_in_its_room_alone(library: str, home: str) -> None:
    assert [file for file in importers(library) if not file.startswith(home)] == []


def test_geometry_imports_errors_alone_losses_no_datasets_and_features_no_hdf5() -> None:
    graph = graph_of(PACKAGE)
    rooms = {target.split(".")[1] for module in graph if ".geometry" in module for target in graph[module]}
    assert rooms <= {"errors", "geometry"}
    assert importers("tactile_align.datasets", PACKAGE / "losses") == []
    assert importers("h5py", PACKAGE / "features") == []


def test_the_rooms_are_listed_in_setup_cfg() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    tree = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    shipped = {f"tactile_align._shipped.{name}" for name in ("calibration", "datasets", "kinematics")}
    assert listed == tree | shipped


def test_the_fact_folders_hold_no_python() -> None:
    for name in ("calibration", "datasets", "kinematics"):
        assert list((ROOT / name).rglob("*.py")) == []
        assert (ROOT / name / "README.md").is_file()
