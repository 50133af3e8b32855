from nova_jax.cli.tpu_vm import COMMAND

if __name__ == "__main__":
  COMMAND.run()
