"""Memory of the host in training."""

import jax
import pytest
from commands import run

from nova_jax.train import nova
from nova_jax.utils import memory


@pytest.mark.parametrize("backend, kept", [("cpu", True), ("tpu", False)])
def test_training_on_a_cpu_keeps_what_a_step_frees(tmp_path, monkeypatch, backend, kept):
  called = []
  monkeypatch.setattr(memory, "keep_freed_memory", lambda: called.append("memory"))
  monkeypatch.setattr(nova, "train_nova", lambda *_: called.append("training"))
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  done = run("train", "--config=digits", f"--workdir={tmp_path / 'run'}", "--compilation_cache=off")
  assert done.returncode == 0, done.stderr
  assert called == ["memory"] * kept + ["training"]
