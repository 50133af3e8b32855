"""Attention behind one function: `dispatch.py` chooses the backend, `masks.py` says who sees whom."""
