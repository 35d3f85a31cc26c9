"""The verbs of the command line, by what they act on; each is a thin call of one library function."""

GOOD, FAILED, UNUSABLE = 0, 1, 2
"""Exit status: all well, a check failed, unusable input."""
