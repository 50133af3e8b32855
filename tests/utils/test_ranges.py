"""Numbers of a config: each has a range, and one out of it is refused by its full name."""

import dataclasses
import math

import pytest

from nova_jax.config import (
  PRESETS,
  CacheConfig,
  DataConfig,
  Experiment,
  ModelConfig,
  OptimizerConfig,
  SampleConfig,
  SchedulerConfig,
  SourceConfig,
  StageConfig,
  TrainConfig,
)
from nova_jax.utils.ranges import Range, numeric_fields

FULL = Experiment(
    model=dataclasses.replace(PRESETS["nova-d48w1024-osp480"]),
    data=DataConfig(sources=(SourceConfig("a"),), buckets=((32, 32),)),
    train=TrainConfig(stages=(StageConfig(), StageConfig(sources=(SourceConfig("b"),)))),
    optimizer=OptimizerConfig(milestones=(0.5,)), sample=SampleConfig(told_fps=4.0))


@pytest.mark.parametrize("config", [
    FULL, CacheConfig(), ModelConfig(1, (4, 4), 1, 32, 1, 1, 2, 1, 32, num_classes=10)], ids=lambda c: type(c).__name__)
def test_every_number_has_a_range(config):
  fields = numeric_fields(config)
  assert len(fields) > 6 and not [name for name, allowed in fields.items() if allowed is None]


def replaced(config, name, value):
  """Return a config with another value at "train.stages[1].batch_size"."""
  first, _, rest = name.partition(".")
  field, _, index = first.partition("[")
  old = new = getattr(config, field)
  if index:
    new = list(old)
    numbers = [int(number) for number in index.rstrip("]").split("][")]
    if len(numbers) == 2:
      inner = list(old[numbers[0]])
      inner[numbers[1]] = value
      new[numbers[0]] = tuple(inner)
    else:
      new[numbers[0]] = replaced(old[numbers[0]], rest, value) if rest else value
    new = tuple(new)
  else:
    new = replaced(old, rest, value) if rest else value
  return dataclasses.replace(config, **{field: new})


def out_of(allowed):
  """Return values that a range leaves out."""
  wrong = [math.nan, math.inf, -math.inf, allowed.low - 1]
  wrong += [allowed.high + 1] * (allowed.high < math.inf)
  return wrong + [allowed.low] * (allowed.open in ("low", "both")) + [allowed.high] * (allowed.open in ("high", "both"))


def refusal(name, value):
  try:
    replaced(FULL, name, value)
  except Exception as error:
    return f"{type(error).__name__}: {error}"


def test_numbers_out_of_range_are_refused_by_name():
  cases = [(name, allowed, value) for name, allowed in numeric_fields(FULL).items() for value in out_of(allowed)]
  said = {(name, repr(value)): refusal(name, value) for name, _, value in cases}
  assert said == {
      (name, repr(value)): f"UserError: {name}: expected {allowed}, got {value!r}" for name, allowed, value in cases}


@pytest.mark.parametrize("allowed, text", [
    (Range(0), "0 or more"), (Range(1, 2**31 - 1), "1 to 2147483647"), (Range(0, open="low"), "more than 0"),
    (Range(0, 1, "both"), "more than 0 and less than 1"), (Range(0, 1, "high"), "0 or more and less than 1")])
def test_what_is_expected_reads_well(allowed, text):
  assert str(allowed) == text


def test_defaults_of_old_cards_pass():
  assert SchedulerConfig() and SampleConfig()
