"""Latent caches: clips encoded once, with their captions, in files that training streams."""
