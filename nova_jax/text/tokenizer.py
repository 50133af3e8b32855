"""The byte-level BPE tokenizer of a checkpoint (Radford et al. 2019, GPT-2), read from its files.

There are two formats: `tokenizer.json`, which is complete, and the older `vocab.json` with `merges.txt`, for which the
rules are those of GPT-2. `added_tokens.json` then has tokens that are matched before any merge (in Phi, runs of spaces
and tabs). Invariant: no tokens are added before or after the text.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from tokenizers.models import BPE

from nova_jax.storage import as_path, local_copy
from nova_jax.utils import limits
from nova_jax.utils.errors import UserError
from nova_jax.utils.files import check_fetched, read_json

WHOLE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
VOCAB, MERGES, ADDED = "vocab.json", "merges.txt", "added_tokens.json"
END_OF_TEXT = "<|endoftext|>"  # The only special token of GPT-2's vocabulary.


def load_tokenizer(folder: str | Path) -> Tokenizer:
  """Read the tokenizer of a published folder; `token_ids` applies it.

  Raises:
    UserError: the folder has no tokenizer, or its files are damaged or contradict each other.
  """
  folder = as_path(folder)
  if (folder / WHOLE).exists() or (folder / WHOLE).is_symlink():
    _check_growth(folder / WHOLE)
    with _library_errors(f"{folder / WHOLE} is not a readable tokenizer"):
      tokenizer = Tokenizer.from_file(str(local_copy(folder / WHOLE)))
    # The file may request truncation and padding, but the encoder does both.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
  if not (folder / VOCAB).is_file() or not (folder / MERGES).is_file():
    raise UserError(f"{folder} has no tokenizer; expected {WHOLE}, or {VOCAB} and {MERGES}")
  for name in (VOCAB, MERGES):
    check_fetched(folder / name)
    if (folder / name).stat().st_size > limits.TOKENIZER_BYTES:
      raise UserError(f"{folder / name}: expected at most {limits.TOKENIZER_BYTES:,} bytes")
  with _library_errors(f"{folder / VOCAB} is not a readable tokenizer"):
    tokenizer = Tokenizer(BPE.from_file(*(str(local_copy(folder / name)) for name in (VOCAB, MERGES))))
  settings = read_json(folder / SETTINGS, limits.CONFIG_BYTES) if (folder / SETTINGS).is_file() else {}
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space")))
  if tokenizer.token_to_id(END_OF_TEXT) is not None:
    tokenizer.add_special_tokens([END_OF_TEXT])
  if (folder / ADDED).is_file():
    _add(tokenizer, folder / ADDED)
  return tokenizer


def token_ids(tokenizer: Tokenizer, text: str) -> list[int]:
  """Return the ids of a text's tokens.

  Raises:
    UserError: the text has half of a surrogate pair, which is not valid Unicode.
  """
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise UserError(f"prompt {text[:60]!r} is not valid Unicode: {error.reason}") from None
  with _library_errors(
      f"the model's tokenizer can't read the prompt {text[:60]!r}; its rules, in {WHOLE}, may be broken"):
    return tokenizer.encode(text, add_special_tokens=False).ids


@contextlib.contextmanager
def _library_errors(what: str) -> Generator[None]:
  """Turn any error of the library into a UserError that begins with `what`."""
  try:
    yield
  except BaseException as error:
    # The library raises plain Exceptions. A panic, for instance by a pattern that backtracks, is only a BaseException.
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
      raise
    raise UserError(f"{what}: {str(error)[:200]}") from None


def _check_growth(path: Path) -> None:
  """Refuse rules that could make a prompt too long for memory, since each replacement may lengthen earlier ones."""
  check_fetched(path)
  growth, rules = 1, [read_json(path, limits.TOKENIZER_BYTES).get(part) for part in ("normalizer", "pre_tokenizer")]
  while rules:
    rule = rules.pop()
    if not isinstance(rule, dict):  # None, or a type that the library refuses.
      continue
    if rule.get("type") == "Precompiled":
      raise UserError(f"{path}: a normalizer of the type Precompiled is not supported")
    growth *= 1 + max(_length(rule.get(name)) for name in ("content", "prepend", "replacement"))
    rules += [inner for inner in rule.values() if isinstance(inner, dict)]
    rules += [inner for inners in rule.values() if isinstance(inners, list) for inner in inners]
    if growth > limits.TOKENIZER_GROWTH:
      raise UserError(
          f"{path}: expected replacements that lengthen a prompt {limits.TOKENIZER_GROWTH:,} times at most, got more")


def _length(value: Any) -> int:
  return len(value) if isinstance(value, str) else 0


def _add(tokenizer: Tokenizer, path: Path) -> None:
  """Add tokens. The library numbers them after the vocabulary, and the file must have the same numbers."""
  added = read_json(path, limits.TOKENIZER_BYTES)
  for token in sorted(added, key=lambda token: added[token] if isinstance(added[token], int) else -1):
    tokenizer.add_tokens([AddedToken(token, normalized=False)])
    if tokenizer.token_to_id(token) != added[token]:
      raise UserError(
          f"{path}: expected {tokenizer.token_to_id(token)} for {token!r}, next in order, got {added[token]!r}")
