"""Entry point of `tactile-align VERB ...` and `python -m tactile_align VERB ...`."""

import os
import sys

READER_LEFT = 141
"""Exit status when the reader of our output has left, as of a program that SIGPIPE ends."""


def main() -> None:
    """Run the command line, after a check that OpenCV finds its system libraries."""
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        if "cannot open shared object" not in str(error):
            raise
        library = str(error).split(":")[0]
        print(
            f"opencv-python needs the system library {library}; on Debian or Ubuntu: "
            f"apt-get install libgl1 libglib2.0-0",
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
        # Without this Python would flush again at exit and print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = READER_LEFT
    raise SystemExit(status)


if __name__ == "__main__":
    main()
