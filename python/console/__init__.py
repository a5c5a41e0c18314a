"""What a person sees at a terminal: streams, tables, progress bars. Knows nothing of recommendation."""
