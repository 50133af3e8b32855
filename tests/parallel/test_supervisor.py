"""Which process this is, and what is said at the end of one; a stand-in for the child."""

import json
import os
import signal

import pytest

from nova_jax.parallel import supervisor
from nova_jax.parallel.supervisor import (
  ProcessSpec,
  describe_processes,
  lost_processes,
  process_spec,
  shard_for_process,
  supervise,
)
from nova_jax.utils.errors import RunFailed

VARIABLES = {
    "ADDRESS": "JAX_COORDINATOR_ADDRESS", "NUM": "JAX_NUM_PROCESSES", "ID": "JAX_PROCESS_ID", "RANK": "SLURM_PROCID",
    "TASKS": "SLURM_STEP_NUM_TASKS", "MPI_RANK": "OMPI_COMM_WORLD_RANK", "MPI_SIZE": "OMPI_COMM_WORLD_SIZE"}
HEARTBEATS = """E1127 00:44:45 4444 coordination_service.cc:1549] [1273] Use error polling to propagate the following \
error to all tasks: UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):
2
The tasks have crashed. Check the task logs for an earlier error, or scheduler events to debug further.
F1127 00:44:45 4456 client.h:80] Terminating process because the JAX distributed service detected fatal errors. The \
following tasks are unhealthy (stopped sending heartbeats):
2
*** Check failure stack trace: ***
    @     0x7f8f61640634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
Fatal Python error: Aborted
"""
LEADER = """F1127 00:45:15 15560 client.h:80] Terminating process because the JAX distributed service detected fatal \
errors. Either the leader task was preempted/died/restarted unexpectedly or this task is experiencing network issues.
"""
BARRIER = """DEADLINE_EXCEEDED: Barrier timed out. Id: data::0.
# of tasks that reached the barrier: 1/3.
The first task at the barrier: 0. Some timed out task names:
2
1


RPC: /xla.coordination.CoordinationService/Barrier"""
JOINING = """F1127 00:43:20 1171 client.h:80] Terminating process because the JAX distributed service detected fatal \
errors. absl::Status: DEADLINE_EXCEEDED: Deadline Exceeded

RPC: /xla.coordination.CoordinationService/RegisterTask
"""


@pytest.fixture(autouse=True)
def environment(request, monkeypatch):
  for variable in VARIABLES.values():
    monkeypatch.delenv(variable, raising=False)
  for short, value in request.node.callspec.params.get("env", {}).items() if hasattr(request.node, "callspec") else ():
    monkeypatch.setenv(VARIABLES[short], value)


@pytest.mark.parametrize("args, env, expected", [
    ((None, None, None), {}, None), (("a:1", 1, 0), {}, None), (("a:1", 2, 1), {}, ProcessSpec("a:1", 2, 1)),
    ((None, None, None), {"ADDRESS": "b:80", "NUM": "4", "ID": "3"}, ProcessSpec("b:80", 4, 3)),
    (("a:1", None, 0), {"ADDRESS": "b:80", "NUM": "4", "ID": "3"}, ProcessSpec("a:1", 4, 0)),
    (("[::1]:1", 2, 1), {}, ProcessSpec("[::1]:1", 2, 1)), (("auto", None, None), {}, ProcessSpec(None, None, None))])
def test_place(args, env, expected):
  assert process_spec(*args) == expected


@pytest.mark.parametrize("args, env, message", [
    (("a", 2, 1), {}, "expected HOST:PORT"), (("a:x", 2, 1), {}, "expected HOST:PORT"),
    (("a:70000", 2, 1), {}, "expected HOST:PORT"), (("a:1", 2, None), {}, "give both or none"),
    (("a:1", None, None), {}, "--process_id, too"), (("a:1", 2, 2), {}, "expected 0 to 1"),
    ((None, 2, 0), {}, "2 processes need the HOST:PORT"), ((None, None, 3), {}, "give both or none"),
    ((None, None, None), {"NUM": "many"}, "JAX_NUM_PROCESSES")])
def test_what_makes_no_place(args, env, message):
  with pytest.raises(ValueError, match=message):
    process_spec(*args)


@pytest.mark.parametrize("args, env, expected", [
    ((None, None, None), {}, (0, 1)), ((None, 3, 2), {}, (2, 3)), ((None, 1, 0), {}, (0, 1)),
    ((None, None, None), {"NUM": "4", "ID": "3"}, (3, 4)), (("a:1", 2, 1), {}, (1, 2)),
    ((None, None, None), {"ADDRESS": "b:80", "NUM": "4", "ID": "1"}, (1, 4)),
    (("auto", None, None), {"RANK": "1", "TASKS": "4"}, (1, 4)),
    ((None, None, None), {"ADDRESS": "auto", "RANK": "1", "TASKS": "4"}, (1, 4)),
    (("auto", None, None), {"MPI_RANK": "2", "MPI_SIZE": "3"}, (2, 3)),
    (("auto", 8, 7), {"RANK": "1", "TASKS": "4"}, (7, 8))])
def test_shares_join_nothing(args, env, expected):
  assert shard_for_process(*args) == expected


@pytest.mark.parametrize("args, message", [
    ((None, 2, None), "give both or none"), ((None, None, 1), "give both or none"), ((None, 2, 2), "expected 0 to 1"),
    (("a:1", None, None), "--process_id, too"), (("auto", None, None), "no TPU VM")])
def test_what_makes_no_share(args, message):
  with pytest.raises(ValueError, match=message):
    shard_for_process(*args)


@pytest.mark.parametrize("text, expected", [
    (HEARTBEATS, [2]), (LEADER, [0]), (BARRIER, [1, 2]), (JOINING, [0]), ("something new", [])])
def test_who_is_lost(text, expected):
  assert lost_processes(text) == expected


@pytest.mark.parametrize("processes, hosts, count, expected", [
    ([], ["a"], 1, "another process"), ([2], ["a", "b", "c"], None, "process 2 (host c) of 3"),
    ([0, 1], ["a", "b", "c"], 3, "process 0, 1 (host a, b) of 3"), ([2], [], 3, "process 2 of 3"),
    ([2], [], None, "process 2")])
def test_names(processes, hosts, count, expected):
  assert describe_processes(processes, hosts, count) == expected


@pytest.fixture
def child(monkeypatch):
  """Let what is supervised write some lines, say its hosts, and end with a code."""

  def prepare(code, text, hosts=()):
    class Child:
      def __init__(self, command, env, **_):
        self.stderr = text.splitlines(keepends=True)
        if hosts:
          os.write(int(env["NOVA_JAX_PARENT"]), json.dumps(hosts).encode())

      def wait(self):
        return code

    monkeypatch.setattr(supervisor.subprocess, "Popen", Child)
    monkeypatch.setattr(supervisor.signal, "signal", lambda *_: None)

  return prepare


@pytest.mark.parametrize("code, text, error, message, shown", [
    (-6, "a note\n" + HEARTBEATS, RunFailed, r"^process 2 \(host c\) of 3 is lost$", "a note\n"),
    (-6, "Failed to retrieve preemption notice\n" + LEADER, RunFailed, r"^process 0 \(host a\) of 3 is lost$", ""),
    (-6, "Polled an error from coordination service\n", RunFailed, "^another process is lost$", ""),
    (-6, "a CHECK of its own\n", RunFailed, "^this process was ended by SIGABRT$", "a CHECK of its own\n"),
    (-9, "a note\n", RunFailed, "^this process was ended by SIGKILL$", "a note\n"),
    (-6, JOINING, TimeoutError, r"--coordinator b:80: not all processes joined there in 9 s", ""),
    (2, "error: no such folder\n", SystemExit, "^2$", "error: no such folder\n"), (0, "", SystemExit, "^0$", "")])
def test_the_end_of_a_child(child, capsys, code, text, error, message, shown):
  child(code, text, ["a", "b", "c"])
  with pytest.raises(error, match=message):
    supervise(ProcessSpec("b:80", 3, 1), 9.0)
  assert capsys.readouterr().err == shown


def test_a_child_that_is_lost_before_it_has_met_the_others(child):
  child(-signal.SIGABRT, HEARTBEATS)
  with pytest.raises(RunFailed, match="^process 2 of 3 is lost$"):
    supervise(ProcessSpec("b:80", 3, 1))


def test_a_process_that_is_alone_has_no_parent():
  supervise(None)
