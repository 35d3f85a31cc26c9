"""Worker processes: they neither outlive nor hang the process that started them."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Job], Result], jobs: Iterable[Job], processes: int, start: Callable[[], None] | None = None
) -> Iterator[Result]:
    """Yield work(job) of each job, in their order.

    Args:
        work: A function that another process can import.
        jobs: The arguments, one a call.
        processes: Number of processes.
        start: Called once in each process before its first job.

    Raises:
        ChildProcessError: A process was ended from outside; multiprocessing's own pool would wait for ever.
    """
    # spawn: a forked child would share open HDF5 handles and thread pools with this process.
    with ProcessPoolExecutor(processes, get_context("spawn"), _begin, (start,)) as pool:
        try:
            yield from pool.map(work, jobs)
        except BrokenProcessPool as error:
            text = f"one of {processes} processes was ended from outside, most likely because memory ran out"
            remedy = "Finished work is kept: repeat the command with fewer processes"
            raise ChildProcessError(f"{text}. {remedy}") from error


def _begin(start: Callable[[], None] | None) -> None:
    parent = parent_process()
    if parent is not None:
        # Otherwise the worker would wait for ever when its parent is killed.
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (connection.wait([sentinel]), os._exit(1)), daemon=True).start()
    if start is not None:
        start()
