from nova_jax.cli.sample import COMMAND

if __name__ == "__main__":
  COMMAND.run()
