"""Terminal output: streams, tables, progress bars."""
