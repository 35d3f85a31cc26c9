"""Image encoders that return token grids, and poolings that turn the tokens of an image region into one vector."""
