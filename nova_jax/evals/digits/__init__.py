"""Scores of generated moving digits, one or two, by what the captions ask for."""
