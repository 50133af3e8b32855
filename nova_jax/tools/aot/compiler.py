"""Compiles programs for TPUs, completely or up to their plan.

The plan is all that the compiler decides before it writes machine code: layouts, fusions, collectives and memory.
Machine code takes most of its time, and it has no switch to stop before that. But it writes the plan to files, so a
process of its own compiles, which is ended as soon as they are complete.
"""

import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import re
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import jax

from nova_jax.tools.aot.topology import prepare_environment
from nova_jax.utils.errors import UserError

_POLL_SECONDS = 0.2
_HOST = 5  # Number of the host's memory in the compiler's tables.
_DUMP = MappingProxyType({"xla_dump_hlo_as_text": True})
OWN_OPTIONS = (*_DUMP, "xla_dump_to")  # Those by which the plan is found.


@dataclasses.dataclass(frozen=True)
class Options:
  """How to compile.

  Attributes:
    xla: options of the compiler and their values.
    machine_code: whether to write machine code, too.
  """

  xla: Mapping[str, str] = dataclasses.field(default_factory=dict)
  machine_code: bool = True


DEFAULT = Options()


class CompileError(Exception):
  """The compiler refuses a program."""


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A compiled program.

  Attributes:
    text: its text.
    arguments, outputs, temporaries, code, host: bytes per device; outputs without those that replace an argument.
    flops: XLA's count of the floating-point operations of all devices together.
    shardings: of arguments and outputs; None if only the plan was made.
  """

  text: str
  arguments: int
  outputs: int
  temporaries: int
  flops: float
  code: int = 0
  host: int = 0
  shardings: tuple[list[jax.sharding.Sharding], list[jax.sharding.Sharding]] | None = None


def compile_program(lowered: jax.stages.Lowered, num_devices: int, xla: Mapping[str, str]) -> Compiled:
  """Compile a program completely.

  Args:
    lowered: program.
    num_devices: number of devices that run it.
    xla: options of the compiler.

  Raises:
    CompileError: the compiler refuses it.
    UserError: the compiler does not know an option, or its value.
  """
  with tempfile.TemporaryDirectory() as folder:
    try:
      compiled = lowered.compile(compiler_options={**_DUMP, "xla_dump_to": folder, **xla})
    except jax.errors.JaxRuntimeError as error:
      raise _refusal(str(error)) from error
    # The compiler writes the text, since libtpu has instructions that JAX can't print.
    written = list(Path(folder).glob("*.after_codegen.txt"))
    text = written[0].read_text(encoding="utf-8") if len(written) == 1 else compiled.as_text()
  size = compiled.memory_analysis()
  return Compiled(
      text, size.argument_size_in_bytes, size.output_size_in_bytes - size.alias_size_in_bytes,
      size.temp_size_in_bytes, compiled.cost_analysis()["flops"] * num_devices, size.generated_code_size_in_bytes,
      size.host_temp_size_in_bytes,
      (jax.tree.leaves(compiled.input_shardings[0]), jax.tree.leaves(compiled.output_shardings)))


def plan_program(lower: Callable[[], jax.stages.Lowered], xla: Mapping[str, str]) -> Compiled:
  """Compile a program up to its plan, in a process of its own.

  Args:
    lower: function that returns the program; it must be possible to pickle it.
    xla: options of the compiler.

  Raises:
    CompileError: the compiler refuses it.
    UserError: the compiler does not know an option, or its value.
  """
  # A server that has imported all modules, but has no device, forks the processes.
  server = multiprocessing.get_context("forkserver")
  server.set_forkserver_preload(["nova_jax.tools.aot.programs"])
  with tempfile.TemporaryDirectory() as folder:
    here, there = server.Pipe(duplex=False)
    process = server.Process(target=_compile_into, args=(folder, lower, dict(xla), there), daemon=True)
    process.start()
    there.close()
    try:
      flops, has_compiled = _receive(here, process), False
      while (plan := _read_plan(Path(folder), flops)) is None:
        if has_compiled:
          raise CompileError("the compiler wrote no plan of the program")
        if here.poll(_POLL_SECONDS):
          _receive(here, process)  # An error, or that it has compiled; then the plan is there.
          has_compiled = True
    finally:
      process.kill()
      process.join()
      here.close()
  return plan


def _receive(connection, process) -> float:
  """Return the number that the process sends, or raise its error."""
  try:
    answer = connection.recv()
  except EOFError:
    process.join()
    raise CompileError(f"the compiler's process ended with exit code {process.exitcode}") from None
  if isinstance(answer, str):
    raise _refusal(answer)
  return answer


def _refusal(message: str) -> Exception:
  """Return the error that the compiler's message stands for."""
  if unknown := re.search(r"No such compile option: '(\w+)'", message):
    return UserError(f"--xla: the compiler knows no option {unknown[1]!r}")
  if re.search(r"Failed to parse '.*' into flag|While setting option", message):
    return UserError(f"--xla: {message.splitlines()[0].partition(': ')[2]}")
  return CompileError(message)


def _compile_into(folder: str, lower: Callable[[], jax.stages.Lowered], xla: Mapping[str, str], connection) -> None:
  """Compile a program, so that its plan is written into a folder; runs in the process of its own."""
  threading.Thread(target=_end_with_parent, daemon=True).start()
  prepare_environment()
  try:
    lowered = lower()
    connection.send(float((lowered.cost_analysis() or {}).get("flops", 0)))
    lowered.compile(compiler_options={**_DUMP, "xla_dump_to": folder, **xla})
    connection.send(0.0)
  except Exception as error:  # The other process raises it.
    connection.send(str(error))
  threading.Event().wait()  # Until it is ended.


def _end_with_parent() -> None:
  """End this process when the one that started it has ended, in whatever way."""
  if (parent := multiprocessing.parent_process()) is not None:
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _read_plan(folder: Path, flops: float) -> Compiled | None:
  """Return the plan that the compiler wrote into a folder; None while it is incomplete."""
  texts = list(folder.glob("*after_optimizations_after_buffer_assignment.txt"))
  if not texts:
    return None
  text = texts[0].read_text(encoding="utf-8")
  # The entry is the last computation, and its bracket ends the file.
  if "\nENTRY " not in text or not text.rstrip(" \n").endswith("\n}"):
    return None
  (assignment,) = folder.glob("*after_optimizations-buffer-assignment.txt")  # Written before.
  return Compiled(text, flops=flops, **plan_memory(assignment.read_text(encoding="utf-8")))


def plan_memory(assignment: str) -> dict[str, int]:
  """Return the bytes of arguments, outputs and temporaries in the compiler's table of buffers; other memories aside."""
  sizes = {"arguments": 0, "outputs": 0, "temporaries": 0, "host": 0}
  for size, rest in re.findall(r"^allocation \d+: size (\d+), (.*)$", assignment, re.MULTILINE):
    color = re.search(r"\bcolor (\d+)\b", rest)
    if color:
      sizes["host"] += int(size) if int(color[1]) == _HOST else 0
      continue
    kind = ("arguments" if rest.startswith("parameter") else "outputs" if "maybe-live-out" in rest
            else "temporaries" if "preallocated-temp" in rest or "constant" in rest else None)
    if kind:
      sizes[kind] += int(size)
  return sizes
