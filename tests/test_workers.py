"""Several processes at work: results in order, and no waiting for one that is gone."""

import os
import signal
import time

import pytest

from tactile_align.workers import in_processes

pytestmark = pytest.mark.skipif(os.name != "posix", reason="this system has no SIGKILL")


def square(n: int) -> int:
    if n == 3:
        time.sleep(0.3)
    if n < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return n * n


def test_results_come_in_the_order_of_the_jobs() -> None:
    assert list(in_processes(square, [3, 1, 2, 4], 2)) == [9, 1, 4, 16]


def test_a_process_that_is_killed_is_an_error_and_not_a_wait_for_ever() -> None:
    with pytest.raises(ChildProcessError, match=r"one of 2 worker processes was killed.*kept.*fewer processes"):
        list(in_processes(square, [1, 2, -1, 4], 2))
