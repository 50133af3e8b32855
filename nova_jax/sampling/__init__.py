"""Generation: set schedule, guidance and the sampler."""
