"""Batches of a few prompts that tests generate with a tiny model."""

from pipeline.test_pipeline import fresh

from nova_jax.pipeline import batch_sampling, prompts
from nova_jax.pipeline.known_texts import known_texts
from nova_jax.utils.progress import Progress

LINES = [{"prompt": "one", "num_samples": 2}, {"prompt": "two", "negative_prompt": "one"}, {"prompt": "one", "seed": 9}]
FORMATS = ("mp4", "gif", "webp", "sheet")


def make_pipe():
  """Return a pipeline that knows the texts of `LINES`."""
  pipe = fresh()
  pipe.text_encoder = known_texts(pipe.text_encoder, prompts.expand(LINES, {}, 0)[0])
  return pipe


def run(pipe, folder, formats=FORMATS, stop_after=None):
  """Generate `LINES` in `folder`, up to a number of sets; return their provenances and files."""
  clips, _ = prompts.expand(LINES, {"num_frames": 2}, 5)
  batches = list(batch_sampling.plan_batches(clips, 3))
  provenances = batch_sampling.make_provenances(pipe, "model", "ema", clips, batches, 3)
  with Progress("set") as progress:
    if stop_after is not None:
      show, progress.show = progress.show, lambda done, *rest: show(done, *rest) if done < stop_after else 1 / 0
    return provenances, batch_sampling.run(pipe, batch_sampling.Work(provenances, batches), folder, formats, progress)


def contents(folder):
  """Return the bytes of the files in a folder, by name."""
  return {path.name: path.read_bytes() for path in folder.iterdir()}
