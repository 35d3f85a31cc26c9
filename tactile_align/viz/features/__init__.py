"""Pictures of learnt features."""
