from nova_jax.cli.inspect import COMMAND

if __name__ == "__main__":
  COMMAND.run()
