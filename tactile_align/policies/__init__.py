"""Policies: from a moment to a chunk of actions."""
