"""Training runs of other projects: what was planned, what came of it, how it was measured."""
