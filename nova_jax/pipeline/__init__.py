"""From a request to pixels: what is asked for, what it means for a model, and the model at work."""

from nova_jax.pipeline.pipeline import Pipeline

__all__ = ["Pipeline"]
