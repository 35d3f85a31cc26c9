"""Several processes at work: results in order, and no waiting for one that is gone."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_all_start_methods
from pathlib import Path

import pytest

from tactile_align.workers import after_import, in_processes

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(os.name != "posix", reason="this system has no SIGKILL")


def square(n: int) -> int:
    if n == 3:
        time.sleep(0.3)
    if n < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return n * n


def test_results_come_in_the_order_of_the_jobs() -> None:
    assert list(in_processes(square, [3, 1, 2, 4], 2)) == [9, 1, 4, 16]


FIRST_MODULES = """
from tactile_align.workers import after_import
with after_import("colorsys").Pool(1) as pool:
    print(pool.apply(eval, ("'colorsys' in __import__('sys').modules",)))
"""


@pytest.mark.skipif("forkserver" not in get_all_start_methods(), reason="this system cannot fork")
def test_a_module_is_there_before_the_work_and_a_wrong_name_is_refused() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_MODULES], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "True\n", done.stderr
    for name in ("no.such.module", "tactile_align.none"):
        with pytest.raises(ModuleNotFoundError, match=name.partition(".")[0]):
            after_import(name)


def test_a_process_that_is_killed_is_an_error_and_not_a_wait_for_ever() -> None:
    with pytest.raises(ChildProcessError, match=r"one of 2 worker processes was killed.*kept.*fewer processes"):
        list(in_processes(square, [1, 2, -1, 4], 2))
