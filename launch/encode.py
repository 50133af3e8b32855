from nova_jax.cli.encode import COMMAND

if __name__ == "__main__":
  COMMAND.run()
