"""Recorded frames with the projected boxes drawn on them; imports no torch."""
