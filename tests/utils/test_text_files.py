"""Text, lines and JSON mean the same on every host, and what can't be read is named by file and line."""

import pytest

from nova_jax.utils import limits
from nova_jax.utils.text_files import decode, parse_json, read_json_lines, read_json_value, read_lines, read_text

MARK = "\ufeff"


def test_lines_end_at_newlines_alone(tmp_path):
  path = tmp_path / "a.txt"
  path.write_bytes(f"{MARK}one\u2028one\r\ntwo\ftwo\rthree\x85three\n\nfive\x1c\n".encode())
  assert read_lines(path) == ["one\u2028one", "two\ftwo", "three\x85three", "", "five\x1c"]
  path.write_bytes(b"no end")
  assert read_lines(path) == ["no end"]
  path.write_bytes(b"")
  assert read_lines(path) == []


def test_a_mark_is_no_part_of_a_text(tmp_path):
  path = tmp_path / "a.txt"
  path.write_bytes(f"{MARK}one\n{MARK}two\nth{MARK}ree\n".encode())
  assert read_text(path) == f"one\ntwo\nth{MARK}ree\n", "two files, one behind the other"


@pytest.mark.parametrize("encoding, name", [
    ("utf-16", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-32", "UTF-32"),
    ("utf-32-be", "UTF-32"), ("utf-32-le", "UTF-32")])
@pytest.mark.parametrize("text", ["prompt,seed\na fox,1\n", "a fox", MARK + "ein Fuchs läuft"])
def test_other_encodings_are_named(encoding, name, text):
  with pytest.raises(ValueError, match=f"^t.csv is {name}, .* iconv -f {name} -t UTF-8$"):
    decode(text.encode(encoding), "t.csv")


@pytest.mark.parametrize("content, message", [
    ("one\r\ntwo é".encode("latin-1"), r"a:2 is not UTF-8: byte 5 of the line is 0xe9"),
    (b"one\rtwo\rthree \xff", "a:3 is not UTF-8: byte 7"), (b"a fox\na \0fox", "a:2: byte 3 of the line is zero")])
def test_lines_and_bytes_are_named(content, message):
  with pytest.raises(ValueError, match=message):
    decode(content, "a")


def test_json_lines_have_their_true_numbers(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text(f'{MARK}\n{{"a": "x\u2028y"}}\n\n  \n[1]', encoding="utf-8")
  assert list(read_json_lines(path)) == [(2, {"a": "x\u2028y"}), (5, [1])]
  path.write_text('1\n\n{"a"', encoding="utf-8")
  with pytest.raises(ValueError, match="a.jsonl:3 is not JSON"):
    list(read_json_lines(path))


@pytest.mark.parametrize("text, message", [
    ("[" * 100_000, "nested too deeply"), ("[" * 300 + "]" * 300, "nested too deeply"),
    ("9" * 5000, "too many digits"), (r'{"a": "\ud800"}', "surrogates"),
    ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands twice"), ("{} {}", "Extra data at character 4$"), ("", "not JSON"),
    ("{\n1", "quotes at line 2, character 1$"),
    ("{'a': 1}", "not JSON"), ('{"a": 1,}', "not JSON")])
def test_json_that_can_not_be_read(text, message):
  with pytest.raises(ValueError, match=f"^f:7.*{message}"):
    parse_json(text, "f:7")


def test_json_with_one_meaning():
  assert parse_json(r'{"a": "\ud83e\udd8a", "b": 1, "b": 1}', "") == {"a": "🦊", "b": 1}


def test_files_that_are_none_or_too_large(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match="gone.txt does not exist"):
    read_text(tmp_path / "gone.txt")
  (tmp_path / "a.json").write_text("[1, 2, 3]", encoding="utf-8")
  assert read_json_value(tmp_path / "a.json") == [1, 2, 3]
  monkeypatch.setattr(limits, "JSON_FILE_BYTES", 5)
  with pytest.raises(ValueError, match="a.json: expected at most 5 bytes, got 9"):
    read_json_value(tmp_path / "a.json")
