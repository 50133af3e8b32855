"""The command line: one module for each command, which `python -m launch.NAME` and `nova-jax NAME` run."""

from nova_jax.cli.entry import Command, run_child
from nova_jax.utils.errors import exit_code, shorten

__all__ = ["Command", "exit_code", "run_child", "shorten"]
