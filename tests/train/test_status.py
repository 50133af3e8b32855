"""A run's status is read from its workdir alone."""

import pytest
from train import toy_run

from nova_jax.cli import status as command
from nova_jax.train.workdir.goodput import lost_work
from nova_jax.train.workdir.status import read_status, sparkline
from nova_jax.utils.errors import UserError


def test_a_run_is_training_then_stopped_and_done(tmp_path, capsys):
  seen = []
  experiment = toy_run.make_experiment(steps=12, save_every=4, log_every=2)

  def look():
    seen.append(read_status(tmp_path).lines())
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    toy_run.train(experiment, tmp_path, toy_run.Do(9, look))
  assert seen[0][0].startswith("training, by process ") and seen[0][1].startswith("step 8 of 12 (67%), stage video")
  assert any(line.startswith("last checkpoint ") for line in seen[0])
  assert read_status(tmp_path).lines()[0] == "not training; the command that began it continues it"
  toy_run.train(experiment, tmp_path)
  capsys.readouterr()
  assert command.COMMAND.execute(["status", str(tmp_path)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert any(line.startswith("time since the start: ") for line in lines)
  assert lines[0] == "done" and "last checkpoint 12, saved 0:00:0" in "\n".join(lines)
  assert len(lines[-1]) == 6 and lines[-2].startswith("loss ")


def test_the_time_of_a_run_is_told_by_what_it_was_spent_on(tmp_path, capsys):
  toy_run.train(toy_run.make_experiment(steps=4, log_every=2), tmp_path)
  spent = read_status(tmp_path).rows[-1]["spent"]
  assert list(spent) == ["steps", "start", "restore", "data", "evaluate", "save", "compile"]
  assert spent["compile"] > 0 and spent["start"] > 0
  (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("time: "))
  assert all(f"{name} " in line for name in spent)


@pytest.mark.slow
def test_steps_that_an_interruption_lost_are_counted(tmp_path, capsys):
  experiment, lost = toy_run.make_experiment(steps=12, save_every=4, log_every=1), [None]

  def vanish():
    raise SystemExit

  for step, saved in ((7, 4), (11, 8)):
    with pytest.raises(SystemExit):
      toy_run.train(experiment, tmp_path, toy_run.Do(step, vanish))
    lost.append(read_status(tmp_path).rows[-1]["step"] - saved)
  assert min(lost[1:]) > 0
  toy_run.train(experiment, tmp_path)
  total = f"{sum(lost[1:])} steps ("
  assert f"lost to interruptions: {total}" in capsys.readouterr().out
  found = read_status(tmp_path)
  assert [start.get("lost_steps") for start in found.starts] == lost
  assert all(start["lost_seconds"] > 0 for start in found.starts[1:])
  assert any(line.startswith(f"2 restarts, which lost {total}") for line in found.lines())
  assert [row["step"] for row in found.rows] == list(range(1, 13))


def test_what_is_lost_is_the_time_since_the_checkpoint():
  rows = [{"step": step, "spent": {"steps": 10.0 * step, "start": 5.0}} for step in range(1, 8)]
  assert lost_work(rows, 4, 0) == (3, 30.0)
  assert lost_work(rows, 4, 4) == (3, 75.0)  # All that the process did that began there.
  assert lost_work(rows, 7, 0) == lost_work([], 7, 0) == (0, 0.0)


def test_a_folder_that_is_no_workdir_is_refused(tmp_path, capsys):
  with pytest.raises(UserError, match="is no workdir of a training run"):
    read_status(tmp_path)
  assert command.COMMAND.execute(["status", "--workdir", str(tmp_path)]) == 2
  assert capsys.readouterr().err.startswith("error: --workdir: ")
  for content in ("{}", '{"train": {"steps": 4}}', '{"train": []}'):
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="is no workdir of a training run: its config.json is of something else"):
      read_status(tmp_path)
  with pytest.raises(UserError, match="there is no folder .*gone; expected the workdir of a training run"):
    read_status(tmp_path / "gone")
  for given, said in ([], "got none"), (["a", "--workdir=b"], "got b and a"):
    assert command.COMMAND.execute(["status", *given]) == 2
    assert capsys.readouterr().err.endswith(f"such as runs/digits, {said}\n")
  assert command.COMMAND.execute(["status", "s3://bucket/run"]) == 2
  assert command.COMMAND.execute(["status", "memory://bucket/run"]) == 2
  assert "can't hold this; give a local path or a gs:// address" in capsys.readouterr().err


def test_a_plot_shows_many_values_in_a_line():
  assert sparkline([3.0, 2.0, 1.0]) == "█▅▁"
  assert sparkline([1.0] * 500) == "▁" * 60
