"""Manifests for GKE: a JobSet that trains on all hosts of one TPU slice or several.

The number of hosts follows from the topology, as `launch.compile` takes it. A lost host starts all of them again, from
the last checkpoint; bad input, exit code 2, is never tried again.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence

from nova_jax.tools.aot.topology import Topology
from nova_jax.utils.errors import UserError

# Names of the node pools' accelerators, by our names of chips.
ACCELERATORS: Mapping[str, str] = {
    "v4": "tpu-v4-podslice", "v5e": "tpu-v5-lite-podslice", "v5p": "tpu-v5p-slice", "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x"}
_HOST = 4  # Chips of a host in a slice of several hosts.
# Chips of slices that are one host.
_ONE_HOST = {"v4": (4,), "v5e": (1, 4, 8), "v5p": (4,), "v6e": (1, 4, 8), "tpu7x": (4,)}
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


@dataclasses.dataclass(frozen=True)
class Cluster:
  """Where and as what a run is started.

  Attributes:
    image: container image, made of the stage `tpu` of the Dockerfile.
    name: of the JobSet.
    queue: LocalQueue of Kueue; "" without Kueue.
    service_account: of Kubernetes, which may read and write the bucket.
    spot: whether the nodes are spot machines.
    restarts: number of times that all hosts are started again after a loss.
  """

  image: str
  name: str = "nova"
  queue: str = ""
  service_account: str = "nova"
  spot: bool = False
  restarts: int = 50


def chips_per_host(topology: Topology) -> int:
  """Return the number of chips of each host of a slice.

  Raises:
    UserError: a part of a host that no node pool offers.
  """
  chips = math.prod(topology.shape)
  if chips in _ONE_HOST[topology.chip.name]:
    return chips
  if chips < 2 * _HOST or chips % _HOST:
    raise UserError(f"--topology: GKE has no node pool of {topology.name}; {_HOST} chips make a host")
  return _HOST


def render(topology: Topology, cluster: Cluster, arguments: Sequence[str]) -> str:
  """Return a manifest for `kubectl apply -f`.

  Args:
    topology: slices to train on.
    cluster: see there.
    arguments: of `launch.train`, --coordinator excepted.

  Raises:
    UserError: a topology that GKE does not offer, or a name that Kubernetes does not allow.
  """
  if not _NAME.fullmatch(cluster.name):
    raise UserError(f"--name: expected lower-case letters, digits and dashes, at most 40, got {cluster.name!r}")
  per_host = chips_per_host(topology)
  hosts = math.prod(topology.shape) // per_host
  quoted = lambda text: json.dumps(text, ensure_ascii=False)  # A JSON string is one of YAML, too.
  command = ["nova-jax", "train", "--coordinator=auto", *arguments]
  lines = _TEMPLATE.format(
      name=quoted(cluster.name), restarts=cluster.restarts, slices=topology.num_slices, hosts=hosts,
      account=quoted(cluster.service_account), accelerator=ACCELERATORS[topology.chip.name],
      shape=quoted("x".join(map(str, topology.shape))), image=quoted(cluster.image), chips=per_host,
      command="\n".join(f"              - {quoted(word)}" for word in command)).splitlines()
  drop = ([] if cluster.spot else ["# spot"]) + ([] if cluster.queue else ["# queue"])
  kept = [line for line in lines if not any(line.endswith(mark) for mark in drop)]
  queue = quoted(cluster.queue)
  return "\n".join(re.sub(r"  # (spot|queue)$", "", line).replace("QUEUE", queue) for line in kept) + "\n"


_TEMPLATE = """\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {name}
  labels:  # queue
    kueue.x-k8s.io/queue-name: QUEUE  # queue
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: {restarts}
    restartStrategy: Recreate
    rules:
    - name: badinput
      action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: slice
    replicas: {slices}
    template:
      spec:
        parallelism: {hosts}
        completions: {hosts}
        completionMode: Indexed
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes:
              containerName: train
              operator: In
              values: [2]
        template:
          spec:
            restartPolicy: Never
            serviceAccountName: {account}
            terminationGracePeriodSeconds: 120
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: {accelerator}
              cloud.google.com/gke-tpu-topology: {shape}
              cloud.google.com/gke-spot: "true"  # spot
            tolerations:
            - key: google.com/tpu
              operator: Exists
              effect: NoSchedule
            - key: cloud.google.com/gke-spot  # spot
              operator: Exists  # spot
              effect: NoSchedule  # spot
            containers:
            - name: train
              image: {image}
              command:
{command}
              ports:
              - containerPort: 8471
              - containerPort: 8482
              securityContext:
                privileged: true
                runAsUser: 0
              resources:
                requests:
                  google.com/tpu: {chips}
                limits:
                  google.com/tpu: {chips}
"""
