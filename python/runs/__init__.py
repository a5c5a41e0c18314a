"""One run: its folder, the model it leaves, and what is done with that model."""
