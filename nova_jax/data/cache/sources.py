"""Sources of clips and stills with captions, as lists of items in a fixed order.

  a folder                 videos and pictures at any depth, each with NAME.txt or NAME.json beside it
  *.csv, *.jsonl, *.parquet  a row an item: a path relative to the table, or bytes (Parquet), a caption, and if it is a
                           scene of a longer video, its start and end in seconds
  *.tar, or a folder of them  WebDataset: members NAME.mp4, NAME.txt, NAME.json make an item
  a TFDS dataset           the folder of a prepared version, optionally with :SPLIT; stored as ArrayRecord

Invariant: the list depends on the source alone, and every item of it ends in the cache, skipped or rejected.
"""

import csv
import dataclasses
import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from nova_jax.config import CacheConfig
from nova_jax.data.cache.format import Unused
from nova_jax.data.cache.items import Cell, Example, Item, Piece

TABLES = (".csv", ".jsonl", ".parquet")
_TEXTS = (".txt", ".json")
# What a folder is searched for; what these files really are, decoding finds out.
_VIDEOS = ".avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv .3gp".split()
_PICTURES = ".bmp .jpeg .jpg .png .tif .tiff .webp".split()
_SOUNDS = ".aac .flac .m4a .mp3 .ogg .wav".split()  # So that one in place of a video is named, not passed over.
MEDIA = frozenset(_VIDEOS + _PICTURES + _SOUNDS)


class Listing(list[Item]):
  """A source's items in their order; `unused` tells what was found beside them and not used."""

  unused: tuple[Unused, ...] = ()


def open_source(source: str, cfg: CacheConfig) -> Listing:
  """List the items of a source.

  Raises:
    ValueError: it isn't one, or has none.
  """
  path, split = Path(source), ""
  if not path.exists() and ":" in source:
    path, split = Path(source.rpartition(":")[0]), source.rpartition(":")[2]
  if not path.exists():
    raise ValueError(f"--source: there is no {source}; expected a folder, {', '.join(TABLES)}, .tar or a TFDS dataset")
  if split or (path / "dataset_info.json").is_file():
    from nova_jax.data.cache.tfds_source import list_examples  # Slow to import, and only this source needs it.

    items = list_examples(path, split, cfg)
  elif path.is_dir():
    tars = sorted(path.glob("*.tar"))
    items = [item for tar in tars for item in _tar(tar, path)] if tars else _folder(path)
  elif path.suffix.lower() == ".tar":
    items = _tar(path, path.parent)
  elif path.suffix.lower() in TABLES:
    items = _table(path, cfg)
  else:
    raise ValueError(f"--source: {source} is none of a folder, {', '.join(TABLES)}, .tar or a TFDS dataset")
  items = Listing(_unlike(items))
  if not items:
    raise ValueError(f"--source: {source} has no videos or pictures")
  return items


def digest(items: Iterable[Item]) -> str:
  """Return the SHA-256 of what a list of items says, by which a changed source shows: names, texts, sizes of files."""
  found = hashlib.sha256()
  for item in items:
    fields = sorted((name, _brief(value)) for name, value in item.fields.items())
    found.update(repr((item.name, _brief(item.media), fields, item.problem)).encode("utf-8", "backslashreplace"))
  return found.hexdigest()


def _brief(value: Any) -> Any:
  """Return the size of a file, or a value as it is; nothing says where the source lies."""
  if isinstance(value, (Cell, Example)):
    return None
  if not isinstance(value, Piece):
    return repr(value)
  if value.size is not None:
    return value.size
  return value.path.stat().st_size if value.path.is_file() else None


def _unlike(items: Iterable[Item]) -> Iterator[Item]:
  """Say of a second item of one name that it is one."""
  seen: dict[str, int] = {}
  for item in items:
    name = item.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    seen[name] = count = seen.get(name, 0) + 1
    if count == 1:
      yield dataclasses.replace(item, name=name)
    else:
      yield Item(f"{name}#{count}", None, {}, f"the source has {name} before")


def _folder(folder: Path) -> list[Item]:
  files = sorted(
      path for path in folder.rglob("*")
      if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts))
  known = set(files)

  def sidecars(path: Path) -> dict[str, Piece]:
    # NAME.mp4.txt before NAME.txt: for NAME.mp4 and NAME.png to have captions of their own.
    names = {end: [path.with_name(path.name + end), path.with_suffix(end)] for end in _TEXTS}
    found = {end: next((name for name in both if name in known), None) for end, both in names.items()}
    return {end: Piece(name) for end, name in found.items() if name is not None}

  media = [path for path in files if path.suffix.lower() in MEDIA]
  return [Item(path.relative_to(folder).as_posix(), Piece(path), sidecars(path)) for path in media]


def _tar(path: Path, folder: Path) -> list[Item]:
  """Group the members of a tar by what precedes the first dot of their names, in their order."""
  groups: dict[str, list[tuple[str, Piece]]] = {}
  problem = ""
  try:
    with tarfile.open(path, "r:") as tar:
      for member in tar:
        if member.isfile():
          name = PurePosixPath(member.name)
          key = (name.parent / name.name.partition(".")[0]).as_posix()
          groups.setdefault(key, []).append((name.suffix.lower(), Piece(path, member.offset_data, member.size)))
  except tarfile.TarError as error:
    problem = f"the tar is damaged from here on: {error}"
  where, items = path.relative_to(folder).as_posix(), []
  for key, members in groups.items():
    texts = {}
    for end, piece in members:
      texts.setdefault(end, piece) if end in _TEXTS else None
    items += [Item(f"{where}/{key}{end}", piece, texts) for end, piece in members if end in MEDIA]
  return items + ([Item(where, None, {}, problem)] if problem else [])


def _table(path: Path, cfg: CacheConfig) -> list[Item]:
  read = {".csv": _csv, ".jsonl": _jsonl, ".parquet": lambda path: _parquet(path, cfg.path_field)}[path.suffix.lower()]
  rows = list(read(path))
  columns = {name: None for row in rows if isinstance(row, dict) for name in row if isinstance(name, str)}
  for name in ("path_field", "caption_field"):
    if rows and getattr(cfg, name) not in columns:
      raise ValueError(f"{name}: {path} has no {getattr(cfg, name)!r}; it has {', '.join(columns) or 'no columns'}")
  return [_row_item(path, number, row, cfg) for number, row in enumerate(rows, 1)]


def _row_item(path: Path, number: int, row: Mapping[str, Any] | str, cfg: CacheConfig) -> Item:
  """Make an item of a row, or of what is wrong with it."""
  if isinstance(row, str):
    return Item(f"row {number}", None, {}, row)
  place = row.get(cfg.path_field)
  fields = {name: row.get(name) for name in (cfg.caption_field, cfg.short_caption_field, "start", "end")}
  if isinstance(place, Cell):
    return Item(f"row {number}", place, fields)
  if not isinstance(place, str) or not place or "\0" in place:
    return Item(f"row {number}", None, {}, f"{cfg.path_field}: expected the path of a file, got {place!r}")
  return Item(f"row {number}: {place}", Piece(path.parent / place), fields)


def _csv(path: Path) -> Iterator[dict[str, Any]]:
  with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
    reader = csv.DictReader(file)
    try:
      yield from reader
    except csv.Error as error:
      raise ValueError(f"{path}:{reader.line_num}: {error}") from None


def _jsonl(path: Path) -> Iterator[dict[str, Any] | str]:
  with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
    for line in file:
      if line.strip():
        try:
          row = json.loads(line)
        except (ValueError, RecursionError) as error:
          row = f"not JSON: {error}"
        yield row if isinstance(row, (dict, str)) else f"expected a JSON object, got a {type(row).__name__}"


def _parquet(path: Path, column: str) -> Iterator[dict[str, Any]]:
  import pyarrow as pa  # Slow to import, and only this source needs it.
  import pyarrow.parquet as pq

  try:
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    is_text = column in names and pa.types.is_string(file.schema_arrow.field(column).type)
    plain = [name for name in names if name != column or is_text]
    for group in range(file.num_row_groups):
      for row, fields in enumerate(file.read_row_group(group, columns=plain).to_pylist()):
        yield fields if is_text or column not in names else {**fields, column: Cell(path, group, row, column)}
  except pa.ArrowException as error:
    raise ValueError(f"{path} is not Parquet that can be read: {error}") from None
