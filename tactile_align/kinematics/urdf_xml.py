"""Reading URDF elements: every fault names the element, nothing unknown passes as a default."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tactile_align.errors import FactError


class _NoDoctype(ElementTree.TreeBuilder):
    """A tree builder that stops at a document type: entities could pull in files or swell without bound."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise FactError("<!DOCTYPE>: a URDF needs none, and its entities are a risk. Remove the line")


def parse(path: Path) -> ElementTree.Element:
    """Return the <robot> element of a file; refuses what is no XML, has a DOCTYPE, or is xacro."""
    parser = ElementTree.XMLParser(target=_NoDoctype())
    try:
        parser.feed(path.read_bytes())
        root: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        if isinstance(error, FactError):
            raise
        raise FactError(f"not valid XML: {error}. Is the file whole, and a URDF?") from error
    if root.tag != "robot":
        raise FactError(f"<{root.tag}>: a URDF starts with <robot>")
    for element in root.iter():
        if "xacro" in element.tag or any("${" in value for value in element.attrib.values()):
            raise FactError(f"<{element.tag}>: this is xacro. Expand it first: xacro arm.urdf.xacro > arm.urdf")
    return root


def numbers(element: ElementTree.Element, key: str, where: str, default: tuple[float, ...] | None) -> np.ndarray:
    """Read a list of finite numbers: three, or one where there is no default."""
    text = element.get(key)
    if text is None:
        if default is None:
            raise FactError(f"{where}: {key} is missing")
        return np.array(default)
    count = 1 if default is None else len(default)
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise FactError(f"{where}: {key} = '{text}': needed {count} number(s)") from error
    if values.shape != (count,) or not np.all(np.isfinite(values)) or "_" in text:
        raise FactError(f"{where}: {key} = '{text}': needed {count} finite number(s), got {len(values)}")
    return values


def attribute(element: ElementTree.Element, key: str, where: str) -> str:
    """Return a text attribute that must be there."""
    value = element.get(key)
    if not value:
        raise FactError(f"{where}: attribute {key} is missing")
    return value


def refuse_attributes(element: ElementTree.Element, known: tuple[str, ...], where: str) -> None:
    """Refuse attributes other than the known ones; a misspelt one would pass as its default."""
    for key in element.attrib:
        if key not in known:
            raise FactError(f"{where}: attribute {key} is unknown; it takes {', '.join(known)}")


def refuse_near_miss(tag: str, known: tuple[str, ...], where: str) -> None:
    """Refuse <orign> for <origin>: skipped silently it would make another arm. Foreign elements may stay."""
    close = difflib.get_close_matches(tag.lower(), known, n=1, cutoff=0.7)
    if tag not in known and close:
        raise FactError(f"{where}: <{tag}> is unknown; is <{close[0]}> meant?")


def refuse_twins(names: Iterable[str], what: str) -> None:
    """Refuse a name that stands twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise FactError(f"{what} '{name}' is defined twice")
        seen.add(name)
