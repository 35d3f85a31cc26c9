"""Read-outs that tell whether alignment and training work."""
