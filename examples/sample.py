"""From text to a clip: `python examples/sample.py CHECKPOINT OUTPUT.mp4 "the digit seven moves left"`."""

import sys

import nova_jax

checkpoint, output, prompt = sys.argv[1:]
clips = nova_jax.Pipeline.load(checkpoint)(prompt, seed=1)  # uint8 [batch, time, height, width, channel]
clips.save(output)
