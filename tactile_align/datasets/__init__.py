"""Recorded episodes: layouts, reading, writing, contact, statistics, moments."""
