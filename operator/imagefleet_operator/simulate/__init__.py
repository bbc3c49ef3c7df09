"""A fleet in simulated time: what a choice of ``scaling`` values would hold, and how long requests would wait."""
