"""Commands that work on many runs: tune, reproduce, report and benchmark."""
