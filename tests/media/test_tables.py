"""Tables are read strictly: each row is what its line says, or says what is wrong with it."""

import json

import pytest
from pipeline.test_prompts import settings_in

from nova_jax.evals.benchmarks.layout import read_layout
from nova_jax.media.tables import check_rows, read_table
from nova_jax.utils import limits

MARK = "\ufeff"


def table(tmp_path, name, content):
  path = tmp_path / name
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return read_table(path)


def rows(found):
  return [row.problem or row.values for row in found.rows]


def test_csv_as_people_and_programs_write_it(tmp_path):
  found = table(tmp_path, "a.csv", f'{MARK}path,caption,\r\na.mp4,"one, ""two""\r\nthree",\r\n\r\nb.mp4,12" wide,\r\n')
  assert found.columns == ("path", "caption")
  assert rows(found) == [{"path": "a.mp4", "caption": 'one, "two"\r\nthree'}, {"path": "b.mp4", "caption": '12" wide'}]
  assert [row.where.rpartition(":")[2] for row in found.rows] == ["2", "5"], "lines, of which a cell may have many"
  pandas = table(tmp_path, "b.csv", ",path,seed\n0,a,\n1,b\u2028c,3\n")
  assert pandas.columns == ("path", "seed") and rows(pandas) == [
      {"path": "a", "seed": ""}, {"path": "b\u2028c", "seed": "3"}]
  assert rows(table(tmp_path, "mac.csv", "path\ra\rb\r")) == [{"path": "a"}, {"path": "b"}]


@pytest.mark.parametrize("content, problem", [
    ("a,b\n1,2\n1,2,3\n", "expected 2 cells, as in the header, got 3; a cell with a comma needs quotes"),
    ("a,b\n1,2\n1\n", "expected 2 cells, as in the header, got 1"),
    ('a,b\n1,2\n1, "x"\n', "a quote after a space"), ("a,b\n1,2\n1,x\0y\n", "zero byte"),
    ("a,b\n1,2\n1,caf\xe9\n".encode("latin-1"), "not UTF-8: it has a byte 0xe9"),
    ("a,b\n1,2\n1," + "x" * (limits.CELL_BYTES + 1) + "\n", r"CELL_BYTES")])
def test_a_row_that_can_not_be_used_leaves_the_others(tmp_path, content, problem):
  found = table(tmp_path, "a.csv", content if isinstance(content, bytes) else content + "1,2\n")
  assert found.rows[0].values == {"a": "1", "b": "2"} and problem in found.rows[1].problem
  assert not found.rows[-1].problem or isinstance(content, bytes)
  with pytest.raises(ValueError, match="a.csv:3: "):
    check_rows(found)


@pytest.mark.parametrize("content, message", [
    ('a\n1\n"open\n1\n', "a.csv:3: a quote is opened and not closed"),
    ('a,b\n1,"2\n3,"4"\n', "a.csv:2: a quote ends in the middle of a cell"),
    ('a\n"open\n' + "1\n" * 90_000, "a.csv:2: a quote is opened"),
    ("a,b,a\n", "a.csv:1: the column 'a' is there twice"), ("a, b\n1,2\n", "the name ' b' has spaces"),
    ("a,,b\n1,2,3\n", "a.csv:1: column 2 has no name"), (",\n1,2\n", "expected the names of the columns"),
    ("a;b\n1;2\n", "parted by ';'"), ("a\tb\n1\t2\n", r"parted by '\\t'"), ("", "a.csv is empty"),
    ("a,b\n1,2\n".encode("utf-16"), "a.csv is UTF-16"), (",a\n0,x\n2,y\n", "column 1 has no name")])
def test_tables_whose_cells_can_not_be_told_apart_are_refused(tmp_path, content, message):
  with pytest.raises(ValueError, match=message):
    table(tmp_path, "a.csv", content)


def test_long_cells_are_no_reason_to_refuse_a_table(tmp_path):
  words = "word " * 40_000  # The csv module itself reads 131,072 characters.
  assert rows(table(tmp_path, "a.csv", f"a\n{words}\nb\n")) == [{"a": words}, {"a": "b"}]


def test_json_lines(tmp_path):
  lines = [
      '{"a": 1, "b": null, "c": NaN}', "", '"bare"', "[" * 100_000, '{"a": 1, "a": 2}', r'{"a": "\udc00"}', '{"a": 2']
  found = table(tmp_path, "a.jsonl", MARK + "\r\n".join(lines) + "\n")
  assert [row.number for row in found.rows] == [1, 3, 4, 5, 6, 7] and found.rows[0].values == {
      "a": 1, "b": None, "c": None}
  for row, problem in zip(found.rows[1:], ("got str", "too deeply", "twice", "surrogates", "not JSON"), strict=True):
    assert problem in row.problem and row.where.endswith(f"a.jsonl:{row.number}")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_arrays(tmp_path, name):
  entries = [{"a": "x"}, {"b": None, "a": "y"}]
  assert rows(table(tmp_path, name, json.dumps(entries, indent=1))) == [{"a": "x"}, {"b": None, "a": "y"}]


@pytest.mark.parametrize("content, message", [
    ('{"a": 1}', "expected a JSON array of objects, got dict"), ("[1", "a.json is not JSON"),
    (b'[{"a":\n "\xe9"}]', "a.json:2 is not UTF-8")])
def test_what_is_no_json_array(tmp_path, content, message):
  with pytest.raises(ValueError, match=message):
    table(tmp_path, "a.json", content)


@pytest.mark.parametrize("name, content, message", [
    ("a.csv", 'prompt,seed\n"a fox runs,1\na cat,2\n', "a.csv:2: a quote"), ("a.csv", "prompt,prompt\na,b\n", "twice"),
    ("a.csv", "prompt,seed\na fox, in snow,1\n", "a.csv:2: expected 2 cells"),
    ("a.csv", 'seed,prompt\n1,"a fox\n2,a screen of 12"\n3,a cat\n', "a.csv:2: a quote is open over other rows"),
    ("a.jsonl", '{"prompt": "a"}\n\n' + "[" * 100_000, "a.jsonl:3: .*too deeply"),
    ("a.jsonl", '\n"a fox"\n', "a.jsonl:2: expected a JSON object"),
    ("a.jsonl", r'{"prompt": "a \ud800"}', "a.jsonl:1: .*surrogates"),
    ("a.txt", "a fox\n" + "x" * (limits.CAPTION_BYTES + 1), "a.txt:2: prompt: expected at most 65,536 bytes"),
    ("a.txt", "a fox\n".encode("utf-16"), "a.txt is UTF-16"), ("a.txt", b"one\ncaf\xe9", "a.txt:2 is not UTF-8")])
def test_lists_of_prompts_name_the_line(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(ValueError, match=message):
    settings_in(tmp_path / name)


def test_lists_of_prompts_as_editors_save_them(tmp_path):
  (tmp_path / "a.TXT").write_bytes(f"{MARK}a fox\fruns\u2028on\r\na cat\r".encode())
  assert settings_in(tmp_path / "a.TXT") == [{"prompt": "a fox\fruns\u2028on"}, {"prompt": "a cat"}]
  (tmp_path / "a.jsonl").write_text('{"prompt": "a fox", "seed": null, "fps": NaN}\n', encoding="utf-8")
  (tmp_path / "a.json").write_text('[\n{"prompt": "a fox"}\n]', encoding="utf-8")
  for name in ("a.jsonl", "a.json"):
    assert settings_in(tmp_path / name) == [{"prompt": "a fox"}]


@pytest.mark.parametrize("benchmark, name, content", [
    ("t2i_compbench", "color_val.txt", "a red cat\r\na blue dog\r\n"), ("vbench", "vbench/color.txt", "a red cat\n"),
    ("dpg", "dpg/0.txt", "a red cat"), ("dpg", "dpg.csv", "item_id,text\n0,a red cat\n0,a red cat\n"),
    ("vbench", "full.json", '[{"prompt_en": "a red cat", "dimension": ["color"]}]'),
    ("geneval", "metadata.jsonl", '{"tag": "colors", "include": [], "prompt": "a red cat"}\n')])
def test_marks_are_no_part_of_a_benchmark(tmp_path, benchmark, name, content):
  path = tmp_path / name
  path.parent.mkdir(exist_ok=True)
  path.write_bytes((MARK + content).encode())
  layout = read_layout(benchmark, path.parent if name.count("/") else path)
  assert layout.items[0].text == "a red cat" and MARK not in str(layout)


@pytest.mark.parametrize("benchmark, name, content, message", [
    ("dpg", "a.csv", "item_id,text\n0\n", "a.csv:2: expected 2 cells"),
    ("dpg", "a.csv", "item_id,text\n0,\n", "a.csv:2: text: expected a prompt"),
    ("dpg", "a.csv", 'item_id,text\n0,"a fox\n1,a cat\n', "a.csv:2: a quote is opened"),
    ("dpg", "a.csv", "item_id,text\n0,a fox\n0,a cat\n", "a.csv:3: the item 0 has another text"),
    ("dpg", "a.csv", b"item_id,text\n0,caf\xe9\n", "a.csv:2: .*not UTF-8"),
    ("dpg", "dpg/0.txt", "", "0.txt: expected a prompt"), ("dpg", "dpg/0.txt", b"caf\xe9", "0.txt:1 is not UTF-8"),
    ("geneval", "a.jsonl", "[" * 100_000, "a.jsonl:1 .*too deeply"),
    ("t2i_compbench", "a_val.txt", "one\n\ttwo\n", "a_val.txt:2: expected a prompt"),
    ("vbench", "a.json", "[" * 100_000, "a.json .*too deeply")])
def test_benchmarks_name_file_and_line(tmp_path, benchmark, name, content, message):
  path = tmp_path / name
  path.parent.mkdir(exist_ok=True)
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(ValueError, match=message):
    read_layout(benchmark, path.parent if name.count("/") else path)


def test_hidden_files_are_no_prompts(tmp_path):
  for name, content in (("0.TXT", b"a fox"), ("._0.txt", b"\0\5\x16\7"), ("README.md", b"prompts")):
    (tmp_path / name).write_bytes(content)
  assert [item.text for item in read_layout("dpg", tmp_path).items] == ["a fox"]
