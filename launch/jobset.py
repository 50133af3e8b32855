from nova_jax.cli.jobset import COMMAND

if __name__ == "__main__":
  COMMAND.run()
