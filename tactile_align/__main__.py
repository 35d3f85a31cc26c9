"""`tactile-align VERB ...` and `python -m tactile_align VERB ...`."""

import os
import sys

READER_LEFT = 141
"""Exit status where nobody reads our output any more, as of a program that SIGPIPE ends."""


def main() -> None:
    """Run the command line; first make sure that OpenCV's system libraries are there."""
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
        # Else Python would flush once more on its way out, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = READER_LEFT
    raise SystemExit(status)


if __name__ == "__main__":
    main()
