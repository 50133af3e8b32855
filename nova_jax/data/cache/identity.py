"""Which encoders made a cache and what it holds, as digests that a model which learns from it is checked against.

Invariant: the same weights have the same digest, whichever form they are stored in, and the same records have the same
digest, wherever the cache lies.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from nova_jax import autoencoders
from nova_jax.autoencoders import Autoencoder
from nova_jax.checkpoints.components import VAE
from nova_jax.checkpoints.hub import part_folder
from nova_jax.checkpoints.model_folder import open_single_part
from nova_jax.checkpoints.part_digest import weights_digest
from nova_jax.data.cache.format import AutoencoderInfo, read_manifest
from nova_jax.utils.fields import to_dict


def describe_autoencoder(name: str, autoencoder: Autoencoder) -> AutoencoderInfo:
  """Say which autoencoder this is; reads all weights of one that is not built in.

  Args:
    name: it was made by: a built-in one, or a folder.
    autoencoder: that was made.
  """
  if name in autoencoders.BUILT_IN:
    kind, digest, time_stride = name, sha256(repr(autoencoder)), 1
  else:
    part = open_single_part(part_folder(name, VAE), VAE, autoencoders.BUILT_IN)
    kind, digest = part.class_name, weights_digest(part)
    time_stride = autoencoders.NETWORKS[kind].time_tiles.stride
  scaling = (tuple(np.ravel(value).tolist()) for value in (autoencoder.shift, autoencoder.factor))
  return AutoencoderInfo(
      kind, digest, autoencoder.latent_dim, autoencoder.spatial_stride, time_stride, *scaling)


def manifest_digest(folder: str | Path) -> str:
  """Return the digest of what a cache holds: its records in their order, and the encoders that made them.

  Where the cache, its source and its encoders lie does not change it, nor does what became of items without a record.

  Raises:
    UserError: the folder is no finished cache.
  """
  manifest = read_manifest(folder, check_shards=False)
  shards = [(shard.bucket, shard.records, shard.sha256) for shard in manifest.shards]
  encoders = [info and to_dict(info) for info in (manifest.autoencoder, manifest.text_encoder)]
  return sha256(json.dumps([shards, encoders], sort_keys=True))


def sha256(text: str) -> str:
  """Return the SHA-256 of a text."""
  return hashlib.sha256(text.encode()).hexdigest()
