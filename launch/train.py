from nova_jax.cli.train import COMMAND

if __name__ == "__main__":
  COMMAND.run()
