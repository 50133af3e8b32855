"""No file of the reference folder is left unread."""

from parity import test_autoencoders, test_generation, test_schedulers, test_text, test_training
from parity.reference import ROOT, read

from nova_jax.checkpoints.weight_files import weight_files
from nova_jax.utils.files import read_json


def consumed():
  """Yield the files that the tests beside this one read."""
  for path in test_training.PASSES:
    transformer = ROOT / path.parent / "pipeline" / "transformer"
    yield from (ROOT / path, transformer / "config.json", *weight_files(transformer))
  yield from (ROOT / path for path in test_schedulers.SCHEDULES + test_schedulers.GUIDANCE)
  for path in test_autoencoders.PASSES:
    folder = ROOT / test_autoencoders.folder_of(path)
    yield from (ROOT / path, folder / "config.json", *weight_files(folder))
  for path in test_text.TEXTS:
    yield ROOT / path
  for path in test_generation.SAMPLES:
    # `Pipeline.load` reads all that `model_index.json` lists.
    folder = ROOT / path.parent / "pipeline"
    listed = [name for name, value in read_json(folder / "model_index.json").items() if isinstance(value, list)]
    yield from (ROOT / path, folder / "model_index.json")
    yield from (file for name in listed for file in (folder / name).rglob("*") if file.is_file())


def test_every_file_is_consumed():
  files = {path for path in ROOT.rglob("*") if path.is_file()} - {ROOT / "README.md"}
  assert files and not files - set(consumed())


def test_every_array_of_a_generation_is_known():
  """A kind of number that no test compares would go unseen."""
  known = {
      "text_embeds", "negative_text_embeds", "label", "order", "noise", "step_noise", "given_latents", "latents_out",
      "pixels_uint8"}
  for path in test_generation.SAMPLES:
    assert read(ROOT / path).arrays.keys() <= known, path
