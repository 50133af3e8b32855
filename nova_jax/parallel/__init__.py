"""Arrays over a mesh of devices (`sharding.py`), and several processes as one run."""
