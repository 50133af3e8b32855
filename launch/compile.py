from nova_jax.cli.compile import COMMAND

if __name__ == "__main__":
  COMMAND.run()
