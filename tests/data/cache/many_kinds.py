"""A source of every kind at once, of the same bytes on every machine: pictures are written without a library."""

import hashlib
import io
import json
import struct
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq

from nova_jax.config import CacheConfig

CFG = CacheConfig(buckets=((1, 8, 8), (1, 8, 16)), shard_items=7, batch_size=3)


def picture(shade, width=8):
  """Return a BMP of one shade."""
  size = 8 * width * 3
  head = b"BM" + struct.pack("<IHHI", 54 + size, 0, 0, 54)
  return head + struct.pack("<IiiHHIIiiII", 40, width, 8, 1, 24, 0, size, 0, 0, 0, 0) + bytes([shade]) * size


def tar_of(members):
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
    for name, content in members:
      member = tarfile.TarInfo(name)
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  return file.getvalue()


def write_source(folder):
  """Write loose files at several depths, tars, tables, captions in a table, links, and what is passed over."""
  for name in ("a", "b/c", "z", "elsewhere/inner"):
    (folder / "in" / name).mkdir(parents=True) if name[0] != "e" else (folder / name).mkdir(parents=True)
  root = folder / "in"

  def still(path, shade, caption=None, width=8):
    path.write_bytes(picture(shade, width))
    if caption is not None:
      path.with_suffix(".txt").write_text(caption, encoding="utf-8")

  for i in range(9):
    still(root / f"{i}.bmp", 10 + i, f"loose {i}", 8 if i % 3 else 16)
    still(root / f"a/{i}.bmp", 30 + i, f"deeper {i}" if i != 4 else None)
  still(root / "b/c/deep.bmp", 50, "deepest")
  still(root / "b/x.png", 51, "a picture of another ending")
  (root / "b/broken.png").write_bytes(b"no picture")
  (root / "b/broken.txt").write_text("broken", encoding="utf-8")
  still(folder / "elsewhere/inner/linked.bmp", 60, "behind a link")
  (root / "link").symlink_to(folder / "elsewhere")
  (root / "again").symlink_to(root / "a")
  (root / "b/second").symlink_to(folder / "elsewhere/inner")
  (root / "gone.bmp").symlink_to("nowhere.bmp")
  for i, place in enumerate(("a-tar.tar", "a/2.tar", "m.tar", "z/last.tar")):
    members = [(f"{k:02}.{end}", picture(70 + 10 * i + k) if end == "bmp" else f"member {k}".encode())
               for k in range(10) for end in ("bmp", "txt")]
    members += [("lonely.txt", b"no clip"), (f".hidden{i}/x.bmp", picture(1)), ("notes.md", b"notes")]
    (root / place).write_bytes(tar_of([*members, ("00.bmp", picture(2))]))
  (root / "cut.tar").write_bytes(tar_of([("k.bmp", picture(3)), ("k.txt", b"kept"), ("l.bmp", picture(4))])[:2100])
  rows = [{"path": f"{i}.bmp" if i != 3 else None, "caption": f"row {i}", "start": None} for i in range(9)]
  pq.write_table(pa.Table.from_pylist(rows), root / "rows.parquet", row_group_size=4)
  pq.write_table(pa.table({"other": [1]}), root / "other.parquet")
  (root / "bad.parquet").write_bytes(b"PAR1 not really")
  names = ["z/0.bmp", "z/1.bmp", "z/1.bmp", "z/none.bmp", "0.bmp"]
  (root / "metadata.jsonl").write_text("".join(
      json.dumps({"file_name": name, "text": f"said of {name}"}) + "\n" for name in names), encoding="utf-8")
  (root / "z/metadata.csv").write_text("file_name,text\n1.bmp,a third time\nnever.bmp,none\n", encoding="utf-8")
  for i in range(3):
    still(root / f"z/{i}.bmp", 120 + i)
  for name in (".secret", "a/.secret", "b/.secret", "z/._twin", "notes.md", "a/notes.md", "b/lonely.txt", "lonely.txt"):
    (root / name).write_text("words", encoding="utf-8")
  return root


def write_table(folder):
  """Write a table that names the pictures of the source, with rows that can't be used."""
  rows = [f'{{"path": "in/{i % 9}.bmp", "caption": "row {i}", "start": {"null" if i % 2 else 0}}}' for i in range(40)]
  rows[5] = rows[9] = "no json"
  rows[7] = '{"path": "in/none.bmp", "caption": "none"}'
  rows[11] = '{"path": ["in/1.bmp"], "caption": "a list"}'
  rows[12] = '{"path": "in/1.bmp", "caption": {"bytes": "eA=="}}'
  rows[13] = '{"path": "in/1.bmp", "caption": 1.5, "start": "0:01"}'
  (folder / "table.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
  return folder / "table.jsonl"


def digests(folder):
  """Return the beginnings of the SHA-256 of a cache's files."""
  return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in sorted(folder.iterdir())}


def digest(folder):
  """Return one digest of them all."""
  return hashlib.sha256(repr(sorted(digests(folder).items())).encode()).hexdigest()[:16]
