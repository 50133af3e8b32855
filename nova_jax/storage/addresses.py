"""Addresses in buckets: which there are, and what each kind of them needs and can do."""

import importlib.util
import logging
import os
import re
from typing import Any

_SCHEMES = "gs|gcs|s3|az|abfs|hf|memory"
_ADDRESS = re.compile(rf"({_SCHEMES})://")
# What `pathlib.Path` makes of an address, and of a path in a bucket.
_COLLAPSED = re.compile(rf"({_SCHEMES}):/|/(gs|s3|memory)/")
# Kinds of buckets that can be used, and the package of each; the last one is this process's memory, for tests.
_PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "memory": ""}


def is_remote(path: str | os.PathLike) -> bool:
  """Return whether a path is an address in a bucket."""
  return _ADDRESS.match(os.fspath(path)) is not None


def is_collapsed(path: str) -> bool:
  """Return whether a local path is what is left of an address."""
  return _COLLAPSED.match(path) is not None and not os.path.isdir(path[: (path + "/").index("/", 1)])


def scheme_of(address: str | os.PathLike) -> str:
  """Return what an address begins with, before ://."""
  return os.fspath(address).partition("://")[0]


def why_not(address: str) -> str | None:
  """Return why an address in a bucket can't be used on this machine; None if it can."""
  scheme = scheme_of(address)
  package = _PACKAGES.get(scheme)
  if package is None:
    return "only gs:// and s3:// addresses can be used"
  if not address.partition("://")[2].strip("/"):
    return f"expected {scheme}://BUCKET/FOLDER"
  if package and importlib.util.find_spec(package) is None:
    return f"addresses with {scheme}:// need the package {package}: pip install {package}"
  return None


def holds_runs(address: str | os.PathLike) -> bool:
  """Return whether training can use a place: a disk, or a kind of bucket whose objects tell who wrote them last.

  Other buckets hold files, but no workdirs, arrays in Orbax's form or shards of caches that are read.
  """
  return not is_remote(address) or scheme_of(address) == "gs"


def filesystem(address: str | os.PathLike) -> Any:
  """Return the file system of all buckets of a kind; fsspec keeps one a process."""
  import fsspec

  # Support of zonal buckets asks another service, of every bucket, for which few accounts have the permission.
  os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
  logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # It prints the traceback of each error that it raises.
  return fsspec.filesystem(scheme_of(address), use_listings_cache=False)  # Other processes write, too.
