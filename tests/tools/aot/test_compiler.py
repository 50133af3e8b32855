"""The compiler's table of buffers, and programs that it compiles in a process of its own."""

import re

import jax
import pytest

from nova_jax.tools.aot.compiler import CompileError, compile_program, plan_memory, plan_program
from nova_jax.utils.errors import UserError

BUFFERS = """BufferAssignment:
allocation 0: size 512, thread-local:
 value: <2 add.8692 @0> (size=512,offset=0): bf16[]{:T(256)}
allocation 1: size 800, parameter 319, shape |f32[200]| at ShapeIndex {}:
 value: <18435 param.100 @0> (size=800,offset=0): f32[200]
allocation 2: size 400, parameter 62, shape |f32[100]| at ShapeIndex {}, maybe-live-out:
allocation 3: size 40, maybe-live-out:
allocation 4: size 3, constant:
allocation 5: size 70000, preallocated-temp:
allocation 6: size 90000, color 1, preallocated-temp:
allocation 7: size 600, color 5, preallocated-temp:
"""


def test_memory_is_what_the_table_of_buffers_holds():
  assert plan_memory(BUFFERS) == {"arguments": 1200, "outputs": 40, "temporaries": 70003, "host": 600}


def _no_program():
  raise ValueError("no such slice")


@pytest.mark.parametrize("option, message", [
    ("xla_no_such", "--xla: the compiler knows no option 'xla_no_such'"),
    ("xla_cpu_enable_fast_math", "--xla: While setting option xla_cpu_enable_fast_math, 'abc'")])
def test_options_that_the_compiler_does_not_know(option, message):
  program = jax.jit(lambda x: 2 * x).lower(jax.ShapeDtypeStruct((8,), "float32"))
  with pytest.raises(UserError, match=re.escape(message)):
    compile_program(program, 1, {option: "abc"})


def _program():
  return jax.jit(lambda x: 2 * x).lower(jax.ShapeDtypeStruct((8,), "float32"))


@pytest.mark.slow
def test_a_plan_that_is_not_written_is_not_waited_for(tmp_path):
  with pytest.raises(CompileError, match="the compiler wrote no plan of the program"):
    plan_program(_program, {"xla_dump_to": str(tmp_path)})


def test_errors_of_the_process_are_errors_here():
  with pytest.raises(CompileError, match="no such slice"):
    plan_program(_no_program, {})
