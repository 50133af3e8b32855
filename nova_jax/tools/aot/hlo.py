"""Compiled programs read as text: computations, how often each runs, and what they move through memory.

XLA's text holds one computation after the other, `%name (…) -> … {`, of one instruction a line:
  %name = type opcode(operands), attributes
A loop's body runs as often as its condition's bound says. Invariant: what can't be read is an error, not a guess.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from nova_jax.utils.errors import UserError

_DTYPE_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](\{[^{}]*\})?")
_LINE = re.compile(r"^\s+(ROOT )?%?[^\s=]+ = ")
_END = re.compile(r"^\}(, execution_thread=\S+)?$")  # A thread is named where it isn't the main one.
_HEADER = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([^\s,()}]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
# Neither reads nor writes memory, or is counted where it starts.
_FREE = frozenset({
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while", "conditional", "call",
    "partition-id", "replica-id", "opt-barrier", "domain", "iota"})


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of an instruction's type."""

  dtype: str
  dims: tuple[int, ...]
  space: int  # Of memory: 0 is HBM.

  @property
  def size(self) -> int:
    return math.prod(self.dims)

  @property
  def bytes(self) -> int:
    digits = re.search(r"\d+", self.dtype)
    bits = _DTYPE_BITS[self.dtype] if self.dtype in _DTYPE_BITS else int(digits[0])
    return -(-self.size * bits // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line."""

  name: str
  type: str
  opcode: str
  operands: tuple[str, ...]
  attributes: str
  root: bool

  @functools.cached_property
  def arrays(self) -> tuple[Array, ...]:
    """The arrays that it makes."""
    return tuple(
        Array(dtype, tuple(int(size.removeprefix("<=")) for size in dims.split(",") if size), _space(layout))
        for dtype, dims, layout in _ARRAY.findall(self.type))

  @functools.cached_property
  def called(self) -> tuple[str, ...]:
    """The computations that it names."""
    branches = [name.strip().lstrip("%") for group in _BRANCHES.findall(self.attributes) for name in group.split(",")]
    return tuple(_CALLED.findall(self.attributes)) + tuple(branches)


@dataclasses.dataclass(frozen=True)
class Program:
  """A module: its computations, and which of them starts."""

  computations: Mapping[str, Sequence[Instruction]]
  entry: str

  def walk(self) -> Iterator[tuple[int, int, str]]:
    """Yield (times it runs in all, loops around it, name) for each computation but those inside instructions.

    Loops are counted as they were written: the compiler may run the first round of one ahead of it.
    """
    yield from self._walk(self.entry, 1, 0)

  def _walk(self, name: str, times: int, depth: int):
    yield times, depth, name
    for instruction in self.computations[name]:
      if instruction.opcode == "while":
        body = re.search(r"body=%?([^\s,]+)", instruction.attributes)[1]
        written = re.search(r'op_name="([^"]*)"', instruction.attributes)
        around = max(depth, written[1].count("while/body") if written else 0)
        yield from self._walk(body, times * self.trip_count(instruction), around + 1)
      elif instruction.opcode in ("call", "conditional"):
        for called in instruction.called:
          yield from self._walk(called, times, depth)

  def within(self, instruction: Instruction) -> Iterator[Instruction]:
    """Yield an instruction and all those of the computations fused into it."""
    yield instruction
    if instruction.opcode in ("fusion", "async-start", "custom-call"):
      for called in instruction.called:
        for inner in self.computations.get(called, ()):
          yield from self.within(inner)

  def trip_count(self, loop: Instruction) -> int:
    """Return how often a loop runs.

    Raises:
      ValueError: the text doesn't say.
    """
    known = re.search(r'known_trip_count\W+n\W+(\d+)', loop.attributes)
    if known:
      return int(known[1])
    condition = re.search(r"condition=%?([^\s,]+)", loop.attributes)[1]
    # A scan counts from 0 up to the one integer that its condition compares with.
    bounds = {
        int(inner.operands[0]) for instruction in self.computations[condition] for inner in self.within(instruction)
        if inner.opcode == "constant" and re.match(r"[su]\d+\[\]", inner.type)}
    if len(bounds) != 1:
      raise UserError(f"{loop.name}: its condition {condition} has the bounds {sorted(bounds)}, expected one")
    return bounds.pop()


def parse(text: str) -> Program:
  """Parse a compiled module's text."""
  computations: dict[str, list[str]] = {}
  entry, lines = "", None
  for line in text.splitlines():
    if lines is None:
      header = _HEADER.match(line)
      if header:
        lines = computations.setdefault(header[2], [])
        entry = header[2] if header[1] else entry
    elif _END.match(line):
      lines = None
    elif _LINE.match(line):
      lines.append(line)
    else:  # Attributes of kernels run over several lines.
      lines[-1] += line
  if not entry:
    raise UserError("the compiled program's text has no entry computation")
  return Program({name: tuple(map(_instruction, lines)) for name, lines in computations.items()}, entry)


def hbm_bytes(program: Program) -> float:
  """Return the bytes that all instructions read from and write to HBM, each run of a loop counted.

  A fusion that reads slices of an array, or writes one in place, moves the slices only.
  """
  total = 0.0
  for times, _, name in program.walk():
    types = {instruction.name: instruction for instruction in program.computations[name]}
    total += times * sum(_traffic(program, instruction, types) for instruction in types.values())
  return total


def _traffic(program: Program, instruction: Instruction, types: Mapping[str, Instruction]) -> int:
  opcode = instruction.opcode
  if opcode in _FREE or opcode.endswith("-done"):
    return 0
  if opcode.endswith("-start"):  # (destination, source, …): both ends of a copy, of the destination's size.
    ends = [array for array in instruction.arrays if array.dims][:2]
    return sum(min(end.bytes for end in ends) for end in ends if end.space == 0) if ends else 0
  if opcode == "dynamic-slice":
    return 2 * _hbm(instruction)
  if opcode == "dynamic-update-slice":
    return 2 * _hbm(types.get(instruction.operands[1]))
  written, read = _hbm(instruction), [_hbm(types.get(operand)) for operand in instruction.operands]
  if opcode == "fusion":
    inner = {line.name: line for line in program.computations[instruction.called[0]]}
    for line in inner.values():
      if line.opcode == "parameter":
        read[int(line.operands[0])] = min(read[int(line.operands[0])], _read(line, inner))
      if line.opcode == "dynamic-update-slice" and (line.root or _feeds_root(line, inner)):
        written = max(written - sum(array.bytes for array in line.arrays), 0) + _hbm(inner.get(line.operands[1]))
  return written + sum(read)


def _read(parameter: Instruction, inner: Mapping[str, Instruction]) -> int:
  """Return the bytes that a fused computation reads of a parameter."""
  total = 0
  for line in inner.values():
    if parameter.name not in line.operands:
      continue
    if line.opcode == "dynamic-slice" and line.operands[0] == parameter.name:
      total += sum(array.bytes for array in line.arrays)
    elif line.opcode == "bitcast":
      total += _read(line, inner)
    elif not (line.opcode == "dynamic-update-slice" and line.operands[0] == parameter.name):
      return sum(array.bytes for array in parameter.arrays)
  return total


def _feeds_root(line: Instruction, inner: Mapping[str, Instruction]) -> bool:
  return any(other.root and other.opcode in ("tuple", "bitcast") and line.name in other.operands
             for other in inner.values())


def _hbm(instruction: Instruction | None) -> int:
  return sum(array.bytes for array in instruction.arrays if array.space == 0) if instruction else 0


def _space(layout: str) -> int:
  found = re.search(r"S\((\d+)\)", layout)
  return int(found[1]) if found else 0


def _instruction(line: str) -> Instruction:
  left, right = line.split(" = ", 1)
  root = left.strip().startswith("ROOT ")
  end = _closing(right, 0) if right.startswith("(") else right.index(" ")
  kind, rest = right[:end], right[end:].strip()
  start = rest.index("(")
  end = _closing(rest, start)
  inside = rest[start + 1:end - 1]
  # Operands are names, at times with their types before them; of a constant or parameter it is the value.
  names = re.findall(r"%([^\s,()]+)", inside) or [inside.strip()]
  return Instruction(
      left.strip().removeprefix("ROOT ").lstrip("%"), kind, rest[:start], tuple(names), rest[end:], root)


def _closing(text: str, start: int) -> int:
  """Return where the bracket that opens at `start` has closed."""
  depth = 0
  for place in range(start, len(text)):
    depth += (text[place] == "(") - (text[place] == ")")
    if depth == 0:
      return place + 1
  raise UserError(f"no closing bracket in {text[:80]!r}")
