"""MMSSL's parts as torch modules."""
