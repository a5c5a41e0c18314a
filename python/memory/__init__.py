"""Memory: estimating the peak of a run before it starts, choosing tile sizes, and retrying a step that ran out of
memory."""
