"""The table of defects in the docs: every check and every test it names exists."""

import ast
import re
from pathlib import Path

from tactile_align.diagnostics.doctor.limits import LIMITS, STATED

ROOT = Path(__file__).parents[3]


def rows() -> list[list[str]]:
    """Return the cells of both tables, heads left out."""
    text = (ROOT / "docs" / "hsa.md").read_text(encoding="utf-8")
    part = text[text.index("### The original's defects") : text.index("## What it costs")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:1] == "|"]
    return [row for row in found if "test" not in row and not row[0].startswith("---")]


def test_every_defect_of_the_original_and_ten_more_have_a_row() -> None:
    firsts = [row[0] for row in rows()]
    assert [int(first.split()[0]) for first in firsts if first[0].isdigit()] == list(range(1, 16))
    assert len(firsts) >= 25


def test_every_check_and_test_the_table_names_exists() -> None:
    tests: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tests |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    checks = set(LIMITS) | set(STATED)
    for defect, caught_by, test in rows():
        named = re.findall("`([^`]+)`", caught_by)
        assert named or caught_by == "an error", defect
        assert set(named) <= checks, (defect, set(named) - checks)
        assert re.findall("`([^`]+)`", test) and set(re.findall("`([^`]+)`", test)) <= tests, defect
