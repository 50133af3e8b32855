"""Published checkpoints: their files, configs and parameter names."""
