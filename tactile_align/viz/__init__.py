"""Pictures: overlays, maps, reports."""
