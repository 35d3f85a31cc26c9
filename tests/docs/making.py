"""The code blocks of the pages, found by their fences."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line it begins at, its language, what else the fence says, its text."""

    page: Path
    line: int
    language: str
    marks: tuple[str, ...]
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks(language: str, slow: bool = False) -> list[Block]:
    """Return all blocks of one language; those marked `slow` in the fence only when asked for."""
    found = [block for page in PAGES for block in of_page(page) if block.language == language]
    return [block for block in found if slow or "slow" not in block.marks]


def of_page(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order.

    Raises:
        ValueError: A fence that is not closed.
    """
    found: list[Block] = []
    start, fence, inside = 0, "", []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        match = re.match(r"^(`{3,})(.*)$", line)
        if match and not start:
            start, fence, inside = number, match[2], []
        elif match and start:
            language, *marks = fence.split() or [""]
            found.append(Block(page, start, language, tuple(marks), "\n".join(inside) + "\n"))
            start = 0
        elif start:
            inside.append(line)
    if start:
        raise ValueError(f"{page} line {start}: this fence is never closed")
    return found


def commands(block: Block) -> list[str]:
    """Return the lines of a shell block that call tactile-align, continued lines joined."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith(("tactile-align ", "python -m tactile_align "))]
