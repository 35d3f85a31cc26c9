"""Recorded episodes: layouts, reading, writing, contact."""
