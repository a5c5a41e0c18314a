"""Training: the loop, its observers, and the checkpoints from which a run is resumed."""
