"""Libraries that only some tasks need: imported when one is done, named with their extra where they are missing."""

from importlib import import_module
from typing import Any

from tactile_align.errors import MissingExtra


def need(module: str, purpose: str, library: str, extra: str, instead: str = "") -> Any:
    """Import a module of an optional library and return it.

    Args:
        module: What to import.
        purpose: What cannot be done without it.
        library: Its name among people.
        extra: The extra of this package that brings it.
        instead: What to do otherwise.

    Raises:
        MissingExtra: It is not installed; says how to get it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{purpose} needs {library}, which is not installed here. Install it with: "
            f"pip install 'tactile-align[{extra}]'{f'; {instead}' if instead else ''}"
        ) from error
