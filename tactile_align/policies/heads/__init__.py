"""Action heads: networks that turn the memory of ACT's encoder into a chunk of actions."""
