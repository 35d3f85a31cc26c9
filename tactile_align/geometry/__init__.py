"""Rigid frames, pixel boxes and pixel maps; imports nothing else of this package."""
