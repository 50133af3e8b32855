from nova_jax.cli.score import COMMAND

if __name__ == "__main__":
  COMMAND.run()
