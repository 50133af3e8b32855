"""What the temporal encoder remembers: sliding windows, and prompts that take over."""

import jax
import numpy as np
import pytest
from helpers import make
from models.test_nova import inputs, with_positions

from nova_jax.models.transformer import Cache
from nova_jax.sampling.frame_context import FrameContext, Model
from nova_jax.sampling.inputs import Conditions


def start(cfg, window, texts=1.0, num_sinks=0):
  _, condition = inputs(cfg, 1)
  condition = condition | {"text_embeds": texts * condition["text_embeds"]}
  return FrameContext.start(
      Model.from_module(make(cfg)), cfg, Conditions(condition, condition), num_passes=2, window=window,
      num_sinks=num_sinks), condition


def read(context, frames):
  """Return the conditions before each frame and after the last."""
  conds = []
  for frame in frames:
    cond, context = context.next_condition()
    conds.append(cond)
    context = context.push(frame)
  cond, context = context.next_condition()
  return np.stack([*conds, cond]), context


@pytest.mark.parametrize("rotary", [False, True])
def test_a_window_slides_as_if_the_clip_began_with_it(rotary):
  cfg = with_positions(rotary)
  latents, _ = inputs(cfg, 5)
  frames = list(np.moveaxis(np.asarray(latents), 1, 0))
  conds, context = read(start(cfg, window=3)[0], frames)
  for t in (3, 4, 5):
    np.testing.assert_allclose(conds[t], read(start(cfg, window=3)[0], frames[t - 2 : t])[0][-1], atol=1e-5)
  assert np.abs(conds[4] - conds[3]).max() > 1e-3
  assert len(context.frames) == 2, "the context is bounded"
  size = Cache.empty(cfg, cfg.temporal_depth, 4, cfg.num_condition_tokens + 3 * cfg.num_video_tokens)
  assert jax.tree.map(np.shape, context.cache) == jax.tree.map(np.shape, size)


def test_frames_that_leave_the_window_unread_cost_nothing():
  cfg = with_positions(False)
  frames = list(np.moveaxis(np.asarray(inputs(cfg, 5)[0]), 1, 0))
  context = start(cfg, window=3)[0]
  for frame in frames:
    context = context.push(frame)
  np.testing.assert_allclose(context.next_condition()[0], read(start(cfg, window=3)[0], frames)[0][-1], atol=1e-5)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("num_read", [6, 2, 0], ids="{} frames read one by one".format)
def test_first_frames_stay_as_sinks(rotary, num_read):
  cfg = with_positions(rotary)
  frames = list(np.moveaxis(np.asarray(inputs(cfg, 6)[0]), 1, 0))
  conds, context = read(start(cfg, window=4, num_sinks=1)[0], frames[:num_read])
  for frame in frames[num_read:]:
    context = context.push(frame)
  expected = read(start(cfg, window=4)[0], [frames[0], *frames[4:]])[0][-1]
  np.testing.assert_allclose(context.next_condition()[0], expected, atol=1e-5)
  assert np.abs(expected - read(start(cfg, window=4)[0], frames)[0][-1]).max() > 1e-3
  if num_read == 6:
    np.testing.assert_allclose(conds[5], read(start(cfg, window=4)[0], [frames[0], *frames[3:5]])[0][-1], atol=1e-5)


def test_another_prompt_reads_the_same_frames():
  cfg = with_positions(True)
  frames = list(np.moveaxis(np.asarray(inputs(cfg, 3)[0]), 1, 0))
  (context, _), (other, condition) = start(cfg, window=4), start(cfg, window=4, texts=2.0)
  before, context = read(context, frames)
  after, _ = context.switch_prompt(Conditions(condition, condition), cfg).next_condition()
  np.testing.assert_allclose(after, read(other, frames)[0][-1], atol=1e-5)
  assert np.abs(after - before[-1]).max() > 1e-3
  context = read(start(cfg, window=4)[0], frames)[1].switch_prompt(Conditions(condition, condition), cfg, context=1)
  other = start(cfg, window=4, texts=2.0)[0]
  np.testing.assert_allclose(context.next_condition()[0], read(other, frames[2:])[0][-1], atol=1e-5)
