"""Entry point of `tactile-align VERB ...` and `python -m tactile_align VERB ...`."""

import os
import sys

READER_LEFT = 141
"""Exit status when the program that reads our output has ended; the same as for a process killed by SIGPIPE."""


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables that state how threads of OpenMP wait. The first holds for every OpenMP runtime."""


def main() -> None:
    """Run the command line on the program's arguments, after checking that OpenCV finds its system libraries."""
    # Waiting threads of PyTorch spin by default, which takes the cores from the threads that they wait for when another
    # program is running. OpenMP reads the variable once, when PyTorch is imported.
    if not any(name in os.environ for name in WAITING):
        os.environ[WAITING[0]] = "passive"
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        if "cannot open shared object" not in str(error):
            raise
        library = str(error).split(":")[0]
        print(
            f"opencv-python needs the system library {library}, which was not found. Install it, on Debian or Ubuntu "
            f"with: apt-get install libgl1 libglib2.0-0",
            file=sys.stderr,
        )
        raise SystemExit(2) from error
    from tactile_align.cli import run

    try:
        try:
            status = run(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Otherwise Python would flush stdout again at exit and print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = READER_LEFT
    raise SystemExit(status)


if __name__ == "__main__":
    main()
