"""Worker processes that end together with the process that started them, and never make that process wait forever."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from multiprocessing.context import BaseContext
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Job], Result], jobs: Iterable[Job], processes: int, start: Callable[[], None] | None = None
) -> Iterator[Result]:
    """Yield the result of `work(job)` for each job, in the order of the jobs.

    Args:
        work: A function that another process can import.
        jobs: The arguments, one per call.
        processes: Number of processes.
        start: Function that each process calls once before its first job.

    Raises:
        ChildProcessError: A worker process was killed; multiprocessing.Pool would wait forever.
    """
    # spawn: a forked child would share open HDF5 handles and thread pools with this process.
    with ProcessPoolExecutor(processes, get_context("spawn"), _begin, (start,)) as pool:
        try:
            yield from pool.map(work, jobs)
        except BrokenProcessPool as error:
            text = f"one of {processes} worker processes was killed, most likely because memory ran out"
            remedy = "Finished work is kept. Repeat the command with fewer processes"
            raise ChildProcessError(f"{text}. {remedy}") from error


def after_import(module: str) -> BaseContext:
    """Return a context of multiprocessing whose processes start with a module imported, without memory of this process.

    Where the system can fork, a server imports the module once, and each process is forked from it; the first caller
    in this process chooses the module. Elsewhere, each process is a new interpreter that imports for itself.

    Raises:
        ModuleNotFoundError: There is no such module; the server would start without it and say nothing.
    """
    if find_spec(module) is None:
        raise ModuleNotFoundError(f"no module named '{module}', which the processes need. Give the name of a module")
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def _begin(start: Callable[[], None] | None) -> None:
    parent = parent_process()
    if parent is not None:
        # Otherwise the worker would wait forever when its parent is killed.
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (connection.wait([sentinel]), os._exit(1)), daemon=True).start()
    if start is not None:
        start()
