"""NOVA beside the paradigms it is compared with, at equal compute and size (paper, section 4): see `run.py`."""
