"""Links inside the repository lead somewhere, pictures are described, drawings say what they show."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.docs.making import PAGES, ROOT, of_page

FACTS = [ROOT / name / "README.md" for name in ("calibration", "datasets", "kinematics")]


def prose(page: Path) -> str:
    """Return a page without its code."""
    text = page.read_text(encoding="utf-8")
    for block in of_page(page):
        text = text.replace(block.text, "\n")
    return re.sub(r"`[^`\n]*`", "", text)


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and mkdocs make them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", name.lower())).strip("-") for name in found}


@pytest.mark.parametrize("page", [*PAGES, *FACTS], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{page.name}: {target} leads nowhere"
        assert not anchor or anchor in headings(place), f"{page.name}: {target} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_picture_of_a_page_is_described(page: Path) -> None:
    for words in re.findall(r"!\[([^\]]*)\]\(", prose(page)):
        assert len(words) >= 20, f"{page.name}: describe the picture for those who cannot see it; got {words!r}"


@pytest.mark.parametrize("drawing", sorted((ROOT / "docs").rglob("*.svg")), ids=lambda path: path.name)
def test_a_drawing_has_a_title_and_a_description(drawing: Path) -> None:
    root = ElementTree.parse(drawing).getroot()
    space = "{http://www.w3.org/2000/svg}"
    title, told = root.findtext(f"{space}title"), root.findtext(f"{space}desc")
    assert title and told and len(told) > 80 and root.get("role") == "img"
