"""What `launch.cache` takes as its source grows: `python -m benchmarks.cache_growth [--counts 1000,10000]`.

Sources of so many stills are made of few files: hard links to a tar of 1,000 members, or rows of a table that name
1,000 pictures. A stand-in takes the place of decoding, and pixels are latents, so that what is measured is the rest:
listing, claims, reports, shards. Each build is a process of its own; seconds are those of its processor, whatever else
the machine does. The columns are: seconds until its first item is done, and its memory then (the largest since it
began, without that of the imports); items a second, and the same memory at the end, or after `--items` items; seconds
of the whole build, if that comes first; and seconds and memory at the first item of a host that joins when the build
has been interrupted.
"""

import io
import itertools
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from nova_jax.cli import Command

FILES = 1000  # Members of a tar, and pictures that a table names.
CHILD = "NOVA_JAX_GROWTH"
SETTINGS = {"buckets": ((1, 8, 8),), "shard_items": 256}


def picture() -> bytes:
  """Return a PNG of 8 x 8 pixels."""
  file = io.BytesIO()
  Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "png")
  return file.getvalue()


def make(folder: Path, kind: str, count: int) -> Path:
  """Write a source of some kind and return its path."""
  content = picture()
  if kind == "tars":
    first = folder / "tars/000000.tar"
    first.parent.mkdir(parents=True)
    with tarfile.open(first, "w") as tar:
      for i in range(min(FILES, count)):
        for name, data in ((f"{i:04}.png", content), (f"{i:04}.txt", b"a dark square")):
          member = tarfile.TarInfo(name)
          member.size = len(data)
          tar.addfile(member, io.BytesIO(data))
    for i in range(1, count // FILES):
      os.link(first, folder / f"tars/{i:06}.tar")
    return first.parent
  (folder / "in").mkdir(parents=True)
  for i in range(FILES):
    (folder / f"in/{i:04}.png").write_bytes(content)
  rows = ({"path": f"in/{i % FILES:04}.png", "caption": f"dark square {i}"} for i in range(count))
  if kind == "table":
    with (folder / "table.jsonl").open("w", encoding="utf-8") as file:
      file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder / "table.jsonl"
  import pyarrow as pa
  import pyarrow.parquet as pq

  schema = pa.schema({"path": pa.string(), "caption": pa.string()})
  with pq.ParquetWriter(folder / "table.parquet", schema) as writer:
    for _ in range(0, count, 10_000):
      writer.write_table(pa.Table.from_pylist(list(itertools.islice(rows, 10_000)), schema))
  return folder / "table.parquet"


class Enough(Exception):
  """So many items are done."""


def child(source: str, output: str, most: int) -> None:
  """Build a cache, and print what it took as JSON."""
  from nova_jax.config import CacheConfig
  from nova_jax.data.cache.build import build
  from nova_jax.data.cache.clips import failures
  from nova_jax.data.cache.clips.preprocess import Clip
  from nova_jax.data.cache.items.item import Texts

  clip = Clip((1, 8, 8), np.zeros((1, 8, 8, 3), np.uint8), Texts("a dark square"), None, None)
  failures.prepare = lambda item, cfg, channels: clip
  peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  found, begun = {"imports": peak()}, time.process_time()

  def show(done, total, counts):
    now = time.process_time() - begun
    if done and "start" not in found:
      found.update(start=now, start_memory=peak())
    found.update(seconds=now, done=done)
    if done >= most:
      raise Enough

  try:
    build(source, output, CacheConfig(**SETTINGS), progress=show)
    found["finish"] = time.process_time() - begun
  except Enough:
    pass
  print(json.dumps(found | {"memory": peak()}))


def define_flags(values: flags.FlagValues) -> None:
  """Define the flags of this command."""
  flags.DEFINE_list("counts", ["1000", "10000", "100000"], "Items of a source.", flag_values=values)
  flags.DEFINE_list("kinds", ["tars", "table", "parquet"], "Kinds of sources.", flag_values=values)
  flags.DEFINE_integer(
      "items", 10_000, "Items after which a build is ended; 0 for none.", lower_bound=0, flag_values=values)


def main(args: flags.FlagValues) -> None:
  """Print a line for each source."""
  if CHILD in os.environ:
    child(*json.loads(os.environ[CHILD]))
    return
  columns = ("items", "start s", "start MiB", "items/s", "MiB", "whole s", "join s", "join MiB")
  print(f"{'source':<8}" + "".join(f"{column:>12}" for column in columns))
  for kind in args.kinds:
    for count in map(int, args.counts):
      with tempfile.TemporaryDirectory() as folder:
        source = make(Path(folder), kind, count)
        found = run(source, f"{folder}/out", args.items or count + 1)
        joined = run(source, f"{folder}/out", 1) if "finish" not in found else None
      rate = (found["done"] - 1) / max(found["seconds"] - found["start"], 1e-9)
      cells = [f"{count:,}", f"{found['start']:.1f}", f"{found['start_memory'] - found['imports']:.0f}", f"{rate:.0f}",
               f"{found['memory'] - found['imports']:.0f}", f"{found['finish']:.1f}" if "finish" in found else "-"]
      cells += [f"{joined['start']:.1f}", f"{joined['start_memory'] - joined['imports']:.0f}"] if joined else ["-", "-"]
      print(f"{kind:<8}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


def run(source: Path, output: str, most: int) -> dict[str, float]:
  """Build a cache in a process of its own, and return what it took."""
  told = json.dumps([str(source), output, most])
  done = subprocess.run(
      [sys.executable, "-m", "benchmarks.cache_growth"], env=os.environ | {CHILD: told}, check=True,
      stdout=subprocess.PIPE, encoding="utf-8")
  return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
  Command(main, define_flags).run()
