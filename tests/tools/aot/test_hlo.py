"""A recorded program: what is found in the text of a scan compiled for four v5e chips, fsdp 2 × tensor 2.

The scan runs three layers x ← tanh(x·w)·v, both gathered within it; besides, all of w is gathered on purpose.
"""

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest

from nova_jax.tools.aot import hlo
from nova_jax.tools.aot.collectives import find_collectives, gathers_outside_layers, replica_groups, spanned_axes
from nova_jax.tools.aot.report import network_seconds, summarize
from nova_jax.utils.chips import CHIPS

TEXT = (Path(__file__).parent / "scan.hlo.txt").read_text(encoding="utf-8")
LAYERS, WIDTH, HIDDEN, BATCH, BF16 = 3, 1024, 2048, 1024, 2


def mesh(shape, coords=None, slices=None):
  """Return what is needed of a mesh, of chips in a row if not said otherwise."""
  size = int(np.prod(list(shape.values())))
  coords = coords or [(i, 0, 0) for i in range(size)]
  slices = slices or [0] * size
  devices = np.empty(size, object)
  devices[:] = [types.SimpleNamespace(coords=c, slice_index=s) for c, s in zip(coords, slices, strict=True)]
  return types.SimpleNamespace(
      devices=devices.reshape(list(shape.values())), axis_names=tuple(shape), shape=shape, size=size)


RING = mesh({"data": 1, "fsdp": 2, "context": 1, "tensor": 2}, [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)])


@pytest.fixture(scope="module")
def program():
  return hlo.parse(TEXT)


def test_loops_run_as_often_as_there_are_layers(program):
  assert [(times, depth) for times, depth, _ in program.walk()] == [(1, 0), (LAYERS, 1)]


def test_attributes_over_several_lines(program):
  # Pallas kernels have such: what follows must not get lost.
  first = next(line for line in TEXT.splitlines() if " all-reduce(" in line)
  text = TEXT.replace(first, first + ', frontend_attributes={kernel_metadata={\n"block": "256"\n}}, a={}')
  broken = hlo.parse(text)
  assert {name: len(lines) for name, lines in broken.computations.items()} == {
      name: len(lines) for name, lines in program.computations.items()}
  assert find_collectives(broken, RING) == find_collectives(program, RING)


def test_a_loop_without_a_bound_is_an_error(program):
  loop = next(line for line in program.computations[program.entry] if line.opcode == "while")
  known = hlo.Instruction("w", "()", "while", (), 'backend_config={"known_trip_count":{"n":"7"}}', False)
  assert program.trip_count(known) == 7
  empty = hlo.Program({**program.computations, loop.called[0]: ()}, program.entry)
  with pytest.raises(ValueError, match="expected one"):
    empty.trip_count(loop)


def test_reserved_and_renamed_memory_is_no_traffic():
  text = """ENTRY %main (a: bf16[8,8], b: bf16[8,8]) -> bf16[16,8] {
  %a = bf16[8,8]{1,0} parameter(0)
  %b = bf16[8,8]{1,0} parameter(1)
  %reserved = bf16[9,8,8]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %both = bf16[16,8]{1,0} custom-call(%a, %b), custom_call_target="TARGET"
}
"""
  assert hlo.hbm_bytes(hlo.parse(text.replace("TARGET", "ConcatBitcast"))) == 0
  assert hlo.hbm_bytes(hlo.parse(text.replace("TARGET", "tpu_custom_call"))) == (2 * 64 + 128) * BF16


def test_collectives_are_counted_once_with_their_axes(program):
  found = sorted((c.kind, c.times, c.bytes, c.axes, c.depth) for c in find_collectives(program, RING))
  layer = WIDTH * HIDDEN // 2 * BF16
  assert found == sorted([
      ("all-gather", 1, LAYERS * WIDTH * HIDDEN // 2 * BF16, ("fsdp",), 0),
      ("all-gather", LAYERS, layer, ("fsdp",), 1),
      ("all-gather", LAYERS, layer, ("fsdp",), 1),
      ("all-reduce", LAYERS, BATCH // 2 * WIDTH * BF16, ("tensor",), 1)])


def test_copies_of_a_collective_that_share_a_channel_count_each():
  first = next(line for line in TEXT.splitlines() if " all-reduce(" in line)
  twice = hlo.parse(TEXT.replace(first, f"{first}\n{first.replace('%all-reduce.2 ', '%all-reduce.9 ')}"))
  count = lambda program: sum(c.kind == "all-reduce" for c in find_collectives(program, RING))
  assert (count(hlo.parse(TEXT)), count(twice)) == (1, 2)


def test_a_parameter_gathered_whole_is_found_and_one_gathered_by_layers_is_not(program):
  stacks = [(LAYERS, WIDTH, HIDDEN), (LAYERS, HIDDEN, WIDTH)]
  found = gathers_outside_layers(find_collectives(program, RING), stacks, parts=2)
  assert [(c.name, c.depth) for c in found] == [("w", 0)]


def test_a_gather_that_was_moved_out_of_its_loop_is_found(program):
  inside = [c for c in find_collectives(program, RING) if c.kind == "all-gather" and c.depth]
  assert all("while/body" in c.name for c in inside) and gathers_outside_layers(inside, [], parts=2) == []
  moved = [dataclasses.replace(c, depth=0) for c in inside]
  assert gathers_outside_layers(moved, [], parts=2) == moved


def test_a_loop_whose_outer_one_was_unrolled_is_still_the_layers_loop(program):
  inner = 'op_name="jit(f)/while'
  unrolled = hlo.parse(TEXT.replace(inner, 'op_name="jit(f)/while/body/closed_call/while'))
  inside = [c for c in find_collectives(unrolled, RING) if c.kind == "all-gather" and c.times == LAYERS]
  assert [c.depth for c in inside] == [2, 2]
  assert gathers_outside_layers(inside, [], parts=2) == []


def test_a_computation_of_another_thread_ends(program):
  first = TEXT.index("\n}\n") + 2
  threaded = hlo.parse(f'{TEXT[:first]}, execution_thread="sparsecore"{TEXT[first:]}')
  assert threaded.computations == program.computations


def test_memory_is_counted_by_slices(program):
  moved = hlo.hbm_bytes(program)
  # Each device reads its quarter of both weights once for the scan, and w once more to gather it whole.
  weights = 2 * LAYERS * WIDTH * HIDDEN * BF16 // 4
  assert weights < moved < 4 * weights


def test_slices_within_a_fusion_of_a_fusion_are_counted_as_slices():
  """The backward pass of a scan reads a layer's inputs from their stack so."""
  text = """HloModule m

%inside (param_0: bf16[16,8,1024], param_1: s32[]) -> bf16[1,8,1024] {
  %param_0 = bf16[16,8,1024]{2,1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = bf16[1,8,1024]{2,1,0} dynamic-slice(%param_0, %param_1, %zero, %zero), dynamic_slice_sizes={1,8,1024}
}

%outside (stack: bf16[16,8,1024], layer: s32[]) -> bf16[1,8,1024] {
  %stack = bf16[16,8,1024]{2,1,0} parameter(0)
  %layer = s32[] parameter(1)
  %within = bf16[1,8,1024]{2,1,0} fusion(%stack, %layer), kind=kLoop, calls=%inside
  ROOT %out = bf16[1,8,1024]{2,1,0} negate(%within)
}

ENTRY %main (a: bf16[16,8,1024], b: s32[]) -> bf16[1,8,1024] {
  %a = bf16[16,8,1024]{2,1,0} parameter(0)
  %b = s32[] parameter(1)
  ROOT %f = bf16[1,8,1024]{2,1,0} fusion(%a, %b), kind=kOutput, calls=%outside
}
"""
  layer = 8 * 1024 * BF16
  assert hlo.hbm_bytes(hlo.parse(text)) == 2 * layer + 4, "a layer is read and written, with its number"
  whole = text.replace("negate(%within)", "add(%within, %stack)")  # The stack is read as a whole besides.
  assert hlo.hbm_bytes(hlo.parse(whole)) == 17 * layer + 4


RETILED = """HloModule m

%retiled (tiles: bf16[16,8,1024]) -> bf16[16,8,1024] {
  %tiles = bf16[16,8,1024]{2,1,0:T(16,128)(2,1)} parameter(0)
  ROOT %others = bf16[16,8,1024]{2,1,0:T(8,128)(2,1)} copy(%tiles)
}

%inside (stack: bf16[16,8,1024], layer: s32[]) -> bf16[1,8,1024] {
  %stack = bf16[16,8,1024]{2,1,0:T(16,128)(2,1)} parameter(0)
  %layer = s32[] parameter(1)
  %same = bf16[16,8,1024]{2,1,0:T(8,128)(2,1)} fusion(%stack), kind=kLoop, calls=%retiled
  %zero = s32[] constant(0)
  %slice = bf16[1,8,1024]{2,1,0:T(8,128)(2,1)} dynamic-slice(%same, %layer, %zero, %zero)
  ROOT %out = bf16[1,8,1024]{2,1,0:T(16,128)(2,1)} copy(%slice)
}

ENTRY %main (a: bf16[16,8,1024], b: s32[]) -> bf16[1,8,1024] {
  %a = bf16[16,8,1024]{2,1,0:T(16,128)(2,1)} parameter(0)
  %b = s32[] parameter(1)
  ROOT %f = bf16[1,8,1024]{2,1,0:T(16,128)(2,1)} fusion(%a, %b), kind=kLoop, calls=%inside
}
"""


def test_a_slice_of_other_tiles_is_counted_as_a_slice():
  """A TPU7x holds bf16 arrays in other tiles than those in which it computes."""
  layer = 8 * 1024 * BF16
  assert hlo.hbm_bytes(hlo.parse(RETILED)) == 2 * layer + 4
  written = RETILED.replace("bf16[1,8,1024]", "bf16[16,8,1024]").replace(
      "dynamic-slice(%same, %layer", "dynamic-update-slice(%same, %new, %layer").replace(
      "ROOT %out = bf16[16,8,1024]{2,1,0:T(16,128)(2,1)} copy(", "ROOT %out = bf16[16,8,1024]{2,1,0} bitcast(").replace(
      "  %zero =", "  %new = bf16[1,8,1024]{2,1,0} broadcast(%layer), dimensions={}\n  %zero =")
  assert hlo.hbm_bytes(hlo.parse(written)) == layer + 4, "a layer is written in place"
  whole = RETILED.replace("copy(%slice)", "add(%slice, %same)")  # All of it is used, too.
  assert hlo.hbm_bytes(hlo.parse(whole)) == 17 * layer + 4


def test_an_array_that_a_fusion_within_only_renames_is_read():
  renamed = RETILED.replace("copy(%tiles)", "bitcast(%tiles)").replace("copy(%slice)", "add(%slice, %same)")
  assert hlo.hbm_bytes(hlo.parse(renamed)) == 17 * 8 * 1024 * BF16 + 4


def test_a_collective_on_another_core_is_counted():
  """A TPU7x hands collectives to its SparseCores: an asynchronous call of a call."""
  text = """HloModule m

%called (part: bf16[2,1024]) -> bf16[4,1024] {
  %part = bf16[2,1024]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[4,1024]{1,0} all-gather(%part), channel_id=1, replica_groups=[2,2]<=[4], dimensions={0}
}, execution_thread="sparsecore"

%asynchronous (operand: bf16[2,1024]) -> bf16[4,1024] {
  %operand = bf16[2,1024]{1,0} parameter(0)
  ROOT %result = bf16[4,1024]{1,0} call(%operand), to_apply=%called
}, execution_thread="sparsecore"

ENTRY %main (a: bf16[2,1024]) -> bf16[4,1024] {
  %a = bf16[2,1024]{1,0} parameter(0)
  %start = ((bf16[2,1024]{1,0}), bf16[4,1024]{1,0}) async-start(%a), calls=%asynchronous
  ROOT %done = bf16[4,1024]{1,0} async-done(%start)
}
"""
  program = hlo.parse(text)
  (gather,) = find_collectives(program, RING)
  assert (gather.kind, gather.axes, gather.times, gather.bytes) == ("all-gather", ("tensor",), 1, 4 * 1024 * BF16)
  assert hlo.hbm_bytes(program) == (2 + 4) * 1024 * BF16


def test_network_time():
  chip = CHIPS["v5e"]
  program = hlo.parse(TEXT)
  (reduce,) = [c for c in find_collectives(program, RING) if c.kind == "all-reduce"]
  assert reduce.wire_bytes == reduce.bytes  # Twice half of it.
  assert network_seconds(reduce, chip) == pytest.approx(LAYERS * reduce.bytes / (2 * chip.link))
  rows = summarize(find_collectives(program, RING), chip)
  assert {(row["kind"], row["axes"], row["count"]) for row in rows} == {
      ("all-gather", "fsdp", 1 + 2 * LAYERS), ("all-reduce", "tensor", LAYERS)}


def test_what_goes_between_slices():
  line = (
      '  %send.3 = (bf16[256,8,128]{2,1,0:T(8,128)(2,1)}, u32[], token[]) send(%bitcast.64, %after-all.3), '
      'channel_id=2, is_host_transfer=true, '
      'frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",'
      '_xla_megascale_reduce_operation="SUM",_xla_megascale_transfer_type="ALL_REDUCE"}')
  program = hlo.parse(f"ENTRY %main (a: f32[]) -> f32[] {{\n{line}\n}}")
  two = mesh({"data": 2, "fsdp": 2, "context": 1, "tensor": 1}, slices=[0, 0, 1, 1])
  (reduce,) = find_collectives(program, two)
  assert (reduce.kind, reduce.axes, reduce.bytes, reduce.group_size) == ("all-reduce", ("data",), 256 * 8 * 128 * 2, 2)
  assert network_seconds(reduce, CHIPS["v5e"]) == pytest.approx(reduce.bytes / CHIPS["v5e"].dcn)


@pytest.mark.parametrize("text, expected", [
    ("replica_groups={{0,2},{1,3}}", [[0, 2], [1, 3]]),
    ("replica_groups={}", [[0, 1, 2, 3]]),
    ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
    ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}", [[0, 1], [2, 3]]),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=2], device_ids=([2,2]T(1,0)) {'axis_0'}", [[0, 1], [2, 3]]),
    ("replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=2], device_ids=([4]) {'axis_2'}", [[0, 1], [2, 3]]),
    ("replica_groups=mesh['axis_0'=4] {'axis_0':(1)2}", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['axis_0'=4] {'axis_0':(2)2}", [[0, 1], [2, 3]]),
    ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
])
def test_groups_in_all_their_spellings(text, expected):
  assert replica_groups(f"channel_id=1, {text}, dimensions={{0}}", 4).tolist() == expected


def test_groups_in_an_unknown_spelling_are_an_error():
  with pytest.raises(ValueError, match="not understood"):
    replica_groups("replica_groups=someday", 4)
  with pytest.raises(ValueError, match="an order of devices"):
    replica_groups("replica_groups=mesh['axis_0'=2], device_ids=([2,1]X) {'axis_0'}", 2)


def test_axes_of_groups():
  assert spanned_axes(np.array([[0, 1], [2, 3]]), RING) == ("tensor",)
  assert spanned_axes(np.array([[0, 1, 2, 3]]), RING) == ("fsdp", "tensor")
