"""A single run: its folder, the saved model, and evaluation and recommendation with that model."""
