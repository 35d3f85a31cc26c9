"""Work on many things in several new processes, none of which outlives or hangs this one."""

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
        jobs: What to work on.
        processes: How many work at the same time.
        start: What each of them does first.

    Raises:
        ChildProcessError: One of them was ended from outside; with multiprocessing's own pool this would wait for ever.
    """
    # spawn: a forked child would share open HDF5 handles and thread pools with this process.
    with ProcessPoolExecutor(processes, get_context("spawn"), _begin, (start,)) as pool:
        try:
            yield from pool.map(work, jobs)
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"one of {processes} processes was ended from outside, most likely for want of memory. What is "
                f"finished is kept: give the same command again, with fewer processes"
            ) from error


def _begin(start: Callable[[], None] | None) -> None:
    parent = parent_process()
    if parent is not None:
        # Else it would wait for work for ever when the process that started it is killed.
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (connection.wait([sentinel]), os._exit(1)), daemon=True).start()
    if start is not None:
        start()
