"""Vision transformers as token grids, and how the tokens of a region become one vector."""
