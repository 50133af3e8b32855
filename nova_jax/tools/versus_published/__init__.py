"""Timing of fixed work, beside the published code."""
