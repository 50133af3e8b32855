from nova_jax.cli.cache import COMMAND

if __name__ == "__main__":
  COMMAND.run()
