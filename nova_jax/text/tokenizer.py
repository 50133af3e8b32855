"""The byte-level BPE tokenizer of a checkpoint (Radford et al. 2019, GPT-2), as its files define it.

Two forms are read: `tokenizer.json`, which says everything, and the older `vocab.json` with `merges.txt`, whose rules
are GPT-2's, with `added_tokens.json` for tokens found before any merge (Phi has runs of spaces and tabs there).
Invariant: only the text becomes tokens; none is put before or behind it.
"""

from collections.abc import Callable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from tokenizers.models import BPE

from nova_jax.files import read_json

WHOLE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
VOCAB, MERGES, ADDED = "vocab.json", "merges.txt", "added_tokens.json"
END_OF_TEXT = "<|endoftext|>"  # The one special token of GPT-2's vocabulary.


def load_tokenizer(folder: str | Path) -> Tokenizer:
  """Read the tokenizer of a published folder; `token_ids` applies it.

  Raises:
    ValueError: the folder has no tokenizer, or its files are damaged or contradict each other.
  """
  folder = Path(folder)
  if (folder / WHOLE).is_file():
    tokenizer = _read(folder / WHOLE, lambda: Tokenizer.from_file(str(folder / WHOLE)))
    # The file may ask for both, but the encoder cuts and pads.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
  if not (folder / VOCAB).is_file() or not (folder / MERGES).is_file():
    raise ValueError(f"{folder} has no tokenizer; expected {WHOLE}, or {VOCAB} and {MERGES}")
  tokenizer = _read(folder / VOCAB, lambda: Tokenizer(BPE.from_file(str(folder / VOCAB), str(folder / MERGES))))
  settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space")))
  if tokenizer.token_to_id(END_OF_TEXT) is not None:
    tokenizer.add_special_tokens([END_OF_TEXT])
  if (folder / ADDED).is_file():
    _add(tokenizer, folder / ADDED)
  return tokenizer


def token_ids(tokenizer: Tokenizer, text: str) -> list[int]:
  """Return the numbers of a text's tokens.

  Raises:
    ValueError: half a surrogate pair, which is no text.
  """
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise ValueError(f"prompt {text[:60]!r} is not valid Unicode: {error.reason}") from None
  return tokenizer.encode(text, add_special_tokens=False).ids


def _read(path: Path, load: Callable[[], Tokenizer]) -> Tokenizer:
  try:
    return load()
  except Exception as error:  # The library raises plain Exceptions.
    raise ValueError(f"{path} is not a readable tokenizer: {error}") from None


def _add(tokenizer: Tokenizer, path: Path) -> None:
  """Add tokens; the library numbers them on from the vocabulary, which must be what the file says."""
  added = read_json(path)
  for token in sorted(added, key=lambda token: added[token] if isinstance(added[token], int) else -1):
    tokenizer.add_tokens([AddedToken(token, normalized=False)])
    if tokenizer.token_to_id(token) != added[token]:
      raise ValueError(
          f"{path}: expected {tokenizer.token_to_id(token)} for {token!r}, next in order, got {added[token]!r}")
