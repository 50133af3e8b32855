"""Checkpoints that storage has changed: noticed, set aside, and the one before is read."""

import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints.test_checkpoint import like, make_state, same

from nova_jax.checkpoints.store import Checkpointer, Damaged, finished_steps, open_arrays
from nova_jax.utils.errors import FAILED, RunFailed, exit_code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Checkpoints 4 and 8."""
  checkpoints = Checkpointer(tmp_path_factory.mktemp("whole") / "checkpoints", keep=3)
  for step in (4, 8):
    checkpoints.save(step, make_state(step), {"position": step}, {"sums": {"loss": [1, 0.5]}})
  checkpoints.close()
  return checkpoints.directory


@pytest.fixture
def copy(folder, tmp_path):
  return shutil.copytree(folder, tmp_path / "checkpoints")


def data_files(step):
  return sorted(file for file in (step / "state").rglob("*") if file.is_file() and file.parent.name == "d")


def index(step):
  """The file that every reading begins with. The others of so small a state may serve nobody."""
  (file,) = (step / "state/d").iterdir()
  return file


def empty(step):
  shutil.rmtree(step)
  step.mkdir()


def edit(step, item, old, new):
  file = step / item / "metadata"
  text = file.read_text(encoding="utf-8")
  assert old in text
  file.write_text(text.replace(old, new), encoding="utf-8")


DAMAGE = {
    "a data file cut off": lambda step: index(step).write_bytes(index(step).read_bytes()[:-9]),
    "a data file gone": lambda step: index(step).unlink(),
    "a data file zeroed": lambda step: index(step).write_bytes(bytes(index(step).stat().st_size)),
    "no state": lambda step: shutil.rmtree(step / "state"),
    "no manifest": lambda step: (step / "state/manifest.ocdbt").unlink(),
    "no list of arrays": lambda step: (step / "state/_METADATA").write_text("{}", encoding="utf-8"),
    "position cut off": lambda step: (step / "data/metadata").write_text('{"posi', encoding="utf-8"),
    "position emptied": lambda step: (step / "data/metadata").write_text("", encoding="utf-8"),
    "position not UTF-8": lambda step: (step / "data/metadata").write_bytes(b"\xff{}"),
    "another position": lambda step: edit(step, "data", "8", "9"),
    "meta gone": lambda step: shutil.rmtree(step / "meta"),
    "digests cut off": lambda step: (step / "digests/metadata").write_text("[", encoding="utf-8"),
    "an empty folder": empty,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_the_one_before_is_read_and_the_damaged_one_kept_aside(copy, damage):
  damage(copy / "8")
  checkpoints = Checkpointer(copy, keep=3)
  found = checkpoints.restore_newest(like(make_state()))
  assert found.step == 4 and found.data == {"position": 4}
  same(found.state, make_state(4))
  (line,) = found.set_aside
  assert "checkpoint 8 is damaged" in line and "8.damaged" in line
  assert "\n" not in line and "<bound" not in line and "pybind" not in line
  assert (copy / "8.damaged").is_dir() and finished_steps(copy) == [4]
  checkpoints.save(8, make_state(8), {"position": 8}, {})  # Its name is free again.
  checkpoints.close()
  assert finished_steps(copy) == [4, 8]


def test_a_folder_that_only_looks_like_a_checkpoint_is_set_aside(copy):
  (copy / "99999").mkdir()
  checkpoints = Checkpointer(copy, keep=2)
  found = checkpoints.restore_newest(like(make_state()))
  checkpoints.close()
  assert found.step == 8 and "99999.damaged" in found.set_aside[0]


def test_if_none_is_whole_all_are_named_and_stay(copy):
  empty(copy / "4")
  index(copy / "8").unlink()
  checkpoints = Checkpointer(copy, keep=2)
  for _ in range(2):
    with pytest.raises(RunFailed, match=r"no checkpoint in .* is whole \(8: .*; 4: .*\)") as error:
      checkpoints.restore_newest(like(make_state()))
    assert "\n" not in str(error.value) and exit_code(error.value) == FAILED
  checkpoints.close()
  assert finished_steps(copy) == [4, 8]


def test_what_does_not_fit_the_model_is_no_damage(copy):
  checkpoints = Checkpointer(copy, keep=2)
  wanted = like(make_state())
  wanted["params"]["blocks"]["kernel"] = jax.ShapeDtypeStruct((8, 5), jnp.float32)
  with pytest.raises(ValueError, match="does not fit the model") as error:
    checkpoints.restore_newest(wanted)
  checkpoints.close()
  assert not isinstance(error.value, Damaged) and finished_steps(copy) == [4, 8]


def test_single_bits(tmp_path):
  """Whichever bit of the data flips, what is read is what was saved, or refused."""
  rng, noticed, numbers = random.Random(0), 0, np.random.default_rng(0)
  checkpoints = Checkpointer(tmp_path / "checkpoints", keep=1)
  state = {name: numbers.standard_normal((100, 100)).astype(np.float32) for name in "abcd"}
  checkpoints.save(4, jax.tree.map(jnp.asarray, state), {}, {})
  checkpoints.close()
  for number in range(24):
    step = shutil.copytree(checkpoints.directory / "4", tmp_path / f"{number}")
    file = rng.choices(data_files(step), [file.stat().st_size for file in data_files(step)])[0]
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    try:
      for name, array in open_arrays(step).items():
        np.testing.assert_array_equal(array.read(), state[name])
    except Damaged as error:
      noticed += 1
      assert "\n" not in str(error)
  assert noticed > 20  # The others were in bytes that nothing reads.


def test_a_flipped_value_is_named_and_the_step_before_offered(copy, monkeypatch):
  """Where files have no checksum of their own, as when the array is stored as it is."""
  described = json.loads((copy / "8/digests/metadata").read_text(encoding="utf-8"))
  described["arrays"]["ema/blocks/kernel"] = described["arrays"]["ema/blocks/kernel"].split()[0] + " 00000000"
  (copy / "8/digests/metadata").write_text(json.dumps(described), encoding="utf-8")
  arrays = open_arrays(copy / "8")
  arrays["params/blocks/kernel"].read()
  with pytest.raises(Damaged, match=r"8 is damaged: ema/blocks/kernel changed since; .*launch.convert --step=4 takes"):
    arrays["ema/blocks/kernel"].read()


def test_checkpoints_of_older_versions_have_no_digests(copy):
  shutil.rmtree(copy / "8/digests")
  checkpoints = Checkpointer(copy, keep=2)
  assert checkpoints.restore_newest(like(make_state())).step == 8
  checkpoints.close()
  open_arrays(copy / "8")["step"].read()


@pytest.mark.slow
def test_a_disk_that_is_full_is_one_line_and_keeps_the_others(copy, monkeypatch, capfd):
  from orbax.checkpoint import JsonCheckpointHandler

  async def full(self, *_):
    raise OSError(28, "No space left on device")

  checkpoints = Checkpointer(copy, keep=2)
  monkeypatch.setattr(JsonCheckpointHandler, "_save_fn", full)
  checkpoints.save(12, make_state(12), {}, {})
  with pytest.raises(RunFailed, match="12: this checkpoint can.t be written: No space left") as error:
    checkpoints.wait()
  assert "\n" not in str(error.value)
  monkeypatch.undo()
  assert "Traceback" not in capfd.readouterr().err
  assert finished_steps(copy) == [4, 8]


def test_too_many_open_files_are_no_damage(copy, monkeypatch):
  from orbax.checkpoint import PyTreeCheckpointHandler

  def fail(*_, **__):
    raise ValueError("Error opening: Too many open files [os_error_code='24']")

  checkpoints = Checkpointer(copy, keep=2)
  monkeypatch.setattr(PyTreeCheckpointHandler, "restore", fail)
  with pytest.raises(OSError, match="Too many open files") as error:
    checkpoints.restore_newest(like(make_state()))
  assert exit_code(error.value) == FAILED
  assert finished_steps(copy) == [4, 8]
