"""Sweeps score many settings of sampling or training on the digits, in one table with plots."""
