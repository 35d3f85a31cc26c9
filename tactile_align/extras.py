"""Import of optional libraries on first use. The error for a missing library contains the command that installs it."""

from importlib import import_module
from typing import Any

from tactile_align.errors import MissingExtra


def need(module: str, purpose: str, library: str, extra: str, instead: str = "") -> Any:
    """Return a module of an optional library, imported on this call.

    Args:
        module: The module to import.
        purpose: The task that needs the module, as the subject of the error message.
        library: The library's usual name.
        extra: The extra of this package that installs the library.
        instead: An alternative that works without the library; "" when there is no alternative.

    Raises:
        MissingExtra: The library is not installed; the message states how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        command = f"pip install 'tactile-align[{extra}]'{f'; {instead}' if instead else ''}"
        raise MissingExtra(f"{purpose} needs {library}, which is not installed. Install it with: {command}") from error
