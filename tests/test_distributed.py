"""Finding each other, and what each process says when that fails; raw connections stand in for processes."""

import io
import itertools
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import pytest

from nova_jax import coordinator, distributed
from nova_jax.places import Place, place, share

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("args, env, expected", [
    ((None, None, None), {}, None),
    (("a:1", 1, 0), {}, None),
    (("a:1", 2, 1), {}, Place("a:1", 2, 1)),
    ((None, None, None), {"ADDRESS": "b:80", "NUM_PROCESSES": "4", "PROCESS_ID": "3"}, Place("b:80", 4, 3)),
    (("a:1", None, 0), {"ADDRESS": "b:80", "NUM_PROCESSES": "4", "PROCESS_ID": "3"}, Place("a:1", 4, 0))])
def test_place(args, env, expected, monkeypatch):
  set_environment(monkeypatch, env)
  assert place(*args) == expected


@pytest.mark.parametrize("args, env, message", [
    (("a", 2, 1), {}, "expected HOST:PORT"), (("a:x", 2, 1), {}, "expected HOST:PORT"),
    (("a:70000", 2, 1), {}, "expected HOST:PORT"), (("a:1", 2, None), {}, "--process_id, too"),
    (("a:1", 2, 2), {}, "expected 0 to 1"), ((None, 2, None), {}, "2 processes need the HOST:PORT"),
    ((None, None, 3), {}, "process 3 needs the HOST:PORT"),
    (("auto", None, None), {}, "no TPU VM"), ((None, None, None), {"NUM_PROCESSES": "many"}, "JAX_NUM_PROCESSES")])
def test_what_makes_no_place(args, env, message, monkeypatch):
  set_environment(monkeypatch, env)
  with pytest.raises(ValueError, match=message):
    place(*args)


@pytest.mark.parametrize("args, env, expected", [
    ((None, None, None), {}, (0, 1)), ((None, 3, 2), {}, (2, 3)), ((None, 1, 0), {}, (0, 1)),
    ((None, None, None), {"NUM_PROCESSES": "4", "PROCESS_ID": "3"}, (3, 4)), (("a:1", 2, 1), {}, (1, 2)),
    ((None, None, None), {"ADDRESS": "b:80", "NUM_PROCESSES": "4", "PROCESS_ID": "1"}, (1, 4))])
def test_shares_need_no_coordinator(args, env, expected, monkeypatch):
  set_environment(monkeypatch, env)
  assert share(*args) == expected


@pytest.mark.parametrize("args, message", [
    ((None, 2, None), "give both or none"), ((None, None, 1), "give both or none"), ((None, 2, 2), "expected 0 to 1"),
    (("auto", None, None), "no TPU VM")])
def test_what_makes_no_share(args, message, monkeypatch):
  set_environment(monkeypatch, {})
  with pytest.raises(ValueError, match=message):
    share(*args)


def set_environment(monkeypatch, env):
  for name in ("ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
    variable = f"JAX_{'COORDINATOR_' * (name == 'ADDRESS')}{name}"
    monkeypatch.delenv(variable, raising=False)
    if name in env:
      monkeypatch.setenv(variable, env[name])


def free_port():
  with socket.create_server(("", 0)) as free:
    return free.getsockname()[1]


class Member:
  """Talks to the coordinator as a process does."""

  def __init__(self, port, process, of):
    self.socket = socket.create_connection(("localhost", port), timeout=30)
    self.lines = self.socket.makefile("r")
    self.send({"process": process, "of": of, "host": f"host{process}"})

  def send(self, message):
    self.socket.sendall(coordinator.encode(message))

  def hear(self):
    while not (message := json.loads(self.lines.readline())):
      pass
    return message

  def go(self):
    self.lines.close()
    self.socket.close()


@pytest.fixture
def start():
  programs = []

  def begin(num_processes, timeout=30, host="localhost"):
    port = free_port()
    programs.append(subprocess.Popen(
        [sys.executable, "-P", coordinator.__file__, f"{host}:{port}", str(num_processes), str(timeout)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8"))
    assert programs[-1].stdout.readline().strip() == coordinator.READY
    return port, programs[-1]

  yield begin
  for program in programs:
    program.kill()
    program.wait()


def test_others_hear_who_is_lost(start):
  port, program = start(3)
  members = [Member(port, i, 3) for i in range(3)]
  hosts = [member.hear()["hosts"] for member in members]
  assert hosts == [["host0", "host1", "host2"]] * 3
  members[0].go()  # Process 0 has no part in it: the coordinator outlives it.
  assert [member.hear() for member in members[1:]] == [{"lost": 0}] * 2
  members[1].go()
  members[2].go()
  assert program.wait(timeout=10) == 0


def test_others_hear_why_one_failed_but_not_that_one_has_left(start):
  port, program = start(3)
  members = [Member(port, i, 3) for i in range(3)]
  for member in members:
    member.hear()
  members[2].send({"end": 0})
  members[2].go()
  members[1].send({"end": 2, "text": "the folder is another run's"})
  members[1].go()
  assert members[0].hear() == {"failed": 1, "code": 2, "text": "the folder is another run's"}
  members[0].go()
  assert program.wait(timeout=10) == 0


def test_a_silent_process_is_lost(monkeypatch):
  monkeypatch.setattr(coordinator, "LINGER", 0.2)
  with socket.create_server(("", 0)) as listener:
    watcher = coordinator._Coordinator(listener, 2, timeout=30.0)
    watcher.service = object()  # All are there.
    pairs = [socket.socketpair() for _ in range(2)]
    for i, (near, _) in enumerate(pairs):
      watcher.members[i] = coordinator._Member(near)
      watcher.members[i].process = i
      watcher.selector.register(near, selectors.EVENT_READ, watcher.members[i])
    watcher.members[1].heard -= coordinator.LOST_AFTER + 1
    watcher.run()
  heard = [json.loads(line) for line in pairs[0][1].recv(1000).splitlines()]
  assert [message for message in heard if message] == [{"lost": 1}]


@pytest.mark.parametrize("foreign", [
    b"GET / HTTP/1.1\r\n\r\n", b"\x00\xff\n", b"1\n", b"[]\n", b"null\n", b'{"end": 1}\n', b'{"process": "0"}\n'])
def test_strangers_change_nothing(start, foreign):
  port, program = start(2)
  with socket.create_connection(("localhost", port), timeout=30) as stranger:
    stranger.sendall(foreign)
    while stranger.recv(1000):  # Signs of life, and then it is closed.
      pass
  members = [Member(port, i, 2) for i in range(2)]
  assert all("port" in member.hear() for member in members)
  assert Member(port, 2, 2).hear() == {"refused": "process 2 is none of 2"}


def test_refusals_name_the_processes(start):
  port, _ = start(3, timeout=1)
  first = Member(port, 0, 3)
  assert Member(port, 0, 3).hear() == {"refused": "process 0 is there already (host host0)"}
  assert Member(port, 1, 2).hear() == {"refused": "process 1 counts 2 processes, process 0 3"}
  assert first.hear() == {"refused": "processes 1, 2 of 3 did not start in time"}


BARRIER = """
from nova_jax import cli, distributed, places

def main():
  where = places.place(None, None, None)
  with distributed.session(where, 60):
    distributed.barrier("both", 60)
    if where.process == 0:
      assert distributed.same("value", {"a": [1]}, 60) == {"a": [1]}
      distributed.barrier("dataset", 0.5)
    assert distributed.same("value", None, 60) == {"a": [1]}
    distributed.barrier("never", 60)

cli.run(main)
"""


def python(code, address, process):
  env = os.environ | {
      "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2",
      "JAX_PROCESS_ID": str(process)}
  return subprocess.Popen([sys.executable, "-c", code], env=env, cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8")


def test_a_barrier_names_who_did_not_come():
  address = f"localhost:{free_port()}"
  both = [python(BARRIER, address, i) for i in range(2)]
  try:
    errors = [process.communicate(timeout=60)[1].splitlines()[-1] for process in both]
  finally:
    for process in both:
      process.kill()
  missing = f"process 1 of 2 (host {socket.gethostname()}) did not come to the barrier 'dataset' in 0.5 s"
  assert errors[0] == f"error: {missing}"
  assert errors[1] == f"error: process 0 of 2 (host {socket.gethostname()}) failed: {missing}"
  assert [process.returncode for process in both] == [1, 1]


def test_an_address_where_nobody_is():
  code = "from nova_jax import distributed, places; distributed.session(places.place(None, None, None), 1).__enter__()"
  error = python(code, f"localhost:{free_port()}", 1).communicate(timeout=60)[1]
  assert "TimeoutError: --coordinator localhost:" in error and "is process 0 running there?" in error


@pytest.mark.parametrize("host, other", [("127.0.0.1", "127.0.0.2"), ("[::1]", "127.0.0.1"), ("127.0.0.2", "[::1]")])
def test_it_listens_at_the_address_that_was_given(start, host, other):
  if "[::1]" in (host, other) and not socket.has_dualstack_ipv6():
    pytest.skip("needs IPv6")
  port, _ = start(2, host=host)
  with distributed._dial(Place(f"{host}:{port}", 2, 1), 1) as connection:
    connection.sendall(coordinator.encode({"process": 2, "of": 2, "host": "a"}))
    assert connection.recv(100) == coordinator.encode({"refused": "process 2 is none of 2"})
  with pytest.raises(TimeoutError):
    distributed._dial(Place(f"{other}:{port}", 2, 1), 0)


def test_a_name_that_is_a_loopback_address_here_is_reached_by_others(monkeypatch):
  found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]
  monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
  with coordinator._listen("host0", 0) as listener:
    assert listener.getsockname()[0] in ("::", "0.0.0.0")
  with coordinator._listen("localhost", 0) as listener:
    assert listener.getsockname()[0] in ("127.0.1.1", "127.0.0.1", "::1")


def test_an_address_of_another_machine_is_refused():
  with pytest.raises(OSError, match="assign requested address"):
    coordinator._listen("192.0.2.1", 0)


def test_the_next_port_is_for_jax():
  with socket.create_server(("", 0)) as taken:
    port = taken.getsockname()[1]
    assert coordinator._next_port(port - 1) != port
  assert coordinator._next_port(port - 1) == port
  assert 0 < coordinator._next_port(65535) <= 65535


@pytest.fixture
def session():
  """One of four that are there, without a connection."""
  session = distributed._Session.__new__(distributed._Session)
  session.where, session.hosts, session.left = Place("a:1", 4, 0), ["a", "b", "c", "d"], False
  session.calls, session.ending = itertools.count(), threading.Event()
  return session


@pytest.mark.parametrize("heard, who", [
    (b'{}\n{"lost": 2}\n', "process 2 of 4 (host c)"),
    (b'{}\n{"lo', "the coordinator a:1 of process 0 of 4 (host a)"), (b"", "the coordinator a:1 of process 0")])
@pytest.mark.parametrize("kind", ["advises", "fails", "hangs"])
def test_a_loss_is_said_before_storage_is_read(session, heard, who, kind, monkeypatch, capfd):
  never, said = threading.Event(), []

  def advice():
    said.append(capfd.readouterr().err)
    if kind == "hangs":
      never.wait()
    if kind == "fails":
      raise OSError("storage is gone")
    return "start it again"

  def end(code):
    raise SystemExit(code)

  monkeypatch.setattr(distributed, "_ADVICE_TIMEOUT", 0.2 if kind == "hangs" else 60)
  monkeypatch.setattr(distributed.os, "_exit", end)
  session.advice, session.lines = advice, io.BytesIO(heard)
  with pytest.raises(SystemExit, match="1"):
    session._listen()
  never.set()
  assert said[0].startswith(f"error: {who}") and said[0].endswith(" is lost")
  assert capfd.readouterr().err == ("; start it again\n" if kind == "advises" else "\n")


def test_a_barrier_to_which_one_comes_just_too_late(session):
  class Client:
    def key_value_set(self, key, value):
      pass

    def wait_at_barrier(self, key, milliseconds):
      raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")

    def key_value_dir_get(self, folder):
      return [(f"{folder}{i}", "") for i in range(4)]

  session.client = Client()
  with pytest.raises(TimeoutError, match="^one of the processes did not come to the barrier 'dataset' in 5 s"):
    session.barrier("dataset", 5.0)
