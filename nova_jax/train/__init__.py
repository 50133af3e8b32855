"""Training: the trainer with its tasks and callbacks, the step that is compiled, optimizers and logs."""
