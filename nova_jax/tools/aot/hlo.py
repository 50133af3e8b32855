"""Parses the text of compiled programs: computations, how often each runs, and its memory traffic.

XLA's text consists of computations, `%name (…) -> … {`, with one instruction per line:
  %name = type opcode(operands), attributes
The bound in a loop's condition is the number of its runs. Invariant: unreadable text is an error and never guessed.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

_DTYPE_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](\{[^{}]*\})?")
_LINE = re.compile(r"^\s+(ROOT )?%?[^\s=]+ = ")
_END = re.compile(r"^\}(, execution_thread=\S+)?$")  # Threads other than the main one are named.
_HEADER = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([^\s,()}]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
# Instructions that don't use memory, or are counted where they start.
_FREE = frozenset({
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while", "conditional", "call",
    "partition-id", "replica-id", "opt-barrier", "domain", "iota"})
# Instructions that, within a fusion, give a value another name or layout.
_RENAMES = frozenset({"bitcast", "copy"})
# Custom calls that don't either: they reserve memory, or name what is there already.
_FREE_TARGETS = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast|AssumeGatherIndicesInBound)"')


@dataclasses.dataclass(frozen=True)
class Array:
  """One array of an instruction's type."""

  dtype: str
  dims: tuple[int, ...]
  space: int  # Memory space; 0 is HBM.

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
  """One instruction."""

  name: str
  type: str
  opcode: str
  operands: tuple[str, ...]
  attributes: str
  root: bool

  @functools.cached_property
  def arrays(self) -> tuple[Array, ...]:
    """Arrays of its result."""
    return tuple(
        Array(dtype, tuple(int(size.removeprefix("<=")) for size in dims.split(",") if size), _space(layout))
        for dtype, dims, layout in _ARRAY.findall(self.type))

  @functools.cached_property
  def called(self) -> tuple[str, ...]:
    """Names of the computations that it calls."""
    branches = [name.strip().lstrip("%") for group in _BRANCHES.findall(self.attributes) for name in group.split(",")]
    return tuple(_CALLED.findall(self.attributes)) + tuple(branches)


@dataclasses.dataclass(frozen=True)
class Program:
  """A module: its computations and the name of its entry."""

  computations: Mapping[str, Sequence[Instruction]]
  entry: str

  def walk(self) -> Iterator[tuple[int, int, str]]:
    """Yield (total number of runs, number of loops around it, name) for each computation outside instructions.

    Loops are counted as they were written, although the compiler may move the first iteration in front of a loop.
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
    """Yield an instruction and all instructions of the computations fused into it, or that another core runs for it."""
    yield instruction
    if instruction.opcode in ("fusion", "async-start", "custom-call"):
      for called in instruction.called:
        for inner in self.computations.get(called, ()):
          yield from self.within(inner)
          if inner.opcode == "call":
            for name in inner.called:
              for line in self.computations[name]:
                yield from self.within(line)

  def trip_count(self, loop: Instruction) -> int:
    """Return the number of iterations of a loop.

    Raises:
      ValueError: the text does not show it.
    """
    known = re.search(r'known_trip_count\W+n\W+(\d+)', loop.attributes)
    if known:
      return int(known[1])
    condition = re.search(r"condition=%?([^\s,]+)", loop.attributes)[1]
    # A scan counts from 0 to the only integer in its condition.
    bounds = {
        int(inner.operands[0]) for instruction in self.computations[condition] for inner in self.within(instruction)
        if inner.opcode == "constant" and re.match(r"[su]\d+\[\]", inner.type)}
    if len(bounds) != 1:
      raise ValueError(f"{loop.name}: its condition {condition} has the bounds {sorted(bounds)}, expected one")
    return bounds.pop()


def parse(text: str) -> Program:
  """Parse the text of a compiled module."""
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
    else:  # Attributes of kernels extend over several lines.
      lines[-1] += line
  if not entry:
    raise ValueError("the compiled program's text has no entry computation")
  return Program({name: tuple(map(_instruction, lines)) for name, lines in computations.items()}, entry)


def hbm_bytes(program: Program) -> float:
  """Return the bytes that all instructions read from and write to HBM, counting every iteration of loops.

  A fusion that reads slices of an array, or writes a slice in place, moves only the slices.
  """
  return float(sum(times * _moved(program, name) for times, _, name in program.walk()))


def _moved(program: Program, computation: str) -> int:
  """Return the bytes that one run of a computation moves, without those of its loops."""
  types = {instruction.name: instruction for instruction in program.computations[computation]}
  return sum(_traffic(program, instruction, types) for instruction in types.values())


def _traffic(program: Program, instruction: Instruction, types: Mapping[str, Instruction]) -> int:
  opcode = instruction.opcode
  if opcode in _FREE or opcode.endswith("-done"):
    return 0
  if opcode == "custom-call" and _FREE_TARGETS.search(instruction.attributes):
    return 0
  if opcode == "async-start":  # A SparseCore, which has the same HBM, may run a collective for the TensorCore.
    calls = [line for line in program.computations[instruction.called[0]] if line.opcode == "call"]
    if calls:
      return sum(_moved(program, name) for line in calls for name in line.called)
  if opcode.endswith("-start"):  # (destination, source, …): both ends of a copy have the size of the destination.
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
        read[int(line.operands[0])] = min(read[int(line.operands[0])], _read(program, line, inner))
      if line.opcode == "dynamic-update-slice" and (line.root or _feeds_root(line, inner)):
        written = max(written - sum(array.bytes for array in line.arrays), 0) + _hbm(inner.get(line.operands[1]))
  return written + sum(read)


def _read(program: Program, value: Instruction, inner: Mapping[str, Instruction]) -> int:
  """Return the bytes of a value that a fused computation reads, which may hand it on to fusions within it.

  Nothing is stored within a fusion, so a slice of a copy reads the slice alone. Copies there change the tiling: HBM may
  hold an array in other tiles than those in which it is used.
  """
  total, whole = 0, sum(array.bytes for array in value.arrays)
  for line in inner.values():
    if value.name not in line.operands:
      continue
    if line.opcode == "dynamic-slice" and line.operands[0] == value.name:
      total += sum(array.bytes for array in line.arrays)
    elif line.opcode in _RENAMES and not line.root:
      total += _read(program, line, inner)
    elif line.opcode == "fusion":
      body = {each.name: each for each in program.computations[line.called[0]]}
      places = {str(place) for place, operand in enumerate(line.operands) if operand == value.name}
      for each in body.values():
        if each.opcode == "parameter" and each.operands[0] in places:
          renamed = not line.root and _is_renamed(each, body)
          total += _read(program, *((line, inner) if renamed else (each, body)))
    elif not (line.opcode == "dynamic-update-slice" and line.operands[0] == value.name):
      return whole
  return min(total, whole)


def _is_renamed(value: Instruction, inner: Mapping[str, Instruction]) -> bool:
  """Return whether a computation does nothing but return a value under other names."""
  root = next(line for line in inner.values() if line.root)
  while root.opcode in _RENAMES and root.operands[0] in inner:
    root = inner[root.operands[0]]
  return root.name == value.name


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
  # Operands are names, sometimes preceded by types; those of a constant or parameter are values.
  names = re.findall(r"%([^\s,()]+)", inside) or [inside.strip()]
  return Instruction(
      left.strip().removeprefix("ROOT ").lstrip("%"), kind, rest[:start], tuple(names), rest[end:], root)


def _closing(text: str, start: int) -> int:
  """Return the position after the bracket that closes the one at `start`."""
  depth = 0
  for place in range(start, len(text)):
    depth += (text[place] == "(") - (text[place] == ")")
    if depth == 0:
      return place + 1
  raise ValueError(f"no closing bracket in {text[:80]!r}")
