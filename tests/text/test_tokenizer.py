"""Both forms of a tokenizer's files give the same tokens, and damaged ones are named."""

import json

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from nova_jax.text.tokenizer import END_OF_TEXT, load_tokenizer, token_ids
from nova_jax.utils import limits

MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the")]
VOCAB = {END_OF_TEXT: 0}
for token in sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in MERGES]:
  VOCAB[token] = len(VOCAB)
RUNS = {run: len(VOCAB) + i for i, run in enumerate(["   ", "  ", "\t\t"])}
TEXTS = (
    "", " ", "the the  theme   x    y", "\t\ta\tb\t\t\t", "\r\n the\n\n", "don't they'll 3.14",
    "é ﬁ e\u0301 \u00a0\u200b",
    "🎬👩‍🚀 中文 العربية", f"{END_OF_TEXT}the {END_OF_TEXT}", "\x00\x7f")


@pytest.fixture
def whole(tmp_path):
  """A folder whose tokenizer.json also asks for what an encoder does not want."""
  tokenizer = Tokenizer(BPE(VOCAB, MERGES))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.add_special_tokens([END_OF_TEXT])
  tokenizer.add_tokens(list(RUNS))
  tokenizer.post_processor = TemplateProcessing(single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, 0)])
  tokenizer.enable_truncation(2)
  tokenizer.enable_padding(length=9)
  (tmp_path / "whole").mkdir()
  tokenizer.save(str(tmp_path / "whole" / "tokenizer.json"))
  return tmp_path / "whole"


@pytest.fixture
def pieces(tmp_path):
  """A folder in the older form."""
  folder = tmp_path / "pieces"
  folder.mkdir()
  (folder / "vocab.json").write_text(json.dumps(VOCAB), encoding="utf-8")
  (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, MERGES)), encoding="utf-8")
  (folder / "added_tokens.json").write_text(json.dumps(dict(reversed(RUNS.items()))), encoding="utf-8")
  return folder


def test_known_tokens(whole):
  tokenizer = load_tokenizer(whole)
  ids = token_ids(tokenizer, f"the the   \t\t{END_OF_TEXT}é")
  # No merge crosses an added token, é is two bytes, and nothing is cut, padded or appended.
  assert ids == [VOCAB["the"], VOCAB["Ġthe"], RUNS["   "], RUNS["\t\t"], 0, VOCAB["Ã"], VOCAB["©"]]
  assert token_ids(tokenizer, "") == []


def test_both_forms_agree(whole, pieces):
  one, other = load_tokenizer(whole), load_tokenizer(pieces)
  for text in TEXTS:
    assert token_ids(one, text) == token_ids(other, text), repr(text)


def test_older_form_without_added_tokens_and_with_a_leading_space(pieces):
  (pieces / "added_tokens.json").unlink()
  assert token_ids(load_tokenizer(pieces), "the  ") == [VOCAB["the"], VOCAB["Ġ"], VOCAB["Ġ"]]
  (pieces / "tokenizer_config.json").write_text('{"add_prefix_space": true}', encoding="utf-8")
  assert token_ids(load_tokenizer(pieces), "the") == [VOCAB["Ġthe"]]


def test_no_files_are_named(tmp_path):
  (tmp_path / "vocab.json").write_text("{}", encoding="utf-8")
  with pytest.raises(ValueError, match="expected tokenizer.json, or vocab.json and merges.txt"):
    load_tokenizer(tmp_path)


@pytest.mark.parametrize("file, text", [
    ("tokenizer.json", "{"), ("tokenizer.json", '{"model": {"type": "BPE"}}'), ("vocab.json", "[1, 2]"),
    ("vocab.json", '{"a": 0}'), ("added_tokens.json", '{"  ": "first"}'),
    ("added_tokens.json", '{"  ": 7, "   ": null}'), ("added_tokens.json", "[]"), ("tokenizer_config.json", "{")])
def test_damaged_files_are_named(pieces, file, text):
  (pieces / file).write_text(text, encoding="utf-8")
  with pytest.raises(ValueError, match=file):
    load_tokenizer(pieces)


def test_what_is_no_text_is_refused(whole):
  with pytest.raises(ValueError, match="not valid Unicode"):
    token_ids(load_tokenizer(whole), "half a pair \ud83c")


def rewrite(folder, **parts):
  path = folder / "tokenizer.json"
  path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | parts), encoding="utf-8")


def test_a_pattern_that_backtracks_is_a_value_error(whole):
  """The library panics then, with what isn't even an Exception."""
  rewrite(whole, pre_tokenizer={
      "type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated", "invert": False})
  tokenizer = load_tokenizer(whole)
  with pytest.raises(ValueError, match="in tokenizer.json, may be broken"):
    token_ids(tokenizer, "a" * 60 + "!")


def test_replacements_that_grow_are_refused(whole):
  tenfold = [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}] * 9
  few = {"type": "Sequence", "normalizers": tenfold[:2]}
  rewrite(whole, normalizer=few)
  assert len(token_ids(load_tokenizer(whole), "a")) == 100
  for normalizer in ({"type": "Sequence", "normalizers": tenfold}, {"type": "Sequence", "normalizers": [few, few]}):
    rewrite(whole, normalizer=normalizer)
    with pytest.raises(ValueError, match="lengthen a prompt"):
      load_tokenizer(whole)


def test_a_tokenizer_is_bounded(whole, pieces, monkeypatch):
  monkeypatch.setattr(limits, "TOKENIZER_BYTES", 100)
  for folder in (whole, pieces):
    with pytest.raises(ValueError, match="expected at most 100 bytes"):
      load_tokenizer(folder)
