"""Rigid frames, pixel boxes and image maps; imports only `errors` from the rest of this package."""
