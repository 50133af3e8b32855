"""Sweeps: many settings of sampling or training, each scored on the digits, in one table with plots."""
