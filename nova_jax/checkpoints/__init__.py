"""Checkpoints of training runs, model folders, and conversion from and to published models."""
