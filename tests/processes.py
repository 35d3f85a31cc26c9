"""Processes that tests kill, stop or let talk to one another.

They are forked from a server that has imported torch already: a new interpreter would import for longer than it works.
"""

import multiprocessing
import multiprocessing.forkserver
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
CONTEXT = multiprocessing.get_context(METHOD)
CONTEXT.set_forkserver_preload(["pytest", "tactile_align.training.loop"])


def start_server() -> None:
    """Start the server before a data loader starts one with fewer imports."""
    if METHOD == "forkserver":
        multiprocessing.forkserver.ensure_running()


def start(work: Callable[..., object], *args: object) -> BaseProcess:
    """Start work(*args), a function that another process can import, and return once it is about to begin."""
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_begin, args=(there, work, args))
    process.start()
    there.close()
    here.recv()
    here.close()
    return process


def _begin(there: Connection, work: Callable[..., object], args: tuple[object, ...]) -> None:
    there.send("go")
    there.close()
    work(*args)
