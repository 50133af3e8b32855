"""Totals from the official scorers' outputs, against published ones."""

import json

import pytest

from nova_jax.evals.benchmarks.totals import GENEVAL_TASKS, VBENCH_DIMENSIONS, read_geneval, read_vbench, vbench_totals

# The row of OpenSora V1.2 in VBench's leaderboard: per cent, in the order of `VBENCH_DIMENSIONS`, and its totals.
ROW = (96.75, 97.61, 99.53, 98.50, 42.39, 56.85, 63.34, 82.22, 51.83, 91.20, 90.08, 68.56, 42.44, 23.95, 24.54, 26.85)
TOTALS = {"quality": 81.35, "semantic": 73.39, "total": 79.76}
SCORES = {name: value / 100 for name, value in zip(VBENCH_DIMENSIONS, ROW, strict=True)}


def test_a_published_row_of_vbench(tmp_path):
  for name, score in SCORES.items():  # As evaluate.py writes them, a dimension a file.
    (tmp_path / f"results_{name}_eval_results.json").write_text(
        json.dumps({name: [score, [{"video_path": "a.mp4"}]]}), encoding="utf-8")
  totals = vbench_totals(read_vbench([tmp_path]))
  assert {name: round(100 * value, 2) for name, value in totals.items()} == TOTALS


def test_a_total_needs_all_dimensions(tmp_path):
  with pytest.raises(ValueError, match="color missing"):
    vbench_totals({name: score for name, score in SCORES.items() if name != "color"})
  with pytest.raises(ValueError, match="colour unknown"):
    vbench_totals(SCORES | {"colour": 0.5})
  with pytest.raises(ValueError, match="from 0 to 1, got color 90.08"):
    vbench_totals(SCORES | {"color": 90.08})
  (tmp_path / "a_eval_results.json").write_text(json.dumps({"color": [0.5, []]}), encoding="utf-8")
  (tmp_path / "b_eval_results.json").write_text(json.dumps({"color": [0.6, []]}), encoding="utf-8")
  with pytest.raises(ValueError, match="color stands in"):
    read_vbench([tmp_path])
  (tmp_path / "b_eval_results.json").write_text(json.dumps({"color": [[], []]}), encoding="utf-8")
  with pytest.raises(ValueError, match="color should be a score"):
    read_vbench([tmp_path / "b_eval_results.json"])
  for number in ("1" + "0" * 400, "NaN", "[NaN, []]", "Infinity", "true"):
    (tmp_path / "b_eval_results.json").write_text(f'{{"color": {number}}}', encoding="utf-8")
    with pytest.raises(ValueError, match="b_eval_results.json: color should be a score"):
      read_vbench([tmp_path / "b_eval_results.json"])
  (tmp_path / "b_eval_results.json").write_text('{"color": 0.5}', encoding="utf-16")
  with pytest.raises(ValueError, match="b_eval_results.json is UTF-16"):
    read_vbench([tmp_path / "b_eval_results.json"])


def test_a_published_row_of_geneval(tmp_path):
  # IF-XL in GenEval's README, as pictures: 100 a task; and overall it is the mean of tasks, not of pictures.
  shares = dict(zip(("single_object", "two_object", "counting", "colors", "position", "color_attr"),
                    (97, 74, 66, 81, 13, 35), strict=True))
  lines = [json.dumps({"tag": tag, "correct": i < share}) for tag, share in shares.items() for i in range(100)]
  lines += [json.dumps({"tag": "colors", "correct": i < 81}) for i in range(100)]
  (tmp_path / "results.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
  scores = read_geneval(tmp_path / "results.jsonl")
  assert {tag: scores[tag] for tag in GENEVAL_TASKS} == {tag: share / 100 for tag, share in shares.items()}
  assert round(scores["overall"], 2) == 0.61 and scores["overall"] == pytest.approx(366 / 600)


@pytest.mark.parametrize("line, message", [
    ("{}", "with tag and correct"), ('{"tag": "colors", "correct": 1}', "true or false"),
    ('{"tag": "colors", "correct": true}', "of the tasks single_object")])
def test_results_of_geneval_that_are_none(tmp_path, line, message):
  (tmp_path / "results.jsonl").write_text(line + "\n", encoding="utf-8")
  with pytest.raises(ValueError, match=message):
    read_geneval(tmp_path / "results.jsonl")
