"""The transformer: `nova.py` puts it together in the paper's order, from the parts in the other modules."""
