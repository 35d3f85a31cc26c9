"""The HSA contrastive loss, its negatives and its temperature."""
