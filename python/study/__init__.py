"""What is done over many runs: searches, the paper's tables and figures, reports, benchmarks. Serves the commands of
the same names."""
