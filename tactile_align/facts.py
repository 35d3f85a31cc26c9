"""Find and read the TOML facts: arms, rigs and episode layouts, shipped or a lab's own."""

import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

Kind = Literal["kinematics", "calibration", "datasets"]
WHAT: dict[Kind, str] = {"kinematics": "an arm file", "calibration": "a rig file", "datasets": "a layout file"}
Model = TypeVar("Model", bound=BaseModel)


class FactError(ValueError):
    """A fact file is missing, unreadable or wrong; the message names the file and the key."""


def fact_folder(kind: Kind) -> Traversable:
    """Return the folder of shipped facts: inside the package once installed, beside it in a checkout."""
    package = resources.files("tactile_align")
    shipped = package / "_shipped" / kind
    if shipped.is_dir():
        return shipped
    return Path(str(package)).parent / kind


def fact_names(kind: Kind) -> tuple[str, ...]:
    """Return the names of the shipped facts of one kind, sorted."""
    names = (entry.name for entry in fact_folder(kind).iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def read_fact(kind: Kind, name_or_path: str | Path) -> tuple[dict[str, Any], str]:
    """Read one fact file.

    Args:
        kind: Which folder a bare name is looked up in.
        name_or_path: A shipped name ("nova2") or the path of a .toml file.

    Returns:
        The parsed TOML and the file's name for error messages.

    Raises:
        FactError: No such fact, or the file is not valid TOML.
    """
    text = str(name_or_path)
    if text.endswith(".toml"):
        path = Path(text)
        if not path.is_file():
            raise FactError(
                f"{text}: no such file. Needed: {WHAT[kind]}, or one that ships: {', '.join(fact_names(kind))}"
            )
        raw, source = path.read_bytes(), text
    else:
        entry = fact_folder(kind) / f"{text}.toml"
        if text not in fact_names(kind):
            raise FactError(
                f"no {kind} fact is called '{text}'. Shipped: {', '.join(fact_names(kind))}. "
                f"For your own file give its path, ending in .toml."
            )
        raw, source = entry.read_bytes(), f"{kind}/{text}.toml"
    try:
        return tomllib.loads(raw.decode("utf-8")), source
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FactError(f"{source}: not valid TOML: {error}") from error


def parse(model: type[Model], data: Any, source: str) -> Model:
    """Validate `data` as `model`; one error line per wrong key, each naming file and key.

    Raises:
        FactError: Unknown, missing or wrong keys.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise FactError(explain(error, source)) from error


def explain(error: ValidationError, source: str) -> str:
    """Turn a pydantic error into lines of `file: key: what was wrong`."""
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"]) or "(file)"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "unknown key; check its spelling or remove it"
        lines.append(f"{source}: {key}: {message}")
    return "\n".join(lines)
