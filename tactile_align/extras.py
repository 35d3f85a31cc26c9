"""Optional libraries: imported on use; the error for a missing one names the extra that installs it."""

from importlib import import_module
from typing import Any

from tactile_align.errors import MissingExtra


def need(module: str, purpose: str, library: str, extra: str, instead: str = "") -> Any:
    """Import a module of an optional library and return it.

    Args:
        module: The module to import.
        purpose: The task that needs it.
        library: The library's usual name.
        extra: The extra of this package that installs it.
        instead: An alternative without it.

    Raises:
        MissingExtra: The library is not installed; the message states how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        command = f"pip install 'tactile-align[{extra}]'{f'; {instead}' if instead else ''}"
        raise MissingExtra(f"{purpose} needs {library}, which is not installed. Install it with: {command}") from error
