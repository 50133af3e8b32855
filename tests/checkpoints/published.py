"""The models that conversion is tested with."""

from parity.reference import ROOT, files

from nova_jax.checkpoints.weight_files import open_weights
from nova_jax.utils.files import read_json

PIPELINES = [path.parent for path in files("*/pipeline/model_index.json")]
AUTOENCODERS = [path.parent for path in files("vaes/*/config.json")]
# One with all parts, and scaling & shift.
VIDEO = next(
    ROOT / path for path in PIPELINES
    if (ROOT / path / "vae").is_dir() and read_json(ROOT / path / "transformer/config.json")["video_mixer_rank"])


def assert_same_weights(a, b):
  a, b = open_weights(a), open_weights(b)
  assert a.keys() == b.keys()
  for name in a:
    x, y = a[name].read(), b[name].read()
    assert (x.dtype, x.shape) == (y.dtype, y.shape) and x.tobytes() == y.tobytes(), name
