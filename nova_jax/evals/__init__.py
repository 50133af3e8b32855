"""Evaluation of generated clips: scores, features and benchmarks."""
