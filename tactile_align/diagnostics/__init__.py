"""Read-outs of what alignment and training have learnt."""
