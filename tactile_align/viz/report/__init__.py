"""HTML report of training runs, and its live view."""
