"""HSA contrastive loss with its negatives, temperature and memory bank, and the MSE loss for debugging."""
