"""Where process 0 listens, what is said of an error, and how values are shared; JAX's service has stand-ins."""

import contextlib
import socket

import jax
import numpy as np
import pytest

from nova_jax.cli import endings
from nova_jax.parallel import processes
from nova_jax.utils.errors import RunFailed, UserError


def free_port():
  with socket.create_server(("127.0.0.1", 0)) as free:
    return free.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "[::1]"])
def test_it_listens_at_the_address_that_was_given(host):
  if host == "[::1]" and not socket.has_dualstack_ipv6():
    pytest.skip("this machine has no IPv6, so no address of it to listen at")
  port = free_port()
  assert processes._bind_address(f"{host}:{port}") == f"{host}:{port}"


def test_a_name_that_is_a_loopback_address_here_is_reached_by_others(monkeypatch):
  assert processes._bind_address(f"localhost:{free_port()}") is not None
  found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]
  monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
  assert processes._bind_address(f"host0:{free_port()}") is None


def test_an_address_that_process_0_can_not_have_is_refused():
  with pytest.raises(ValueError, match="process 0 can't listen there: .*assign requested address"):
    processes._bind_address("192.0.2.1:80")
  with socket.create_server(("127.0.0.1", 0)) as taken:
    with pytest.raises(ValueError, match="process 0 can't listen there: .*in use"):
      processes._bind_address(f"127.0.0.1:{taken.getsockname()[1]}")


@pytest.fixture
def slept(monkeypatch):
  slept = []
  monkeypatch.setattr(processes.time, "sleep", slept.append)
  return slept


@pytest.mark.parametrize("error", [
    ValueError("--config: no such file"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"),
    KeyError("a")])
def test_an_error_of_this_process_is_said_at_once(slept, error):
  assert processes._explained(error) is error
  assert slept == []


@pytest.mark.parametrize("error, expected", [
    (ValueError("Gloo all-reduce failed: Connection closed by peer"), RunFailed),
    (jax.errors.JaxRuntimeError("UNAVAILABLE: a peer is gone"), jax.errors.JaxRuntimeError)])
def test_a_collective_that_breaks_off_waits_for_what_jax_says(slept, error, expected):
  assert type(processes._explained(error)) is expected
  assert slept == [processes.LOST_AFTER + 10]


class Ended(BaseException):
  pass


@pytest.fixture
def ended(monkeypatch):
  """Let ends at once be an exception."""

  def end(code):
    raise Ended(code)

  monkeypatch.setattr(endings.os, "_exit", end)


@pytest.mark.parametrize("first", [True, False])
def test_what_all_have_computed_is_said_by_process_0(monkeypatch, ended, first):
  met = []
  monkeypatch.setattr(processes, "barrier", lambda *args: met.append(args))
  monkeypatch.setattr(processes, "is_first", lambda: first)
  with contextlib.nullcontext() if first else pytest.raises(Ended, match="1"):
    error = FloatingPointError("step 3: loss is nan")
    assert processes._explained(error) is error
  assert met == [("failed", 10.0)]


@pytest.mark.parametrize("error, code, said", [
    (UserError("no such folder"), 2, "error: no such folder\n"), (KeyboardInterrupt(), 130, ""),
    (RunFailed("no host"), 1, "error: no host (traceback: "),
    (AttributeError("a bug"), 1, "error: AttributeError: a bug; this is a bug of nova_jax, ")])
def test_an_error_in_a_session_ends_the_process_at_once(monkeypatch, ended, capsys, error, code, said):
  monkeypatch.setattr(processes, "_join", lambda *_: None)
  with pytest.raises(Ended, match=f"^{code}$"):
    with processes.session(processes.ProcessSpec("a:1", 2, 1), endings.fail):
      raise error
  text = capsys.readouterr().err
  assert text.startswith(said) and text.count("\n") <= 1


def test_a_barrier_names_who_did_not_come(monkeypatch):
  def wait(key, timeout_ms):
    assert (key, timeout_ms) == ("data", 500)
    raise jax.errors.JaxRuntimeError(
        "DEADLINE_EXCEEDED: Barrier timed out. Id: data::0.\nThe first task at the barrier: 0. Some timed out task "
        "names:\n1\n\n\nRPC: /xla.coordination.CoordinationService/Barrier")

  monkeypatch.setattr(processes.multihost, "get_barrier_sync_fn", lambda: wait)
  monkeypatch.setattr(processes, "_hosts", ["a", "b"])
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(TimeoutError, match=r"^process 1 \(host b\) of 2 did not come to the barrier 'data' in 0.5 s$"):
    processes.barrier("data", 0.5)


@pytest.mark.parametrize("value", [None, [], "", "ä\0", {"steps": [3, 6]}, "x" * 126, "x" * 127, "x" * 1000])
def test_values_travel_whole(monkeypatch, value):
  assert processes.all_gather(value) == [value]
  other = ["another", "value"]
  texts = iter([b"20", b'["another", "value"]'])

  def allgather(array):
    text = next(texts)
    mine = np.asarray(array)
    theirs = np.int32(text) if mine.ndim == 0 else np.frombuffer(text.ljust(mine.size, b"\0"), np.uint8)
    return np.stack([mine, theirs])

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(processes.multihost_utils, "process_allgather", allgather)
  assert processes.all_gather(value) == [value, other]


def test_a_host_of_several_that_has_not_joined_is_refused(monkeypatch):
  processes.exchange_host_names()
  monkeypatch.setattr(jax, "process_count", lambda: 4)
  with pytest.raises(ValueError, match="this is one of 4 hosts: give --coordinator=auto"):
    processes.exchange_host_names()
