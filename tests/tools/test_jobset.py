"""Files for people's launchers: manifests of GKE against a strict schema, the Dockerfile, SkyPilot's task."""

import copy
import re
import tomllib
from pathlib import Path

import commands
import pytest
import yaml

from nova_jax.tools.aot.pods import TOPOLOGIES
from nova_jax.tools.aot.topology import parse_topology
from nova_jax.tools.jobset import Cluster, render
from nova_jax.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TRAIN = [
    "--config=nova_d48w1024_sd512:v6e", "--workdir=gs://BUCKET/runs/sd512",
    "--config.data.sources[0].path=gs://BUCKET/caches/sd512", "--config.autoencoder=BAAI/nova-d48w1024-sd512",
    "--config.text_encoder=BAAI/nova-d48w1024-sd512"]
IMAGE = "REGION-docker.pkg.dev/PROJECT/REPO/nova_jax:TAG"

# The part of JobSet v1alpha2 and of what it holds (batch/v1, core/v1) that manifests use; a field ending in ! must be
# there, and no other may be. A list has one entry for its items, a tuple has the values that are allowed.
TEXTS = {"*": str}
AMOUNTS = {"google.com/tpu!": int}
CONTAINER = {
    "name!": str, "image!": str, "command": [str], "ports": [{"containerPort!": int}],
    "securityContext": {"privileged": bool, "runAsUser": int}, "resources": {"requests": AMOUNTS, "limits": AMOUNTS}}
POD = {
    "restartPolicy!": ("Never", "OnFailure"), "serviceAccountName": str, "terminationGracePeriodSeconds": int,
    "nodeSelector": TEXTS, "containers!": [CONTAINER], "tolerations": [
        {"key": str, "operator": ("Exists", "Equal"), "value": str, "effect": ("NoSchedule", "NoExecute")}]}
JOB = {
    "parallelism": int, "completions": int, "completionMode": ("Indexed", "NonIndexed"), "backoffLimit": int,
    "template!": {"spec!": POD}, "podFailurePolicy": {"rules!": [{
        "action!": ("FailJob", "FailIndex", "Ignore", "Count"), "onExitCodes": {
            "containerName": str, "operator!": ("In", "NotIn"), "values!": [int]}}]}}
SCHEMA = {
    "apiVersion!": ("jobset.x-k8s.io/v1alpha2",), "kind!": ("JobSet",),
    "metadata!": {"name!": str, "labels": TEXTS, "annotations": TEXTS},
    "spec!": {
        "failurePolicy": {
            "maxRestarts": int, "restartStrategy": ("Recreate", "BlockingRecreate"), "rules": [{
                "name!": str, "action!": ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"),
                "onJobFailureReasons": [("BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes",
                                         "MaxFailedIndexesExceeded", "PodFailurePolicy")]}]},
        "replicatedJobs!": [{"name!": str, "replicas": int, "template!": {"spec!": JOB}}]}}


def problems(value, schema, where="manifest"):
  """Yield what a value has that its schema does not allow."""
  if isinstance(schema, dict):
    if not isinstance(value, dict):
      yield f"{where}: expected an object"
      return
    known = {name.rstrip("!"): inner for name, inner in schema.items()}
    needed = [name[:-1] for name in schema if name[-1] == "!"]
    yield from (f"{where}.{name} is missing" for name in needed if name not in value)
    for name, inner in value.items():
      if name not in known and "*" not in known:
        yield f"{where}.{name} is not known"
      else:
        yield from problems(inner, known.get(name, known.get("*")), f"{where}.{name}")
  elif isinstance(schema, list):
    if not isinstance(value, list) or not value:
      yield f"{where}: expected a list"
    for i, item in enumerate(value):
      yield from problems(item, schema[0], f"{where}[{i}]")
  elif isinstance(schema, tuple):
    if value not in schema:
      yield f"{where}: {value!r} is none of {schema}"
  elif type(value) is not schema:
    yield f"{where}: expected {schema.__name__}, got {value!r}"


def parsed(topology, **cluster):
  return yaml.safe_load(render(parse_topology(topology), Cluster(IMAGE, **cluster), TRAIN))


@pytest.mark.parametrize("topology, hosts, chips", [
    *((name, {"v4": 16, "v5e": 64, "v5p": 16, "v6e": 16, "tpu7x": 16}[chip], 4) for chip, name in TOPOLOGIES.items()),
    ("v6e:2x2", 1, 4), ("v5e:2x4", 1, 8), ("v5e:1x1", 1, 1), ("v4:2x2x1", 1, 4), ("v5e:4x4", 4, 4)])
@pytest.mark.parametrize("cluster", [{}, {"spot": True, "queue": "tpu", "name": "a-1"}])
def test_a_manifest_has_the_hosts_of_its_topology(topology, hosts, chips, cluster):
  manifest = parsed(topology, **cluster)
  assert list(problems(manifest, SCHEMA)) == []
  (job,) = manifest["spec"]["replicatedJobs"]
  pod = job["template"]["spec"]["template"]["spec"]
  assert job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"] == hosts
  amounts = {"google.com/tpu": chips}
  assert pod["containers"][0]["resources"] == {"requests": amounts, "limits": amounts}
  assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology.partition(":")[2]
  assert ("cloud.google.com/gke-spot" in pod["nodeSelector"]) == bool(cluster) == ("labels" in manifest["metadata"])


def test_bad_input_is_never_tried_again_and_a_lost_host_is():
  spec = parsed("v6e:8x8", restarts=7)["spec"]
  job = spec["replicatedJobs"][0]["template"]["spec"]
  (rule,) = job["podFailurePolicy"]["rules"]
  assert rule == {"action": "FailJob", "onExitCodes": {"containerName": "train", "operator": "In", "values": [2]}}
  assert job["template"]["spec"]["containers"][0]["name"] == "train"
  assert job["template"]["spec"]["restartPolicy"] == "Never"  # Which a pod failure policy needs.
  assert spec["failurePolicy"]["rules"][0]["action"] == "FailJobSet"
  assert spec["failurePolicy"]["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
  assert spec["failurePolicy"]["maxRestarts"] == 7 and job["backoffLimit"] == 0


def test_two_slices_are_two_jobs():
  assert parsed("v5e:16x16*2")["spec"]["replicatedJobs"][0]["replicas"] == 2


def test_the_schema_is_strict():
  for path, key, value in (
      (("spec", "failurePolicy"), "maxRestart", 3), (("spec", "replicatedJobs", 0, "template", "spec"), "parallel", 1),
      (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec"), "restartPolicy", "Always"),
      (("spec", "replicatedJobs", 0), "replicas", "1")):
    manifest = inner = copy.deepcopy(parsed("v6e:8x8"))
    for step in path:
      inner = inner[step]
    inner[key] = value
    assert len(list(problems(manifest, SCHEMA))) == 1
  assert "manifest.spec is missing" in problems({"apiVersion": "v1"}, SCHEMA)


def test_words_of_the_command_stay_whole():
  manifest = yaml.safe_load(render(
      parse_topology("v6e:2x2"), Cluster(IMAGE), ["--workdir=gs://a/ü", "--config.note=a: {b} # 'c' \"d\""]))
  (container,) = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
  assert container["command"] == [
      "nova-jax", "train", "--coordinator=auto", "--workdir=gs://a/ü", "--config.note=a: {b} # 'c' \"d\""]


@pytest.mark.parametrize("topology, cluster, message", [
    ("v6e:1x2", {}, "GKE has no node pool of v6e:1x2"), ("v4:1x1x1", {}, "GKE has no node pool of v4:1x1x1"),
    ("v6e:8x8", {"name": "Nova_1"}, "--name: expected lower-case letters, digits and dashes")])
def test_what_kubernetes_does_not_have_is_refused(topology, cluster, message):
  with pytest.raises(UserError, match=message):
    parsed(topology, **cluster)


def test_the_command_prints_the_manifest_of_the_repository():
  done = commands.run("jobset", "--topology=v6e:8x8", f"--image={IMAGE}", "--spot", "--", *TRAIN)
  assert done.returncode == 0
  assert done.stdout == (ROOT / "launch/gke/jobset.yaml").read_text(encoding="utf-8")
  done = commands.run("jobset", "--topology=v6e:8x8", f"--image={IMAGE}", "--", TRAIN[0])
  assert done.returncode == 2 and "--workdir is missing" in done.stderr
  done = commands.run("jobset", "--topology=v6e:8x8", f"--image={IMAGE}", "--", "--config.seed=1", TRAIN[1])
  assert done.returncode == 2 and "--config is missing" in done.stderr
  done = commands.run("jobset", "--topology=v6e:8x8", f"--image={IMAGE}", "--", TRAIN[0], "--workdir", "runs/x")
  assert done.returncode == 2 and "expected an address such as gs://BUCKET/runs/NAME, got 'runs/x'" in done.stderr


def test_the_dockerfile_has_a_stage_for_each_machine_and_no_rights():
  text = (ROOT / "launch/Dockerfile").read_text(encoding="utf-8")
  stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)
  assert {"tpu", "gpu", "cpu"} <= {name for _, name in stages} and stages[-1][1] == "tpu"
  extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
  for stage in ("tpu", "gpu", "cpu"):
    assert ("base", stage) in stages and f"COPY --from=build-{stage} /venv /venv" in text
    (installed,) = re.findall(rf"AS build-{stage}\nRUN \$INSTALL '\.\[([a-z,]+)\]'", text)
    assert set(installed.split(",")) <= extras.keys() and (stage in installed or stage == "cpu")
  base = text[text.index("AS base") : text.index("FROM base")]
  assert "USER nova" in base and 'ENTRYPOINT ["nova-jax"]' in base
  sent = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] == "!"}
  for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE):
    assert all((ROOT / name).exists() and name in sent for name in line.split())


def test_the_task_of_skypilot_runs_what_there_is():
  task = yaml.safe_load((ROOT / "launch/skypilot.yaml").read_text(encoding="utf-8"))
  assert task["resources"]["use_spot"] and len(task["resources"]["any_of"]) > 1
  config = task["envs"]["CONFIG"].partition(":")[0]
  assert (ROOT / f"configs/{config}.py").is_file()
  assert "nova-jax train --coordinator=auto --config=$CONFIG --workdir=$RUN" in task["run"]
  assert set(re.findall(r"\$(\w+)", task["run"])) == task["envs"].keys(), "what it uses is what can be given"
