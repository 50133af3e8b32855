from nova_jax.cli.decode import COMMAND

if __name__ == "__main__":
  COMMAND.run()
