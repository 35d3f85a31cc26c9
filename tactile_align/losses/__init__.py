"""The HSA contrastive loss and who may be whose rival."""
