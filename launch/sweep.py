from nova_jax.cli.sweep import COMMAND

if __name__ == "__main__":
  COMMAND.run()
