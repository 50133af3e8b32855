from nova_jax.cli.status import COMMAND

if __name__ == "__main__":
  COMMAND.run()
