from nova_jax.cli.convert import COMMAND

if __name__ == "__main__":
  COMMAND.run()
