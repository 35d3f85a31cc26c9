"""Fact files: functions that find, read, check and write the TOML files of arms, rigs and episode layouts.

A fact file either ships with this package or is written by a lab.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tactile_align.errors import FactError

Kind = Literal["kinematics", "calibration", "datasets"]
WHAT: dict[Kind, str] = {"kinematics": "an arm file", "calibration": "a rig file", "datasets": "a layout file"}
Model = TypeVar("Model", bound=BaseModel)
UNKNOWN = "?"
"""Value of a key in a draft that the user must replace."""
MOST_KEYS = 3
"""Number of keys with the value UNKNOWN that an error names; `init` lists all of them."""


class Strict(BaseModel):
    """Base class of the pydantic models that describe files. Instances are immutable; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def fact_folder(kind: Kind) -> Traversable:
    """Return the folder of the fact files of one kind that ship with this package.

    The folder is inside an installed package, or beside the package in a checkout of the repository.
    """
    package = resources.files("tactile_align")
    shipped = package / "_shipped" / kind
    if shipped.is_dir():
        return shipped
    return Path(str(package)).parent / kind


def fact_names(kind: Kind) -> tuple[str, ...]:
    """Return the sorted names of the fact files of one kind that ship with this package, without ".toml"."""
    names = (entry.name for entry in fact_folder(kind).iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def read_fact(kind: Kind, name_or_path: str | Path) -> tuple[dict[str, Any], str]:
    """Return the data of one fact file.

    Args:
        kind: Folder of fact files in which a shipped name is looked up.
        name_or_path: A shipped name ("nova2") or the path of a .toml file.

    Returns:
        The parsed TOML and the file's name for error messages.

    Raises:
        FactError: No fact file has this name or path, or the file is not valid TOML.
    """
    text = str(name_or_path)
    if text.endswith(".toml"):
        path = Path(text)
        if not path.is_file():
            names = ", ".join(fact_names(kind))
            raise FactError(f"{text}: no such file. Give the path of {WHAT[kind]}, or a shipped name: {names}")
        raw, source = path.read_bytes(), text
    else:
        entry = fact_folder(kind) / f"{text}.toml"
        if text not in fact_names(kind):
            names = ", ".join(fact_names(kind))
            near = difflib.get_close_matches(re.sub(r"[\W_]", "", text).lower(), fact_names(kind), n=1)
            meant = f"Did you mean '{near[0]}'? " if near else ""
            raise FactError(
                f"no file '{text}' in {kind}/. {meant}Use a shipped name ({names}) or the path of a .toml file"
            )
        raw, source = entry.read_bytes(), f"{kind}/{text}.toml"
    try:
        return tomllib.loads(raw.decode("utf-8")), source
    except (ValueError, RecursionError) as error:
        raise FactError(f"{source}: not valid TOML: {error}. Correct the file") from error


def parse(model: type[Model], data: Any, source: str) -> Model:
    """Return `data` validated as an instance of `model`.

    Args:
        model: The pydantic model.
        data: The parsed file.
        source: Name of the file for error messages.

    Raises:
        FactError: A key is unknown, missing or wrong; the message has one line per key, with file and key. Or values
            are still UNKNOWN; one line names the first keys.
    """
    if unknown := unknown_keys(data):
        more = f" and {len(unknown) - MOST_KEYS} more" if len(unknown) > MOST_KEYS else ""
        raise FactError(
            f'{source}: still "{UNKNOWN}": {", ".join(unknown[:MOST_KEYS])}{more}. `init` drafts "{UNKNOWN}" where the '
            f"recording does not contain the value. Replace each by the value; the comment above it explains it"
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise FactError(explain(error, source, model)) from error


def unknown_keys(data: Any) -> tuple[str, ...]:
    """Return the dotted keys of parsed TOML whose value is UNKNOWN, or a list that contains UNKNOWN."""
    return tuple(_unknown(data, ()))


def _unknown(data: Any, where: tuple[str, ...]) -> Iterator[str]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _unknown(value, (*where, str(key)))
    elif isinstance(data, list | tuple):
        if any(isinstance(entry, str) and entry == UNKNOWN for entry in data):
            yield ".".join(where)
        for i, entry in enumerate(data):
            if not isinstance(entry, str):
                yield from _unknown(entry, (*where, str(i)))
    elif isinstance(data, str) and data == UNKNOWN:
        yield ".".join(where)


def toml_text(data: Mapping[str, Any]) -> str:
    """Return data as readable TOML text.

    Tables of the first and second level get a [header]. Deeper tables, and tables inside arrays, are written inline,
    on one line each.

    Args:
        data: Tables, arrays, strings, numbers and booleans. None is not allowed, because TOML cannot store it.
    """
    import tomlkit  # only for writing; every start would pay for it

    return tomlkit.dumps({key: _laid_out(value, 1) for key, value in data.items()})


def toml_line(value: Any) -> Any:
    """Return a value as a TOML item that is written on one line."""
    import tomlkit

    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        for key, entry in value.items():
            table[key] = toml_line(entry)
        return table
    if isinstance(value, list | tuple):
        array = tomlkit.array()
        for entry in value:
            array.append(toml_line(entry))
        return array
    return tomlkit.item(value)


def _laid_out(value: Any, level: int) -> Any:
    if isinstance(value, Mapping) and (level <= 2 or any(isinstance(entry, Mapping) for entry in value.values())):
        return {key: _laid_out(entry, level + 1) for key, entry in value.items()}
    if isinstance(value, list) and level == 1 and value and all(isinstance(entry, Mapping) for entry in value):
        return [_laid_out(entry, level) for entry in value]
    return toml_line(value)


def explain(error: ValidationError, source: str, model: type[BaseModel] | None = None) -> str:
    """Return a pydantic error as text, with one line `file: key: what is wrong` per key.

    When `model` is given, the line of an unknown key suggests the key that was probably meant.
    """
    lines = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"]) or "(file)"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = f"unknown key; {_meant(model, fault['loc'])}"
        lines.append(f"{source}: {key}: {message}")
    return "\n".join(lines)


def _meant(model: type[BaseModel] | None, where: tuple[int | str, ...]) -> str:
    """Return a hint for an unknown key: the key that was probably meant, or else the list of known keys."""
    known = sorted(_keys(model, where[:-1])) if model is not None else []
    # A lower cutoff gives misleading hints, such as 'state' for 'rate'.
    close = difflib.get_close_matches(str(where[-1]), known, n=1, cutoff=0.7)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known keys: {', '.join(known)}" if known else "check its spelling or remove it"


def _keys(model: type[BaseModel], where: tuple[int | str, ...]) -> set[str]:
    """Return the keys that a model accepts at the location `where` of its data, according to its JSON schema."""
    schema = model.model_json_schema(mode="validation")
    nodes = _variants(schema, schema)
    for part in where:
        inner = [child for node in nodes for child in _inner(node, part)]
        # pydantic adds the tag of a union to the location, but the data contain no such key: skip it.
        nodes = [variant for node in inner for variant in _variants(schema, node)] or nodes
    return {key for node in nodes for key in node.get("properties", ())}


def _variants(schema: dict[str, Any], node: Any) -> list[dict[str, Any]]:
    """Return the variants of a JSON schema node, with references and unions resolved."""
    if not isinstance(node, dict):
        return []
    if "$ref" in node:
        return _variants(schema, schema["$defs"][node["$ref"].rpartition("/")[2]])
    choices = [choice for word in ("anyOf", "oneOf", "allOf") for choice in node.get(word, ())]
    return [variant for choice in choices for variant in _variants(schema, choice)] if choices else [node]


def _inner(node: dict[str, Any], part: int | str) -> list[Any]:
    """Return the schemas of the values at a key or index of a JSON schema node."""
    if isinstance(part, int):
        return [*node.get("prefixItems", ())[part : part + 1], *([node["items"]] if "items" in node else [])]
    properties = node.get("properties", {})
    return [properties[part]] if part in properties else [node.get("additionalProperties")]
