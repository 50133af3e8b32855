"""Where files lie: on this machine, or in a bucket, whose address begins with gs://, s3:// or memory://.

`as_path` returns a `pathlib.Path` of either kind. A path in a bucket answers the same methods, with these differences:

- An object appears whole when its upload ends, so a single file needs no temporary name. There is no appending, and no
  renaming of folders at once: a folder is complete when the object that says so is there, which is written last.
- There are no empty folders, links, devices or locks. `write_version` is what locks are built from.

Invariants: failures of a bucket are `OSError`s with a number and the address, like those of a disk; what may pass is
tried again for half a minute before. No address ever becomes the name of a local folder.
"""

from nova_jax.storage.addresses import holds_runs, is_remote, why_not
from nova_jax.storage.copies import download, fetched, local_copy, names_below, upload
from nova_jax.storage.failures import telling
from nova_jax.storage.paths import RemotePath, as_path, join
from nova_jax.storage.versions import create, read_version, remove_version, write_version

__all__ = (
    "RemotePath", "as_path", "create", "download", "fetched", "holds_runs", "is_remote", "join", "local_copy",
    "names_below", "read_version", "remove_version", "telling", "upload", "why_not", "write_version")
