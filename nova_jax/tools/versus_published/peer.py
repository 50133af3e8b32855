"""The published code as the other side of a comparison: a worker in a process and a Python of its own."""

import contextlib
import json
import pathlib
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

from nova_jax.sampling.set_schedule import set_sizes
from nova_jax.tools.versus_published.work import Work
from nova_jax.utils.errors import UserError

WORKER = pathlib.Path(__file__).with_name("peer_worker.py")


class Peer:
  """A running worker.

  Args:
    checkout: folder of the published code.
    python: an interpreter that has its dependencies.
    work: what it will be asked to do.

  Raises:
    UserError: no such checkout or interpreter, or the worker fails; the error says why.
  """

  def __init__(self, checkout: str, python: str, work: Work):
    if not (pathlib.Path(checkout) / "diffnext").is_dir():
      raise UserError(f"--peer: expected a checkout of the published code, with a folder diffnext, got {checkout!r}")
    command = [python, str(WORKER), checkout, json.dumps(sizes(work))]
    self._stderr = tempfile.TemporaryFile()  # No pipe: nobody reads it in time.
    try:
      self._process = subprocess.Popen(
          command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, text=True, encoding="utf-8")
    except OSError as error:
      raise UserError(f"--peer_python: cannot run {python!r} ({error.strerror})") from error
    self._answer()

  def seconds(self, what: str, num_frames: int) -> float:
    """Let the worker do "train" or "generate", and return how long it took."""
    with contextlib.suppress(BrokenPipeError):  # What it said last tells why.
      self._process.stdin.write(f"{what} {num_frames}\n")
      self._process.stdin.flush()
    return float(self._answer())

  def close(self) -> None:
    self._process.communicate()

  def _answer(self) -> str:
    answer = self._process.stdout.readline().strip()
    if not answer or answer.startswith("error"):
      self.close()
      raise UserError(f"--peer: {answer.partition(': ')[2] or self._last_words()}")
    return answer

  def _last_words(self) -> str:
    self._stderr.seek(0)
    lines = self._stderr.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"the worker ended with exit code {self._process.returncode}{': ' * bool(last)}{last}"


def sizes(work: Work) -> dict[str, Any]:
  """Return the numbers of the work as the worker takes them, JSON without types of NumPy."""
  cfg = work.model
  vit = lambda depth: {"depth": depth, "embed_dim": cfg.width, "num_heads": cfg.num_heads}
  parts = [
      vit(cfg.temporal_depth), vit(cfg.spatial_depth), {"depth": cfg.denoiser_depth, "embed_dim": cfg.denoiser_width}]
  fields = ("latent_dim", "patch_size", "text_dim", "text_len", "base_frames", "mixer_rank")
  return {name: getattr(cfg, name) for name in fields} | {
      "batch_size": work.batch_size, "num_visible": work.num_visible, "loss_repeat": work.loss_repeat,
      "num_steps": work.num_steps, "guidance_scale": work.guidance_scale, "latent_size": list(cfg.latent_size),
      "names": _names(parts), "parts": parts,
      "set_sizes": [int(size) for size in set_sizes(cfg.num_image_tokens, work.num_sets)]}


def _names(parts: Sequence[dict[str, int]]) -> list[str]:
  """Return names in the published way, "vit_d4w768"."""
  kinds = ("vit", "vit", "mlp")
  return [f"{kind}_d{part['depth']}w{part['embed_dim']}" for kind, part in zip(kinds, parts, strict=True)]
