"""`tactile-align VERB ...` and `python -m tactile_align VERB ...`."""

import sys


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

    raise SystemExit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
