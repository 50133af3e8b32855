import errno
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from absl import flags
from commands import run
from ml_collections import config_flags

from nova_jax.cli import endings, entry
from nova_jax.config import Experiment
from nova_jax.utils.errors import BAD_INPUT, FAILED, RunFailed, UserError, exit_code, shorten
from nova_jax.utils.fields import from_dict
from nova_jax.utils.files import read_json

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "--config=configs/digits.py"


def define_flags(values):
  config_flags.DEFINE_config_file("config", flag_values=values)
  flags.DEFINE_string("do", "pass", "", flag_values=values)


def main(args):
  from_dict(Experiment, args.config)
  exec(args.do)


# It does what a flag says, without the imports of a real command.
COMMAND = entry.Command(main, define_flags, required=("config",))


@pytest.fixture(scope="module")
def bad_configs(tmp_path_factory):
  folder = tmp_path_factory.mktemp("configs")
  (folder / "syntax.py").write_text("def get_config(:\n", encoding="utf-8")
  (folder / "name.py").write_text("def get_config():\n  return nowhere\n", encoding="utf-8")
  (folder / "run.json").write_text("{}", encoding="utf-8")
  (folder / "empty.py").write_text("", encoding="utf-8")
  (folder / "value.py").write_text(
      "def get_config():\n  raise ValueError('model.width: too\\nsmall')\n", encoding="utf-8")
  return folder


@pytest.mark.parametrize("arguments, words", [
    (["--config=configs/none.py"], ["configs/none.py", "no file"]),
    ([], ["--config"]),
    ([CONFIG, "--wrkdir=x"], ["wrkdir"]),
    ([CONFIG, "--config.train.stepz=3"], ["stepz", "steps"]),
    ([CONFIG, "--config.trainn.steps=3"], ["trainn", "train"]),
    ([CONFIG, "--config.train.steps=many"], ["train.steps", "many"]),
    ([CONFIG, "--config.model.width=130"], ["model.width", "130"]),
    ([CONFIG, "stray"], ["stray"]),
    (["--config={}/syntax.py"], ["syntax.py:1"]),
    (["--config={}/empty.py"], ["error: --config: ", "/empty.py has no get_config()"]),
    (["--config={}/value.py"], ["error: model.width: too small\n"]),
    (["--config", "configs/digits.py:v5e"], ["error: --config: configs/digits.py takes nothing behind a colon\n"]),
    (["--config=configs/nova_d48w768_sdxl1024.py:v7"], ["error: --config=FILE:CHIP: 'v7' is not a known chip"]),
    (["--config={}/name.py"], ["name.py:2: NameError: name 'nowhere' is not defined"]),
    (["--config={}/run.json"], ["run.json is JSON"]),
    (["--config="], ["--config"]),
    ([CONFIG, "--config.train.zzz=3"], ["error: --config.train.zzz: zzz is not a field of train; known: acc"]),
    ([CONFIG, "--config.train.stages.0.name=a"], ["--config.train.stages.0.name: ", "element is train.stages[0]"]),
    ([CONFIG, "--config.train.steps.x=1"], ["error: --config.train.steps.x: train.steps is neither a list nor"]),
    ([CONFIG, "--config.train=1"], ["error: --config.train: it is a part with fields"]),
    ([CONFIG, "--do=raise UserError('two\\nlines')"], ["error: two lines"]),
])
def test_bad_input_gives_one_line_and_exit_code_2(arguments, words, bad_configs):
  result = run(COMMAND, *(argument.format(bad_configs) for argument in arguments))
  assert result.returncode == 2, result.stderr
  assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
  assert all(word in result.stderr for word in words), result.stderr


@pytest.mark.parametrize("arguments, error", [
    (("sweep", "--config=guidnce", "--output={}"), "of a sweep that comes with nova_jax; did you mean 'guidance'?"),
    (("sweep", "--config=guidance", "--output={}/out", "--results=/dev/null"), "/dev/null is a file; expected"),
    (("train", "--config=configs/digts.py", "--workdir={}"), "comes with nova_jax; did you mean 'digits'?"),
    (("sample", "--checkpoint=digts", "--prompt=a", "--output={}", "--compilation_cache=off"),
     "a model that comes with nova_jax; did you mean 'digits'?"),
    (("score", "--benchmark=vbench", "--results={}"), "error: --results: "),
    (("score", "--benchmark=geneval", "--results={}/none"), "error: --results: "),
    (("score", "--benchmark=prediction", "--real={}", "--generated={}", "--context_frames=1"), "error: --real: "),
    (("status", "--workdir={}"), "error: --workdir: "), (("status", "{}"), "error: /")])
def test_a_refusal_names_the_flag_and_what_was_meant(arguments, error, tmp_path):
  done = run(*(argument.format(tmp_path) for argument in arguments))
  assert done.returncode == 2 and done.stderr.count("\n") == 1 and error in done.stderr


def test_sweeps_have_names():
  done = run("sweep", "--config=guidance", "--output=/dev/null/x")
  assert done.returncode == 2 and "--output" in done.stderr  # The config was found.


def test_other_endings():
  assert run(COMMAND, CONFIG).returncode == 0
  bug = run(COMMAND, CONFIG, "--do=raise RuntimeError('a bug')")
  said = re.fullmatch(
      r"error: RuntimeError: a bug; this is a bug of nova_jax, please report it \(traceback: (.+)\)\n", bug.stderr)
  assert bug.returncode == 1 and "Traceback" in Path(said[1]).read_text(encoding="utf-8")
  Path(said[1]).unlink()
  with pytest.raises(ValueError, match="where"):
    run(COMMAND, CONFIG, "--verbosity=1", "--do=raise ValueError('where?')")
  diverged = run(COMMAND, CONFIG, "--do=raise FloatingPointError('step 3: loss is nan')")
  assert diverged.returncode == 1 and diverged.stderr.startswith("error: step 3: loss is nan (traceback: ")


def test_commands_follow_one_another_with_flags_of_their_own():
  assert run(COMMAND, CONFIG, "--config.train.steps=7", "--do=args.config.train.steps == 7 or 1 / 0").returncode == 0
  assert run(COMMAND, CONFIG, "--do=args.config.train.steps != 7 or 1 / 0").returncode == 0
  assert "--config is needed" in run(COMMAND).stderr
  assert run("convert", "--source=x").stderr == "error: --target is needed; --help says what it means\n"
  assert "--do is not a flag" in run("train", "--do=x").stderr


def test_shorten():
  assert shorten(KeyError("a  key\n is missing")) == "a key is missing"
  assert shorten(ValueError()) == "ValueError"
  for names in ((), ("clip.mp4",)):
    text = shorten(OSError(errno.EMFILE, "Too many open files", *names))
    assert text.endswith("too many files are open; allow more of them with `ulimit -n`")
    assert text.startswith("clip.mp4: ") == bool(names)
  long = shorten(ValueError(f"a.json: {'x' * 100_000}: remove it"))
  assert len(long) <= 1500 and long.startswith("a.json: ") and long.endswith(": remove it")


@pytest.mark.parametrize("error, code", [
    (FileNotFoundError(errno.ENOENT, "No such file", "x"), BAD_INPUT), (OSError(errno.EROFS, "Read-only"), BAD_INPUT),
    (PermissionError(errno.EACCES, "Denied"), BAD_INPUT), (NotADirectoryError(errno.ENOTDIR, ""), BAD_INPUT),
    (OSError(errno.ESTALE, "Stale file handle"), FAILED), (OSError(errno.EIO, "Input/output error"), FAILED),
    (OSError(errno.ENOSPC, "No space left"), FAILED), (ConnectionResetError(errno.ECONNRESET, "Reset"), FAILED),
    (OSError("gcloud can't say"), FAILED), (TimeoutError("late"), FAILED), (RunFailed("again"), FAILED),
    (ValueError("Failed to open: No such file or directory [os_error_code='2']"), BAD_INPUT),
    (ValueError("Failed to write: No space left on device [os_error_code='28']"), FAILED),
    (UserError("bad"), BAD_INPUT), (ValueError("a bug"), None), (RuntimeError("a bug"), None)], ids=str)
def test_exit_codes(error, code):
  assert exit_code(error) == code


@pytest.mark.parametrize("number, code", [(errno.ESTALE, FAILED), (errno.EISDIR, BAD_INPUT)])
def test_exit_codes_of_errors_that_come_from_others(number, code, tmp_path, monkeypatch):
  def fail(path, mode):
    raise OSError(number, os.strerror(number))

  (tmp_path / "a.json").write_text("{}", encoding="utf-8")
  monkeypatch.setattr(Path, "open", fail)
  with pytest.raises(ValueError, match=os.strerror(number)) as caught:
    read_json(tmp_path / "a.json")
  assert exit_code(caught.value) == code


@pytest.mark.parametrize("text, do, code, words", [
    ('{"x": 1}', "print(task['x'])", 0, "1"),
    ('{"x": 1}', "raise errors.UserError('no x')", BAD_INPUT, "error: no x"),
    ("{", "pass", FAILED, "Expecting property name"), (None, "pass", BAD_INPUT, "No such file"),
    ("", "pass", BAD_INPUT, "error: expected one argument"), ("{}", "raise KeyboardInterrupt", 130, ""),
    ("{}", "1 / 0", 1, "ZeroDivisionError")])
def test_tasks_end_as_launchers_do(tmp_path, text, do, code, words):
  path = tmp_path / "task.json"
  if text:
    path.write_text(text, encoding="utf-8")
  script = f"from nova_jax import cli\nfrom nova_jax.utils import errors\ndef main(task):\n  {do}\ncli.run_child(main)"
  done = subprocess.run(
      [sys.executable, "-c", script, *([] if text == "" else [str(path)])], capture_output=True, text=True,
      env=os.environ | {"PYTHONPATH": str(ROOT)}, encoding="utf-8")
  assert done.returncode == code and words in done.stdout + done.stderr
  assert code in (0, 1, 130) or len(done.stderr.splitlines()) == 1


# A terminal's Ctrl-C also where the tests run in the background of a shell, which has their processes ignore it.
HEEDS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def python(script, **options):
  return subprocess.Popen(
      [sys.executable, "-c", HEEDS + script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
      env=os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("env", {}), **options)


def end(process):
  out, errors = process.communicate()
  return process.returncode, out, errors


CLI = "import errno, os, signal, sys, time\nfrom nova_jax import cli\n"


def test_an_interrupt_during_imports_is_quiet():
  # As `python -m launch.x` has it when it imports the package.
  script = "import os, signal, sys; sys.argv[0] = '-m'; import launch; os.kill(os.getpid(), signal.SIGINT); import jax"
  assert end(python(script)) == (130, "", "")


def test_workers_leave_interrupts_to_the_command():
  script = "import os, signal; import launch; os.kill(os.getpid(), signal.SIGINT); print('goes on')"
  process = subprocess.run(
      [sys.executable, "-c", HEEDS + script, "--multiprocessing-fork"], capture_output=True, cwd=ROOT, encoding="utf-8")
  assert (process.returncode, process.stdout) == (0, "goes on\n")


def test_an_interrupt_has_its_own_code():
  assert end(python(CLI + "cli.Command(lambda args: exec('raise KeyboardInterrupt')).run()")) == (130, "", "")


def test_a_second_interrupt_ends_at_once():
  script = CLI + """
def main(args):
  try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
  finally:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
cli.Command(main).run()"""
  assert end(python(script)) == (130, "", "")


@pytest.mark.parametrize("line", ["print('x' * 100000)", "print('x', flush=True)", "raise BrokenPipeError(32, 'x')"])
def test_a_reader_that_goes_away_ends_it_quietly(line):
  reader, writer = os.pipe()
  os.close(reader)
  process = subprocess.Popen(
      [sys.executable, "-c", f"{CLI}cli.Command(lambda args: exec({line!r})).run()"], stdout=writer,
      stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, encoding="utf-8")
  os.close(writer)
  assert (process.communicate()[1], process.returncode) == ("", 141)


def test_a_broken_pipe_of_another_program_is_a_failure():
  script = f"{CLI}cli.Command(lambda args: exec(\"raise BrokenPipeError(32, 'Broken pipe')\")).run()"
  code, out, errors = end(python(script))
  assert (code, out) == (FAILED, "") and errors.startswith("error: Broken pipe (traceback: ")


@pytest.mark.parametrize("line, unbuffered", [
    ("print('x')", ""), ("print('x', flush=True)", ""), ("print('x')", "1")])
def test_a_full_output_is_said_in_one_line(line, unbuffered):
  with open("/dev/full", "w", encoding="utf-8") as full:
    process = subprocess.Popen(
        [sys.executable, "-c", f"{CLI}cli.Command(lambda args: exec({line!r})).run()"], stdout=full,
        stderr=subprocess.PIPE, text=True, cwd=ROOT, encoding="utf-8",
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered})
    assert process.communicate()[1] == "error: standard output: No space left on device\n"
  assert process.returncode == FAILED


def test_what_a_locale_has_no_letters_for_is_escaped():
  script = CLI + "cli.Command(lambda args: print('caf\\u00e9')).run()"
  assert end(python(script, env={"PYTHONIOENCODING": "ascii"})) == (0, "caf\\xe9\n", "")


def test_letters_of_another_locale_are_refused():
  code, out, errors = end(subprocess.Popen(
      [sys.executable, "-c", f"{CLI}cli.Command(lambda args, words: print('run'), words=True).run()", "caf\u00e9"],
      cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {
          "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, encoding="utf-8"))
  assert (code, out) == (BAD_INPUT, "") and "set LC_ALL=C.UTF-8 or PYTHONUTF8=1" in errors


def test_no_memory_is_said_in_one_line():
  class JaxRuntimeError(RuntimeError):
    """As JAX's own."""

  full = JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\n allocating 17592186044416 bytes. " + "x" * 1000)
  assert exit_code(full) == FAILED and exit_code(MemoryError()) == FAILED
  assert shorten(full).startswith("out of memory: RESOURCE_EXHAUSTED: Out of memory allocating 17592186044416 bytes")
  assert len(shorten(full)) < 400 and "smaller" in shorten(MemoryError())
  assert exit_code(JaxRuntimeError("UNAVAILABLE: connection lost")) == FAILED
  assert exit_code(JaxRuntimeError("INTERNAL: a bug")) is None and exit_code(RuntimeError("ABORTED: x")) is None


def test_reads_that_end_after_another_failed_are_not_told():
  told = []
  hook = endings._without_other_reads(told.append)
  errors = [
      RuntimeError("Event loop is closed"), RuntimeError("another"),
      Exception("Encountered error while reading array index: (slice(0, 32, 1),)")]
  for error in errors:
    hook(types.SimpleNamespace(exc_value=error))
  assert [row.exc_value for row in told] == errors[1:2]
