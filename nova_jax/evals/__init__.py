"""Scores of generated clips."""
