"""From text to a clip: `python examples/sample.py [MODEL OUTPUT.mp4 "the digit seven moves left"]`."""

import sys

import nova_jax

model, output, prompt = sys.argv[1:] or ("digits", "clip.mp4", "the digit seven moves left")
clips = nova_jax.Pipeline.load(model)(prompt, seed=1)  # uint8 [batch, time, height, width, channel]
clips.save(output)
