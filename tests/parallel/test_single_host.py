"""One host of a pod, as the environment, the PCI bus and Google's metadata server describe it."""

import http.server
import subprocess
import sys
import threading

import pytest
from absl import flags

from nova_jax.cli import Command
from nova_jax.parallel import single_host
from nova_jax.parallel.supervisor import shard_for_process
from nova_jax.utils.errors import UserError

NAMES = ("TPU_PROCESS_BOUNDS", "TPU_CHIPS_PER_PROCESS_BOUNDS", "TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES",
         "TPU_PROCESS_ADDRESSES", "TPU_PROCESS_PORT", "CLOUD_TPU_TASK_ID", "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES",
         "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID", "JAX_COORDINATOR_ADDRESS", "SLURM_PROCID",
         "OMPI_COMM_WORLD_RANK")


@pytest.fixture(autouse=True)
def no_pod(monkeypatch):
  """Begins with an environment that says nothing, and forgets what a test's host set."""
  single_host._metadata.cache_clear()
  for name in NAMES:
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)
  yield
  single_host._metadata.cache_clear()


def environment():
  return {name: single_host.os.environ[name] for name in NAMES if name in single_host.os.environ}


@pytest.fixture
def chips(monkeypatch):
  """Offers to make this a machine with some chips."""
  return lambda count: monkeypatch.setattr(single_host, "count_chips", lambda: count)


@pytest.mark.parametrize("count, bounds, visible", [
    (1, "1,1,1", "0"), (4, "2,2,1", "0,1,2,3"), (8, "2,4,1", "0,1,2,3,4,5,6,7")])
def test_a_host_sees_its_own_chips(chips, count, bounds, visible):
  chips(count)
  single_host.isolate_host()
  found = environment()
  assert found["TPU_PROCESS_BOUNDS"] == "1,1,1" and found["TPU_CHIPS_PER_PROCESS_BOUNDS"] == bounds
  assert found["TPU_VISIBLE_CHIPS"] == visible and found["CLOUD_TPU_TASK_ID"] == "0"
  assert found["TPU_PROCESS_ADDRESSES"] == f"localhost:{found['TPU_PROCESS_PORT']}"


def test_a_machine_without_chips_and_one_whose_chips_are_chosen_stay_as_they_are(chips, monkeypatch):
  chips(0)
  single_host.isolate_host()
  assert environment() == {}
  chips(4)
  monkeypatch.setenv("TPU_VISIBLE_CHIPS", "2")
  single_host.isolate_host()
  assert environment() == {"TPU_VISIBLE_CHIPS": "2"}


def test_chips_are_counted_on_the_bus(tmp_path):
  for name, vendor, device in (
      ("a", "0x1ae0", "0x0063"), ("b", "0x1ae0", "0x0063"), ("c", "0x1ae0", "0x0042"), ("d", "0x8086", "0x0063")):
    (tmp_path / name).mkdir()
    (tmp_path / name / "vendor").write_text(vendor + "\n", encoding="utf-8")
    (tmp_path / name / "device").write_text(device + "\n", encoding="utf-8")
  (tmp_path / "e").mkdir()
  (tmp_path / "e/vendor").write_text("0x1ae0\n", encoding="utf-8")  # Without a device.
  assert single_host.count_chips(str(tmp_path)) == 2


def test_commands_with_chips_of_their_own_say_so_before_they_begin(chips):
  chips(4)
  for own in (False, True):
    found = {}
    command = Command(lambda args, found=found: found.update(environment()), lambda values: flags.DEFINE_bool(
        "any", False, "Any.", flag_values=values), own_chips=own)
    assert command.execute(["any"]) == 0
    assert bool(found) == own


def test_a_pod_of_gke_knows_its_number(monkeypatch):
  monkeypatch.setenv("TPU_WORKER_ID", "3")
  monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b,c,d")
  assert shard_for_process("auto", None, None) == (3, 4)
  monkeypatch.setenv("MEGASCALE_NUM_SLICES", "2")
  monkeypatch.setenv("MEGASCALE_SLICE_ID", "1")
  assert shard_for_process("auto", None, None) == (7, 8)
  monkeypatch.setenv("TPU_WORKER_ID", "first")
  with pytest.raises(UserError, match="--coordinator=auto: this TPU host does not say which one it is"):
    shard_for_process("auto", None, None)


@pytest.fixture
def metadata(monkeypatch):
  """Serves the attributes of a TPU VM, as Google's server does."""
  attributes = {}

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      key = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
      known = key in attributes and self.headers["Metadata-Flavor"] == "Google"
      self.send_response(200 if known else 404)
      self.end_headers()
      self.wfile.write(attributes[key].encode() if known else b"")

    def log_message(self, *_):
      pass

  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
  yield attributes
  server.shutdown()


def test_a_tpu_vm_knows_its_number(chips, metadata):
  chips(4)
  metadata |= {"agent-worker-number": "1", "worker-network-endpoints": "unknown:unknown:10.0.0.1,x:y:10.0.0.2"}
  assert shard_for_process("auto", None, None) == (1, 2)
  single_host._metadata.cache_clear()
  metadata["tpu-env"] = "ACCELERATOR_TYPE: 'v5litepod-8'\nMEGASCALE_NUM_SLICES: '3'\nMEGASCALE_SLICE_ID: '2'\n"
  assert shard_for_process("auto", None, None) == (5, 6)


def test_a_machine_that_is_no_host_of_a_pod_says_so(chips, metadata):
  chips(4)
  with pytest.raises(UserError, match="this is no TPU VM, pod of GKE, Slurm or Open MPI job"):
    shard_for_process("auto", None, None)


def test_nothing_of_this_imports_jax():
  code = ("import sys; from nova_jax.parallel import supervisor, single_host; single_host.isolate_host(); "
          "sys.exit('jax' in sys.modules)")
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0
