import jax
import pytest
from train import toy_run

from nova_jax.train.callbacks.profile import Profile, parse_window


@pytest.mark.slow
def test_a_window_of_steps_is_profiled(tmp_path, monkeypatch):
  events = []
  for name in ("start_trace", "stop_trace"):
    real = getattr(jax.profiler, name)
    monkeypatch.setattr(jax.profiler, name, lambda *args, name=name, real=real: (events.append(name), real(*args)))
  experiment = toy_run.make_experiment(steps=4, save_every=2)
  toy_run.train(experiment, tmp_path, Profile((3, 4)))
  assert events == ["start_trace", "stop_trace"]
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))
  toy_run.train(experiment, tmp_path, Profile((1, 2)))  # Done before.
  assert len(events) == 2


def test_windows():
  assert parse_window("3:3", 10) == (3, 3) and parse_window(None, 10) is None
  for text in ("0:3", "5:4", "5:11", "5", "a:b"):
    with pytest.raises(ValueError, match="--profile: expected FIRST:LAST, steps from 1 to 10"):
      parse_window(text, 10)
