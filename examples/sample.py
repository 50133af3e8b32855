"""From text to a clip: `python examples/sample.py CHECKPOINT OUTPUT.mp4 "the digit seven moves left"`."""

import sys

import nova_jax
from nova_jax.media import write_mp4

checkpoint, output, prompt = sys.argv[1:]
clips = nova_jax.Pipeline.load(checkpoint)(prompt, seed=1)  # uint8 [batch, time, height, width, channel]
write_mp4(output, clips[0], fps=4)
