"""Policies: what turns a moment into a chunk of actions."""
