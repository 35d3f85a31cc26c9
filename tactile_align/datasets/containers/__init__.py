"""Recordings of other formats, one module each."""
