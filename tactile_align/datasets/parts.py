"""Half-built folders: their names, and what becomes of them when their process is gone."""

import os
import shutil
import socket
import threading
import time
from multiprocessing import connection, parent_process
from pathlib import Path

FORGOTTEN_S = 86_400  # a part of another machine this old is nobody's: an episode takes seconds


def part_of(folder: Path) -> Path:
    """Return the name under which this process builds `folder`."""
    return folder.with_name(f".{folder.name}.{socket.gethostname()}.{os.getpid()}.part")


def clear_parts(folder: Path) -> None:
    """Remove the half-built folders whose processes are gone: dead on this machine, or a day old on another."""
    for part in folder.glob(".*.part"):
        *host, pid = part.name.split(".")[2:-1] or [""]
        try:
            if ".".join(host) == socket.gethostname() and pid.isdecimal() and os.name == "posix":
                gone = not _runs(int(pid))
            else:
                gone = time.time() - part.stat().st_mtime > FORGOTTEN_S
        except FileNotFoundError:
            continue  # it was finished or removed meanwhile
        if gone:
            shutil.rmtree(part, ignore_errors=True)


def end_with_the_parent() -> None:
    """Let a process of a pool end when the one that started it is killed; else it would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (connection.wait([sentinel]), os._exit(1)), daemon=True).start()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True
