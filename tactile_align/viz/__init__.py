"""Pictures: overlays, feature maps, reports."""
