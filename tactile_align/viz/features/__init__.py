"""Pictures of the features that a run has learnt."""
