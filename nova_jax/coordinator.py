"""Who is there, of the processes of a run: a small program that process 0 starts, and that all processes talk to.

  python -P nova_jax/coordinator.py HOST:PORT NUM_PROCESSES TIMEOUT

It also holds JAX's coordination service, on the next port. Within process 0 that service would die with it, and JAX's
client in the other processes would abort them with a C++ trace before they could say what happened. Lines of JSON go
both ways:

  process → here:  {"process": i, "of": n, "host": name}   {} (alive)   {"end": exit code, "text": why}
  here → process:  {"refused": why}   {"port": of JAX's service, "hosts": […]}   {} (alive)
                   {"lost": i}   {"failed": i, "code": exit code, "text": why}

Invariant: it ends when no process is left, and never later than `LINGER` seconds after the first one was lost.
"""

import contextlib
import errno
import ipaddress
import json
import os
import selectors
import signal
import socket
import sys
import time
from typing import Any

BEAT = 5.0  # Seconds between signs of life.
LOST_AFTER = 40.0  # Seconds of silence after which a process is lost; one that is killed is missed at once.
LINGER = 30.0  # Seconds that the others have to end.
READY = "ready"
_LONGEST_LINE = 2**20
_BIND_SECONDS = 10.0  # A run that was killed just now may hold the port for a moment.
JAX_TIMEOUT = 100  # Seconds of JAX's own heartbeats, for the case that this program is lost as well.


class _Member:
  """A connection; `process` is None until it has said which it is, `ended` is set when it leaves as it should."""

  def __init__(self, connection: socket.socket):
    self.connection, self.buffer = connection, b""
    self.process: int | None = None
    self.host, self.ended, self.heard = "", False, time.monotonic()

  def send(self, message: dict[str, Any]) -> None:
    try:
      self.connection.sendall(encode(message))
    except OSError:
      pass  # Reading finds out that it is gone.

  def receive(self) -> list[dict[str, Any]] | None:
    """Return the messages that have come; None at the end of the connection."""
    try:
      data = self.connection.recv(65536)
      self.heard = time.monotonic()
      *lines, self.buffer = (self.buffer + data).split(b"\n")
      messages = [json.loads(line) for line in lines]
    except (OSError, ValueError):
      return None
    # Whoever doesn't speak as ours do, a port scanner perhaps, is dropped like one that is gone.
    return messages if data and all(map(self._understood, messages)) else None

  def _understood(self, message: Any) -> bool:
    if not isinstance(message, dict) or len(self.buffer) > _LONGEST_LINE:
      return False
    if self.process is None and message:
      kinds = {name: type(value) for name, value in message.items()}
      return kinds == {"process": int, "of": int, "host": str}
    return True


class _Coordinator:

  def __init__(self, listener: socket.socket, num_processes: int, timeout: float):
    self.num_processes, self.listener = num_processes, listener
    self.members: dict[int, _Member] = {}
    self.selector = selectors.DefaultSelector()
    self.selector.register(listener, selectors.EVENT_READ)
    self.gather_until: float | None = time.monotonic() + timeout
    self.end_at = float("inf")
    self.service = None

  def run(self) -> None:
    """Gather the processes, watch them, and return when they are gone."""
    beat_at = 0.0
    while time.monotonic() < self.end_at and (self.service is None or self.members):
      for key, _ in self.selector.select(timeout=1.0):
        if key.fileobj is self.listener:
          connection = self.listener.accept()[0]
          self.selector.register(connection, selectors.EVENT_READ, _Member(connection))
        else:
          self._read(key.data)
      now = time.monotonic()
      if now >= beat_at:
        beat_at = now + BEAT
        self._tell({})
      for member in [m for m in self.members.values() if now - m.heard > LOST_AFTER]:
        self._drop(member)
      if self.service is None and now > self.gather_until:
        missing = sorted(set(range(self.num_processes)) - self.members.keys())
        self._tell({"refused": f"{name_all(missing, self.num_processes)} did not start in time"})
        return

  def _read(self, member: _Member) -> None:
    messages = member.receive()
    if messages is None:
      self._drop(member)
    for message in messages or ():
      if "process" in message:
        self._welcome(member, message)
      elif "end" in message:
        member.ended = True
        if message["end"]:
          self._close_down({"failed": member.process, "code": message["end"], "text": message["text"]}, member)

  def _welcome(self, member: _Member, hello: dict[str, Any]) -> None:
    process, there = hello["process"], self.members.get(hello["process"])
    if hello["of"] != self.num_processes:
      member.send({"refused": f"process {process} counts {hello['of']} processes, process 0 {self.num_processes}"})
    elif not 0 <= process < self.num_processes:
      member.send({"refused": f"process {process} is none of {self.num_processes}"})
    elif there:
      member.send({"refused": f"process {process} is there already (host {there.host})"})
    else:
      member.process, member.host = process, hello["host"]
      self.members[process] = member
      if len(self.members) == self.num_processes:
        self._start_service()

  def _start_service(self) -> None:
    from jax._src.lib import _jax  # Takes a second, in which processes can already connect.
    host, port, *_ = self.listener.getsockname()
    port, name = _next_port(port, host), f"[{host}]" if ":" in host else host
    self.service = _jax.get_distributed_runtime_service(
        f"{name}:{port}", self.num_processes, heartbeat_timeout=JAX_TIMEOUT, shutdown_timeout=JAX_TIMEOUT)
    self._tell({"port": port, "hosts": [self.members[i].host for i in range(self.num_processes)]})

  def _drop(self, member: _Member) -> None:
    self.selector.unregister(member.connection)
    member.connection.close()
    if self.members.get(member.process) is member:
      del self.members[member.process]
      if self.service is None and member.process == 0:
        self.end_at = 0.0  # Whoever starts process 0 again needs the port.
      elif self.service is not None and not member.ended:
        self._close_down({"lost": member.process}, member)

  def _close_down(self, message: dict[str, Any], cause: _Member) -> None:
    """Tell the others why they must end; what is lost thereafter is lost for that reason."""
    if self.end_at == float("inf"):
      self.end_at = time.monotonic() + LINGER
      self._tell(message, cause)

  def _tell(self, message: dict[str, Any], cause: _Member | None = None) -> None:
    for member in list(self.members.values()):
      if member is not cause:
        member.send(message)


def encode(message: dict[str, Any]) -> bytes:
  """Return a message as it is sent."""
  return json.dumps(message).encode() + b"\n"


def name_all(processes: list[int], num_processes: int) -> str:
  """Return "process 1 of 2" or "processes 1, 3 of 4"."""
  return f"process{'es' * (len(processes) > 1)} {', '.join(map(str, processes))} of {num_processes}"


def _listen(host: str, port: int) -> socket.socket:
  """Listen at the address that a host has, and at no other one of this machine."""
  deadline = time.monotonic() + _BIND_SECONDS
  while True:
    try:
      family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
      if host != "localhost" and host[0].isalpha() and ipaddress.ip_address(address[0]).is_loopback:
        # Debian gives a machine's own name such an address, at which other machines can't reach it.
        family, address = (socket.AF_INET6, ("", port)) if socket.has_dualstack_ipv6() else (socket.AF_INET, ("", port))
      both = family == socket.AF_INET6 and not address[0]
      return socket.create_server(address[:2], family=family, backlog=4096, dualstack_ipv6=both)
    except OSError as error:
      if time.monotonic() > deadline or error.errno == errno.EADDRNOTAVAIL:
        raise
      time.sleep(0.2)


def _next_port(port: int, host: str = "") -> int:
  """Return the port after this one, so that a firewall can be told; any other if that is taken."""
  family = socket.AF_INET6 if ":" in host and host != "::" else socket.AF_INET
  host = "" if host == "::" else host
  for wanted in (port + 1, 0):
    with contextlib.suppress(OSError, OverflowError), socket.create_server((host, wanted), family=family) as free:
      return free.getsockname()[1]
  raise OSError("there is no free port")


def main(address: str, num_processes: int, timeout: float) -> None:
  """Say "ready" or what is wrong, in one line, then serve until the processes are gone."""
  # It ends after its processes, which know what to do about these.
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
  try:
    host, _, port = address.rpartition(":")
    listener = _listen(host.strip("[]"), int(port))
  except OSError as error:
    print(error.strerror or error, flush=True)
    return
  print(READY, flush=True)
  _Coordinator(listener, num_processes, timeout).run()
  sys.stdout.flush()
  os._exit(0)  # JAX's service would wait for processes that are gone.


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
