"""The page on which boxes are drawn by hand."""
