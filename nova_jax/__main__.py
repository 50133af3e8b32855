"""`python -m nova_jax COMMAND`: the command `nova-jax`, where its folder isn't on the PATH."""

from nova_jax.cli.main import main

if __name__ == "__main__":
  main()
