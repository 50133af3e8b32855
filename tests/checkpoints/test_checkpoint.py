import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from nova_jax.checkpoints.store import Checkpointer, LazyArray, find, latest_step, open_arrays, save_arrays
from nova_jax.config import MeshConfig
from nova_jax.parallel.sharding import make_mesh


def make_state(scale=1.0):
  weights = {"blocks": {"kernel": scale * jnp.arange(32.0).reshape(8, 4), "bias": scale * jnp.ones(4)}}
  return {
      "params": weights, "ema": jax.tree.map(lambda x: x / 3, weights),
      "buffers": {"text_embed": {"weight": jnp.ones((2, 8))}},
      "opt_state": ({"mu": jnp.float32(scale) * jnp.ones(3)},), "step": jnp.int32(4)}


def like(state, sharding=None):
  sharding = sharding or NamedSharding(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]), PartitionSpec())
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def saved(tmp_path):
  checkpoints = Checkpointer(tmp_path / "checkpoints", keep=2)
  checkpoints.save(4, make_state(), {"next": 17}, {"seed": 5, "sums": {"loss": [2, 0.1 + 0.2]}})
  checkpoints.wait()
  yield checkpoints
  checkpoints.close()


def test_restores_bit_for_bit(saved):
  state, data, meta = saved.restore(4, like(make_state()))
  same(state, make_state())
  assert jax.tree.structure(state) == jax.tree.structure(make_state())
  assert data == {"next": 17} and meta == {"seed": 5, "sums": {"loss": [2, 0.1 + 0.2]}}


def test_restores_onto_another_mesh(saved):
  mesh = make_mesh(MeshConfig(2, 4, 1))
  wanted = like(make_state(), NamedSharding(mesh, PartitionSpec()))
  spec = NamedSharding(mesh, PartitionSpec("fsdp"))
  wanted["params"]["blocks"]["kernel"] = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=spec)
  state, _, _ = saved.restore(4, wanted)
  same(state, make_state())
  assert state["params"]["blocks"]["kernel"].sharding == spec


def test_saving_is_not_disturbed_by_donation(tmp_path):
  checkpoints = Checkpointer(tmp_path, keep=1)
  state = {"params": jnp.arange(1e6)}
  advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  for step in range(1, 6):
    state = advance(state)
    checkpoints.save(step, state, {}, {})
    expected = np.arange(1e6) + step
    for _ in range(step):
      state = advance(state)
    state = jax.tree.map(lambda x: x - step, state)
    np.testing.assert_array_equal(checkpoints.restore(step, like(state))[0]["params"], expected)
  assert latest_step(tmp_path) == 5 and [p.name for p in tmp_path.iterdir() if p.name.isdigit()] == ["5"]
  checkpoints.close()


def test_keeps_the_newest_and_saves_a_step_once(saved):
  for step in (5, 6, 6):
    saved.save(step, make_state(step), {}, {})
  saved.wait()
  assert sorted(p.name for p in saved.directory.iterdir() if p.name.isdigit()) == ["5", "6"]
  assert saved.latest_step() == latest_step(saved.directory) == 6


def test_names_what_does_not_fit(saved):
  wanted = like(make_state())
  wanted["params"]["blocks"]["kernel"] = jax.ShapeDtypeStruct((8, 5), jnp.float32)
  message = r"different: params/blocks/kernel: \(8, 4\) float32 stored, \(8, 5\) float32 expected"
  with pytest.raises(ValueError, match=message):
    saved.restore(4, wanted)
  wanted = like(make_state())
  wanted["params"]["mixer"] = wanted["params"]["blocks"].pop("bias")
  with pytest.raises(ValueError, match=r"missing: params/mixer; not expected: params/blocks/bias"):
    saved.restore(4, wanted)


def test_single_arrays(saved, tmp_path):
  """Each is read when asked for, and a part is written array by array."""
  state = make_state()
  arrays = open_arrays(find(saved.directory, "ema"))
  kernel = arrays["ema/blocks/kernel"]
  assert (kernel.shape, kernel.dtype) == ((8, 4), np.float32) and kernel.nbytes == 128
  assert np.array_equal(kernel.read(), state["ema"]["blocks"]["kernel"])
  half = np.arange(6, dtype=np.float16).reshape(2, 3)
  save_arrays(tmp_path / "part", {"a/b": LazyArray((2, 3), half.dtype, lambda: half), "scalar": kernel})
  found = open_arrays(tmp_path / "part")
  assert found.keys() == {"a/b", "scalar"} and found["a/b"].dtype == np.float16
  assert np.array_equal(found["a/b"].read(), half) and np.array_equal(found["scalar"].read(), kernel.read())


def test_damaged_arrays_give_one_line(saved, tmp_path):
  folder = find(saved.directory)
  for file in (folder / "state").rglob("*"):
    if file.is_file() and file.parent.name == "d":
      file.write_bytes(file.read_bytes()[:10])
  with pytest.raises(ValueError, match="damaged") as error:
    open_arrays(folder)["ema/blocks/kernel"].read()
  assert "\n" not in str(error.value)


def test_half_written_checkpoints_are_ignored_and_swept_up(saved):
  leftover = saved.directory / "9.orbax-checkpoint-tmp"
  (leftover / "state").mkdir(parents=True)
  assert latest_step(saved.directory) == 4
  again = Checkpointer(saved.directory, keep=2)
  assert again.latest_step() == 4
  again.save(5, make_state(), {}, {})  # The sweep runs in the background until now.
  again.close()
  assert not leftover.exists() and latest_step(saved.directory) == 5


@pytest.mark.parametrize("make", [
    lambda p: None, lambda p: p.mkdir(), lambda p: (p / "photos").mkdir(parents=True), lambda p: p.write_text(
        "", encoding="utf-8")])
def test_what_is_not_a_checkpoint_is_refused_in_one_line(tmp_path, make):
  make(tmp_path / "x")
  with pytest.raises(ValueError, match=r"checkpoints/ folder of a training run") as error:
    find(tmp_path / "x")
  assert "\n" not in str(error.value)


def test_bad_arguments(saved):
  with pytest.raises(ValueError, match="no checkpoint of step 3; the newest is 4"):
    find(saved.directory, step=3)
  with pytest.raises(ValueError, match="weights: expected ema, params or ema_DECAY"):
    find(saved.directory, "best")
  assert ocp.utils.checkpoint_steps(saved.directory) == [4]
