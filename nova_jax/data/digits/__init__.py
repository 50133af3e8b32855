"""Moving digits, one or two: clips as arrays, their captions, and datasets of them on disk."""
