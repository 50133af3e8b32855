from nova_jax.cli.demo import COMMAND

if __name__ == "__main__":
  COMMAND.run()
