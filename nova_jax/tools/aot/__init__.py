"""Ahead-of-time compilation for TPU pods that aren't here, and what the compiled programs say about themselves."""
