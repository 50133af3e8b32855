"""A stand-in of the Hugging Face hub on this machine: what the library `huggingface_hub` asks of its HTTP interface.

Files that are larger than a few hundred bytes are "large": they come from another host, by a redirect, and are known by
their SHA-256. All else is known by git's digest, as in the hub.
"""

import base64
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.utils import _http

from nova_jax.checkpoints.hub import download

LARGE = 300
TOKEN = "hf_valid"


def git_digest(content):
  return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def digest_of(content):
  return hashlib.sha256(content).hexdigest() if len(content) > LARGE else git_digest(content)


class Repo:
  """A repository: commits, each with all its files, and branches."""

  def __init__(self, files=(), *, private=False, gated=False):
    self.private, self.gated = private, gated
    self.commits, self.branches, self.parents = {}, {}, []
    self.commit(dict(files), "main")

  def commit(self, files, branch):
    text = json.dumps([len(self.commits), sorted((name, git_digest(content)) for name, content in files.items())])
    commit = hashlib.sha1(text.encode()).hexdigest()
    self.commits[commit] = files
    self.branches[branch] = commit
    return commit

  def find(self, revision):
    commit = self.branches.get(revision, revision)
    return commit if commit in self.commits else None


class Hub:
  """The hub: a context manager, within which it answers.

  Attributes:
    url: its address.
    repos: repositories by name.
    requests: method and path of all requests so far, but for those that the library makes on its own account.
    damaged: paths of files, with how many times each is still sent with a wrong byte.
    cut: paths of large files, with how many of their bytes are sent before the connection ends; then they are refused.
    failing: regular expressions of "METHOD path", which are answered by this status.
    objects: large files that were uploaded, by digest.
    tokens: authorizations that came with downloads of large files.
  """

  def __init__(self):
    self.repos, self.requests, self.damaged, self.cut, self.failing = {}, [], {}, {}, {}
    self.objects, self.tokens = {}, []
    self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
    self._server.daemon_threads = True
    self.port = self._server.server_address[1]
    self.url = f"http://127.0.0.1:{self.port}"

  def __enter__(self):
    threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return self

  def __exit__(self, *_):
    self._server.shutdown()
    self._server.server_close()

  def add(self, name, folder, **options):
    """Make a repository of the files in a folder."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    self.repos[name] = Repo({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}, **options)
    return self.repos[name]


class _Server(http.server.ThreadingHTTPServer):

  def handle_error(self, *_):
    """Say nothing of clients that went away."""


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  hub: Hub

  def log_message(self, *_):
    pass

  def do_HEAD(self):
    self._answer()

  def do_GET(self):
    self._answer()

  def do_POST(self):
    self._answer()

  def do_PUT(self):
    self._answer()

  def _answer(self):
    length = int(self.headers.get("Content-Length") or 0)
    self.body = self.rfile.read(length)
    path, _, query = self.path.partition("?")
    self.query = urllib.parse.parse_qs(query)
    if path == "/api/agent-harnesses":
      return self._send(404)
    request = f"{self.command} {urllib.parse.unquote(path)}"
    place = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
    self.start = int(place[1]) if place else None
    self.hub.requests.append(request if place is None else f"{request} from {self.start}")
    for pattern, status in list(self.hub.failing.items()):
      if re.search(pattern, request):
        return self._send(status, {"error": "out of order"})
    token = self.headers.get("Authorization", "").removeprefix("Bearer ")
    if token and token != TOKEN and not path.startswith("/large/"):
      return self._send(401, error="", message="Invalid credentials in Authorization header")
    self.token = token
    for pattern, answer in (
        (r"/api/whoami-v2", self._whoami), (r"/api/repos/create", self._create), (r"/api/validate-yaml", self._yaml),
        (r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self._info),
        (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self._tree),
        (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        (r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", self._branch), (r"/large/(\w+)/(.+)", self._large),
        (r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", self._preupload), (r"/upload/(\w+)", self._upload),
        (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
        (r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", self._commit)):
      if found := re.fullmatch(pattern, path):
        return answer(*(group and urllib.parse.unquote(group) for group in found.groups()))
    return self._send(404, message=f"the stand-in knows no {path}")

  def _send(self, status, content=None, headers=(), *, error=None, message=None):
    data = b"" if content is None else content if isinstance(content, bytes) else json.dumps(content).encode()
    self.send_response(status)
    for name, value in {"Content-Length": len(data), **dict(headers)}.items():
      self.send_header(name, str(value))
    for name, value in (("X-Error-Code", error), ("X-Error-Message", message)):
      if value:
        self.send_header(name, value)
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(data)

  def _find(self, name, revision="main"):
    """Return a repository and a commit of it; None, after an answer that says why, if there is none."""
    repo = self.hub.repos.get(name)
    if repo is None or repo.private and not self.token:
      self._send(404 if self.token else 401, error="RepoNotFound")
    elif repo.gated and not self.token:
      self._send(403, error="GatedRepo", message=f"Access to model {name} is restricted.")
    elif (commit := repo.find(revision or "main")) is None:
      self._send(404, error="RevisionNotFound")
    else:
      return repo, commit
    return None

  def _whoami(self):
    self._send(200, {"name": "someone", "type": "user"}) if self.token else self._send(401)

  def _yaml(self):
    self._send(200, {"errors": [], "warnings": []})

  def _create(self):
    if not self.token:
      return self._send(401)
    values = json.loads(self.body)
    name = f"{values['organization']}/{values['name']}"
    if name in self.hub.repos:
      return self._send(409, {"url": f"{self.hub.url}/{name}", "error": "exists"})
    self.hub.repos[name] = Repo(private=values.get("visibility") == "private" or bool(values.get("private")))
    return self._send(200, {"url": f"{self.hub.url}/{name}"})

  def _branch(self, name, branch):
    if found := self._find(name):
      repo, commit = found
      if branch in repo.branches:
        return self._send(409, {"error": "exists"})
      repo.branches[branch] = commit
      self._send(200, {})

  def _info(self, name, revision):
    if found := self._find(name, revision):
      repo, commit = found
      siblings = [{"rfilename": file} for file in repo.commits[commit]]
      self._send(200, {"id": name, "sha": commit, "private": repo.private, "siblings": siblings, "tags": []})

  def _tree(self, name, revision):
    if found := self._find(name, revision):
      repo, commit = found
      entries = []
      for path, content in sorted(repo.commits[commit].items()):
        entries.append({"type": "file", "path": path, "size": len(content), "oid": git_digest(content)})
        if len(content) > LARGE:
          entries[-1]["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
      self._send(200, entries)

  def _resolve(self, name, revision, path):
    if found := self._find(name, revision):
      repo, commit = found
      content = repo.commits[commit].get(path)
      about = {"X-Repo-Commit": commit}
      if content is None:
        return self._send(404, headers=about, error="EntryNotFound")
      if len(content) <= LARGE:
        return self._content(path, content, about | {"ETag": f'"{git_digest(content)}"'})
      digest = hashlib.sha256(content).hexdigest()
      self.hub.objects[digest] = content
      # Another host, which must not see the token.
      where = f"http://localhost:{self.hub.port}/large/{digest}/{urllib.parse.quote(path)}"
      about |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": len(content), "Location": where}
      self._send(302, headers=about)

  def _large(self, digest, path):
    self.hub.tokens.append(self.headers.get("Authorization"))
    self._content(path, self.hub.objects[digest], {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"})

  def _content(self, path, content, headers):
    """Send a file, or the rest of it; damaged or cut if that is asked for."""
    if self.command == "GET" and self.hub.damaged.get(path, 0):
      self.hub.damaged[path] -= 1
      content = bytes([content[0] ^ 1]) + content[1:]
    status, rest = 200, content
    if self.start is not None:
      status, rest = 206, content[self.start :]
      headers = {**headers, "Content-Range": f"bytes {self.start}-{len(content) - 1}/{len(content)}"}
    if path in self.hub.cut:
      self.hub.failing[f"/large/.*{re.escape(path)}"] = 503
      headers, rest, self.close_connection = {**headers, "Content-Length": len(rest)}, rest[: self.hub.cut[path]], True
    self._send(status, rest, headers)

  def _preupload(self, name, revision):
    if found := self._find(name, revision):
      repo, commit = found
      files = [
          {"path": file["path"], "uploadMode": "lfs" if file["size"] > LARGE else "regular", "shouldIgnore": False,
           "oid": None if (old := repo.commits[commit].get(file["path"])) is None else digest_of(old)}
          for file in json.loads(self.body)["files"]]
      self._send(200, {"files": files})

  def _batch(self, name):
    objects = []
    for wanted in json.loads(self.body)["objects"]:
      actions = {} if wanted["oid"] in self.hub.objects else {
          "actions": {"upload": {"href": f"{self.hub.url}/upload/{wanted['oid']}"}}}
      objects.append({"oid": wanted["oid"], "size": wanted["size"], **actions})
    self._send(200, {"transfer": "basic", "objects": objects})

  def _upload(self, digest):
    assert hashlib.sha256(self.body).hexdigest() == digest
    self.hub.objects[digest] = self.body
    self._send(200)

  def _commit(self, name, revision):
    if found := self._find(name, revision):
      repo, commit = found
      files = dict(repo.commits[commit])
      for line in map(json.loads, self.body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
          files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
          files[value["path"]] = self.hub.objects[value["oid"]]
        elif line["key"] == "deletedFile":
          files.pop(value["path"])
      made = repo.commit(files, revision)
      self._send(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{made}", "commitOid": made})


def point_to(url, cache, monkeypatch):
  """Let the library ask the hub at `url`, with a cache of its own and no token, and wait for no network."""
  for name, value in {
      "ENDPOINT": url, "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
      "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True,
      "HF_TOKEN_PATH": str(cache / "token"), "DOWNLOAD_CHUNK_SIZE": 1000}.items():
    monkeypatch.setattr(constants, name, value)
  monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
  monkeypatch.delenv("HF_TOKEN", raising=False)
  download._resolve.cache_clear()


def go_offline(monkeypatch):
  """Forbid requests, as HF_HUB_OFFLINE does, in a process that has asked nothing yet."""
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  download._resolve.cache_clear()


def log_in(monkeypatch, token=TOKEN):
  monkeypatch.setenv("HF_TOKEN", token)
