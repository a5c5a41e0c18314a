"""The loop that fits a system to a dataset, and the states from which it goes on."""
