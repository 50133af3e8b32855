"""Ahead-of-time compilation for TPU pods without access to them, and analysis of the compiled programs."""
