from nova_jax.cli.evaluate import COMMAND

if __name__ == "__main__":
  COMMAND.run()
