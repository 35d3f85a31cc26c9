"""The HTML report of runs, and its live view."""
