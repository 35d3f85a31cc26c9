"""Pictures and pages: overlays, feature maps, reports, the label page."""
