"""TPU VMs by gcloud: request them, install this code, train on all of them, and again when they were taken back.

A name stands for a queued resource of one slice or several. Everything is a `gcloud compute tpus queued-resources`
command; what runs on the machines is a line of shell. Invariant: with `dry_run`, nothing is run and every command is
printed on a line of its own, quoted for a shell.
"""

import dataclasses
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from nova_jax.utils.errors import RunFailed, UserError

HOME = "nova_jax"  # Folder of the code on the machines, in the home folder.
LOG = "train.log"
_ARCHIVE = "nova_jax.tar.gz"
_NOT_COPIED = (".git", ".venv", "runs", "__pycache__", ".pytest_cache", ".ruff_cache")
_BOOT = "/proc/sys/kernel/random/boot_id"  # After a reboot, a process's number is another one's.
_RUNS = (
    f'[ ! -e train.exit ] && [ "$(cat train.boot 2>/dev/null)" = "$(cat {_BOOT})" ] && '
    "kill -0 $(cat train.pid 2>/dev/null) 2>/dev/null")
_GONE = ("SUSPENDED", "FAILED", "NONE")  # NONE: there is no such queued resource.
_TRIES = 3  # Starts on the same machines without a further step, before a failure is taken to be the run's own.
_UNREACHABLE = 900.0  # Seconds after which machines that are active and can't be reached are given back.
# Software of the machines by the start of their type; of others, the last one.
_VERSIONS = {
    "v6e": "v2-alpha-tpuv6e", "v5litepod": "v2-alpha-tpuv5-lite", "v5p": "v2-alpha-tpuv5", "": "tpu-ubuntu2204-base"}
_STEP = re.compile(r"\bstep (\d+)|\b(\d+)/\d+: loss ")  # In lines of the log.


@dataclasses.dataclass(frozen=True)
class Machines:
  """What to ask for."""

  name: str
  zone: str
  project: str = ""  # Empty: gcloud's own.
  accelerator: str = ""  # "v5litepod-256"; this and the next are needed to create.
  version: str = ""  # Of the machines' software, "v2-alpha-tpuv5-lite"; empty for that of the accelerator.
  slices: int = 1
  spot: bool = False
  reserved: bool = False
  valid_until: str = ""  # How long to wait in the queue: "6h".
  create_flags: Sequence[str] = ()  # Further flags of gcloud's create, "--service-account=NAME".
  ssh_flags: Sequence[str] = ()  # Further flags of its ssh and scp, "--tunnel-through-iap".


@dataclasses.dataclass(frozen=True)
class Code:
  """What to install."""

  source: str = "."  # Folder to copy, or the address of a git repository to clone.
  revision: str = ""  # Of the repository.
  setup: str = ""  # Line of shell to run first on each machine, to mount a shared folder for example.


class Gcloud:
  """Runs or prints the commands for some machines."""

  def __init__(self, machines: Machines, dry_run: bool = False):
    self.machines, self.dry_run = machines, dry_run
    if not dry_run and not shutil.which("gcloud"):
      raise UserError("gcloud is not installed; see https://cloud.google.com/sdk/docs/install, or add --dry_run")

  def create(self) -> None:
    """Put a request for the machines into the queue."""
    m = self.machines
    if not m.accelerator:
      raise UserError("--type: expected that of the TPU, such as v5litepod-256")
    version = m.version or next(name for start, name in _VERSIONS.items() if m.accelerator.startswith(start))
    if m.slices < 1 or (m.spot and m.reserved):
      raise UserError(f"expected --slices of 1 or more (got {m.slices}), and --spot or --reserved but not both")
    nodes = [f"--node-id={m.name}"] if m.slices == 1 else [f"--node-count={m.slices}", f"--node-prefix={m.name}"]
    options = ["--spot"] * m.spot + ["--reserved"] * m.reserved
    options += [f"--valid-until-duration={m.valid_until}"] if m.valid_until else []
    what = [f"--accelerator-type={m.accelerator}", f"--runtime-version={version}"]
    try:
      self._call("create", m.name, *what, *nodes, *options, *m.create_flags)
    except OSError as error:  # Asking again would not help.
      raise UserError(f"{error}; see above what gcloud says") from None

  def delete(self) -> None:
    """Give the machines back, and remove the request."""
    self._call("delete", self.machines.name, "--force", "--quiet")

  def state(self) -> str:
    """Return the state of the request, "ACTIVE" or another one; "NONE" if there is no such request.

    Raises:
      OSError: gcloud can't tell.
    """
    command = self._command("describe", self.machines.name, "--format=value(state.state)")
    if self.dry_run:
      print(shlex.join(command))
      return "ACTIVE, perhaps"
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode and "NOT_FOUND" not in done.stderr:
      raise OSError(f"gcloud can't describe {self.machines.name}: {' '.join(done.stderr.split())}")
    return "NONE" if done.returncode else done.stdout.strip() or "UNKNOWN"

  def install(self, code: Code) -> None:
    """Bring the code and what it needs onto all machines."""
    if "://" in code.source or code.source.startswith("git@"):
      fetch = f"rm -rf {HOME} && git clone -q {shlex.quote(code.source)} {HOME}"
      if code.revision:
        fetch += f" && git -C {HOME} checkout -q {shlex.quote(code.revision)}"
    else:
      if code.revision:
        raise UserError("--revision: only of a git repository; --source names a folder")
      if not (Path(code.source) / "pyproject.toml").is_file():
        raise UserError(f"--source {code.source}: expected the folder of this code, or the address of a repository")
      excluded = [f"--exclude={name}" for name in (*_NOT_COPIED, _ARCHIVE)]
      self._run(["tar", "-czf", _ARCHIVE, *excluded, "-C", code.source, "."])
      self._call(
          "scp", _ARCHIVE, f"{self.machines.name}:", "--node=all", "--worker=all", "--quiet", *self.machines.ssh_flags)
      fetch = f"mkdir -p {HOME} && tar -xzf {_ARCHIVE} -C {HOME}"
    apt = "sudo apt-get -o DPkg::Lock::Timeout=600 -q"  # A first boot updates itself meanwhile.
    python = f"{{ command -v python3.11 || {{ {apt} update && {apt} -y install python3.11-venv; }}; }}"
    packages = (
        ".venv/bin/pip install -q uv && "
        ".venv/bin/uv pip install -q --python .venv/bin/python -c constraints.txt -e .[tpu,gcs]")
    lines = [code.setup] if code.setup else []
    self.ssh(" && ".join([*lines, fetch, python, f"cd {HOME}", "python3.11 -m venv .venv", packages]))

  def start(self, arguments: Sequence[str]) -> None:
    """Start `launch.train` with these arguments on all machines, in the background."""
    train = shlex.join([".venv/bin/python", "-m", "launch.train", "--coordinator=auto", *arguments])
    background = f"{train} < /dev/null >> {LOG} 2>&1; echo $? > train.exit"
    free = f"{{ ! {{ {_RUNS}; }} || {{ echo it runs already >&2; exit 1; }}; }}"
    detached = f"setsid nohup bash -c {shlex.quote(background)} > /dev/null 2>&1 < /dev/null"
    fresh = f"rm -f train.exit && cat {_BOOT} > train.boot"
    self.ssh(f"cd {HOME} && {free} && {fresh} && {{ {detached} & echo $! > train.pid; }}")

  def stop(self) -> None:
    """Ask the run to save a checkpoint and to stop; one process tells the others."""
    self.ssh(f"cd {HOME} && {_RUNS} && pkill -TERM -P $(cat train.pid)", everywhere=False)

  def log(self) -> None:
    """Follow the log of process 0."""
    self.ssh(f"tail -n 100 -F {HOME}/{LOG}", everywhere=False)

  def ssh(self, line: str, everywhere: bool = True) -> None:
    """Run a line of shell on all machines, or on the first one."""
    self._run(self._ssh(line, "all" if everywhere else "0"))

  def runs(self) -> list[tuple[str, str]]:
    """Return of each machine what its process does, and the log's last line.

    What it does is "running", "nothing", or the exit code.

    Raises:
      OSError: a machine can't be reached.
    """
    what = f"if {_RUNS}; then echo running; else cat train.exit 2>/dev/null || echo nothing; fi"
    line = f'cd {HOME} 2>/dev/null; echo "nova $({what}) $(tail -n 1 {LOG} 2>/dev/null)"'
    command = self._ssh(line, "all")
    if self.dry_run:
      print(shlex.join(command))
      return []
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    found = [text.split(" ", 2) for text in done.stdout.splitlines() if text.startswith("nova ")]
    if done.returncode or not found:
      raise OSError(f"gcloud can't reach all machines of {self.machines.name}: {' '.join(done.stderr.split())}")
    return [(parts[1], parts[2] if len(parts) > 2 else "") for parts in found]

  def watch(self, code: Code, arguments: Sequence[str], seconds: float) -> None:
    """Keep the run going until it is done: create, install, start, and all of it again after a preemption.

    Raises:
      UserError: the run ended with bad input.
      RunFailed: it failed again and again at the same step, on the same machines.
    """
    if self.dry_run:
      print("# each round:")
      self.state()
      self.runs()
      print("# if the machines are gone:")
      self.delete()
      self.create()
      print("# if nothing runs on them:")
      self.install(code)
      self.start(arguments)
      return
    starts, furthest, installed, reached = 0, 0, False, time.monotonic()
    while True:
      try:
        state = self.state()
        if state != "ACTIVE":
          reached = time.monotonic()
        elif time.monotonic() - reached > _UNREACHABLE:
          state = "not to be reached"
        if state in (*_GONE, "not to be reached"):
          self._say(f"is {state}: requesting it")
          if state != "NONE":
            self.delete()
          self.create()
          starts, installed, reached = 0, False, time.monotonic()
        elif state != "ACTIVE":
          self._say(f"is {state}")
        else:
          runs = self.runs()
          reached = time.monotonic()
          if self._is_done(runs):
            return
          step = max(map(_step, runs))
          if step > furthest:  # Machines that are lost now and then are no failure of the run.
            starts, furthest = 0, step
          if not any(what == "running" for what, _ in runs):
            if starts >= _TRIES:
              raise RunFailed(f"{self.machines.name} failed {starts} times: {runs[0][1]}")
            if runs[0][0] != "nothing":
              self._say(f"ended: {runs[0][1]}")
            if not installed:
              self.install(code)
            installed = False  # A machine that was repaired has no code, and this fails.
            self.start(arguments)
            starts, installed = starts + 1, True
      except OSError as error:  # The network, or machines that go away just now.
        self._say(str(error))
      time.sleep(seconds)

  def _is_done(self, runs: list[tuple[str, str]]) -> bool:
    """Return whether the run has come to its end.

    Raises:
      UserError: with bad input.
    """
    if any(what == "2" for what, _ in runs):
      raise UserError(next(line for what, line in runs if what == "2").removeprefix("error: "))
    return all(what == "0" for what, _ in runs) and any(line.startswith("done: ") for _, line in runs)

  def _say(self, text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {self.machines.name} {text}", flush=True)

  def _ssh(self, line: str, which: str) -> list[str]:
    # Without --quiet, gcloud asks for a passphrase where there is no key yet.
    return self._command(
        "ssh", self.machines.name, f"--node={which}", f"--worker={which}", "--quiet", *self.machines.ssh_flags,
        f"--command={line}")

  def _command(self, verb: str, *arguments: str) -> list[str]:
    project = [f"--project={self.machines.project}"] if self.machines.project else []
    return ["gcloud", "compute", "tpus", "queued-resources", verb, *arguments, f"--zone={self.machines.zone}", *project]

  def _call(self, verb: str, *arguments: str) -> None:
    self._run(self._command(verb, *arguments))

  def _run(self, command: list[str]) -> None:
    print(shlex.join(command), flush=True)
    if self.dry_run:
      return
    code = subprocess.run(command).returncode
    if code:
      raise OSError(f"{shlex.join(command[:5])} ended with exit code {code}")


def _step(run: tuple[str, str]) -> int:
  """Return the step that a log's last line speaks of, or 0."""
  match = _STEP.search(run[1])
  return int(match[1] or match[2]) if match else 0
