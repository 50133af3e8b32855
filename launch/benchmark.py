from nova_jax.cli.benchmark import COMMAND

if __name__ == "__main__":
  COMMAND.run()
