"""Folders of samples that the official scorers of GenEval, VBench, DPG-Bench and T2I-CompBench read."""
