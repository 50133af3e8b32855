"""LoRA: what is trained, what a run keeps, and that it continues bit for bit."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import SMALL_DIGITS, make, save_run

from nova_jax.autoencoders import make_autoencoder
from nova_jax.checkpoints.load import load_model, load_transformer
from nova_jax.checkpoints.lora import open_lora
from nova_jax.checkpoints.store import find, open_arrays
from nova_jax.config import (
  DataConfig,
  EvalConfig,
  Experiment,
  LoraConfig,
  MeshConfig,
  OptimizerConfig,
  SampleConfig,
  StageConfig,
  TrainConfig,
)
from nova_jax.data.sources import open_digits
from nova_jax.models.condition import Condition
from nova_jax.models.lora import add_lora, linear_maps, trainable
from nova_jax.models.quantization import KINDS, frozen_quantization
from nova_jax.parallel.sharding import make_mesh
from nova_jax.text import make_text_encoder
from nova_jax.train.callbacks import SaveCheckpoints
from nova_jax.train.nova import NovaTask, train_nova
from nova_jax.train.trainer import Trainer
from nova_jax.train.workdir.claim import claim
from nova_jax.utils.errors import UserError

MODEL = SMALL_DIGITS
FULL = r"/norm\d?/(scale|bias)$"
LORA = LoraConfig(rank=2, alpha=4.0, full=(FULL,))
EXPERIMENT = Experiment(
    model=MODEL, data=DataConfig(num_records=40, num_frames=2),
    train=TrainConfig(
        steps=4, stages=(StageConfig("video", 1.0, 4, 2),), loss_repeat=1, log_every=1, save_every=1, keep=10,
        lora=LORA, ema_decays=(0.5,)),
    optimizer=OptimizerConfig(learning_rate=1e-3), mesh=MeshConfig(data=2, fsdp=2, tensor=-1),
    sample=SampleConfig(2, 2, 2.0), eval=EvalConfig(every=1, batches=2))


def adapted(base, **fields):
  return dataclasses.replace(EXPERIMENT, init=str(base), **fields)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A model to start from."""
  folder = tmp_path_factory.mktemp("base") / "run"
  save_run(folder, MODEL)
  return folder


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
  """A run of a LoRA on one device that never stopped, with a checkpoint after each step."""
  folder = tmp_path_factory.mktemp("lora") / "run"
  train_nova(adapted(base), folder, mesh=one_device())
  return folder


def one_device():
  return make_mesh(MeshConfig(), jax.devices()[:1])


def forward(model):
  rng = np.random.default_rng(0)
  latents = jnp.asarray(rng.standard_normal((2, 2, 16, 16, 1)), jnp.float32)
  condition = Condition(jnp.asarray(rng.standard_normal((2, 8, 8)), jnp.float32), jnp.array([8, 3]))
  return jax.jit(lambda model: model.temporal(latents, model.embed_condition(condition)))(model)


def evaluations(workdir):
  lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
  return [{name: value for name, value in json.loads(line).items() if name.startswith("eval/")} for line in lines]


def test_a_new_lora_changes_no_bit():
  model = make(MODEL)
  before = np.asarray(forward(model))
  add_lora(model, LORA, "float32", rngs=nnx.Rngs(0))
  assert trainable(model) is nnx.LoRAParam
  np.testing.assert_array_equal(before, forward(model))


def test_weights_are_stored_in_the_dtype_of_activations():
  cfg = dataclasses.replace(MODEL, dtype="bfloat16")
  model = make(cfg)
  before = np.asarray(forward(model))
  add_lora(model, dataclasses.replace(LORA, full=(FULL, "qkv/bias")), "bfloat16", rngs=nnx.Rngs(0))
  assert {linear.kernel[...].dtype.name for linear in linear_maps(model).values()} == {"bfloat16"}
  assert {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(model, nnx.LoRAParam))} == {"float32"}
  np.testing.assert_array_equal(before, forward(model))


@pytest.mark.slow
def test_a_checkpoint_holds_what_is_trained_alone(base, finished):
  arrays = open_arrays(find(finished / "checkpoints", step=4))
  items = {name.partition("/")[0] for name in arrays}
  assert items == {"step", "params", "ema", "emas", "opt_state"}
  assert all("/low_rank/" in name or re.search(FULL, name) for name in arrays if name.startswith(("params/", "ema/")))
  frozen = {"/".join(path): value for path, value in nnx.to_flat_state(nnx.state(load_model(base)))}
  own = [name for name in arrays if re.search(FULL, name) and name.startswith("params/")]
  assert own
  for name in own:  # From those of the model, which had them; 4 steps of 1e-3 lie between.
    assert 0 < np.abs(arrays[name].read() - frozen[name.removeprefix("params/")][...]).max() < 5e-3, name
  assert any(np.abs(stored.read()).max() > 0 for name, stored in arrays.items() if name.endswith("low_rank/b"))


@pytest.mark.slow
def test_a_run_continues_bit_for_bit(base, finished, tmp_path):
  workdir = tmp_path / "continued"
  shutil.copytree(finished, workdir)
  for step in (3, 4):
    shutil.rmtree(workdir / f"checkpoints/{step}")
  train_nova(adapted(base), workdir, mesh=one_device())
  ours, expected = (open_arrays(find(folder / "checkpoints", step=4)) for folder in (workdir, finished))
  assert ours.keys() == expected.keys()
  for name in ours:
    assert np.array_equal(ours[name].read(), expected[name].read()), name
  assert evaluations(workdir) == evaluations(finished)


@pytest.mark.slow
def test_another_mesh_computes_the_same(base, finished, tmp_path):
  """AdamW divides a gradient by its size. Where that is a rounding error, the update is its sign and says nothing."""
  train_nova(adapted(base), tmp_path / "run")
  ours, expected = (open_arrays(find(folder / "checkpoints", step=4)) for folder in (tmp_path / "run", finished))
  paths = [name.removeprefix("params/") for name in ours if name.startswith("params/")]
  moments = "opt_state/1/inner_states/adamw/inner_state/0"
  for path in paths:
    mean, spread = (expected[f"{moments}/{which}/{path}"].read() for which in ("mu", "nu"))
    np.testing.assert_allclose(
        ours[f"{moments}/mu/{path}"].read(), mean, rtol=0, atol=1e-5 * np.abs(mean).max(), err_msg=path)
    known = np.sqrt(spread) > 1e-5 * np.sqrt(spread.max())
    assert known.mean() > 0.9, path
    a, b = (arrays[f"params/{path}"].read()[known] for arrays in (ours, expected))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6, err_msg=path)


@pytest.mark.slow
def test_another_mesh_evaluates_the_same_to_1e_5(base, tmp_path):
  """With a rate of 0 all runs have the same weights, so only the sums of the evaluation differ."""
  experiment = adapted(base, optimizer=OptimizerConfig(learning_rate=0.0, weight_decay=0.0))
  stages = (StageConfig("video", 1.0, 8, 2),)
  experiment = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, steps=1, stages=stages))
  train_nova(experiment, tmp_path / "one", mesh=one_device())
  train_nova(experiment, tmp_path / "many", mesh=make_mesh(MeshConfig(data=2, fsdp=4)))
  (one,), (many,) = (evaluations(tmp_path / name) for name in ("one", "many"))
  assert many == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_averages_of_several_lengths_are_kept_and_read(base, finished):
  """Each of them follows the parameters by its decay, is evaluated, and is a LoRA by its name."""
  stored = [open_arrays(find(finished / "checkpoints", step=step)) for step in (3, 4)]
  names = [name.removeprefix("emas/0.5/") for name in stored[1] if name.startswith("emas/0.5/")]
  assert names
  for name in names:
    before, after = (arrays[f"emas/0.5/{name}"].read() for arrays in stored)
    np.testing.assert_allclose(after, 0.5 * before + 0.5 * stored[1][f"params/{name}"].read(), atol=1e-7, err_msg=name)
  last = evaluations(finished)[-1]
  assert len({last[f"eval/{which}loss"] for which in ("", "ema_", "ema_0.5_")}) == 3
  b = {which: open_lora(finished, which).updates["text_embed.proj.weight"].b.read() for which in (
      "params", "ema", "ema_0.5")}
  assert 0 < np.abs(b["ema"]).max() < np.abs(b["ema_0.5"]).max() < np.abs(b["params"]).max()


@pytest.mark.slow
def test_another_base_is_refused(base, finished, tmp_path):
  """The model is read at each start: whether its weights are those of the first one is asked of the same path, too."""
  shutil.copytree(finished, tmp_path / "run")
  shutil.copytree(base, tmp_path / "base")
  with claim(tmp_path / "run", adapted(tmp_path / "base")):
    pass
  shutil.rmtree(tmp_path / "base")
  save_run(tmp_path / "base", MODEL, seed=1)
  with pytest.raises(UserError, match=r"init: .* holds something else than what the run began with"):
    with claim(tmp_path / "run", adapted(tmp_path / "base")):
      pass


@pytest.mark.parametrize("fields, message", [
    ({"init": ""}, r"train.lora.rank: .*--config.init=FOLDER"),
    ({"targets": ("atn/qkv",)}, r"train.lora.targets: no matrix matches 'atn/qkv'; near paths: .*"),
    ({"targets": ("patch_embed/proj",)}, r"train.lora.targets: no matrix matches 'patch_embed/proj'"),
    ({"rank": 0, "alpha": None}, r"train.lora.full: it is a setting of a LoRA, and with train.lora.rank=0 the whole"),
    ({"full": ("norms",)}, r"train.lora.full: no parameter matches 'norms'; near paths: .*norm"),
    ({"full": ("mlp/fc1/",), "quantize": "int8"}, r"train.lora.full: .*mlp/fc1/kernel is kept in 8 bits, which can't"),
    ({"quantize": "int4"}, r"^train.lora.quantize: 'int4' is not a kind of numbers; did you mean 'int8'\?"),
    ({"targets": ("(",)}, r"train.lora.targets: '\(' is not a regular expression"),
])
def test_what_makes_no_lora_is_refused(base, tmp_path, fields, message):
  experiment = adapted(base)
  if "init" not in fields:
    lora = dataclasses.replace(LORA, **fields)
    experiment = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, lora=lora))
  else:
    experiment = dataclasses.replace(experiment, **fields)
  with pytest.raises(UserError, match=message):
    train_nova(experiment, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_the_frozen_model_may_have_8_bits(base, tmp_path, kind):
  lora = dataclasses.replace(LORA, quantize=kind)
  experiment = adapted(base, train=dataclasses.replace(EXPERIMENT.train, steps=2, lora=lora))
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  trainer = Trainer(
      NovaTask.from_experiment(experiment, load_transformer(base, MODEL, frozen_quantization(lora))),
      lambda: open_digits(experiment, tmp_path, make_autoencoder("pixels"), make_text_encoder("words", MODEL)),
      experiment, tmp_path / "run", [SaveCheckpoints(1)], mesh=mesh)
  trainer.run()
  qkv = trainer.state.buffers["video_encoder"]["blocks"]["attn"]["qkv"]
  assert qkv["kernel"].dtype == KINDS[kind] and float(qkv["kernel_scale"].min()) > 0
  exact = dict(nnx.to_flat_state(nnx.state(load_model(base))))["video_encoder", "blocks", "attn", "qkv", "kernel"][...]
  restored = qkv["kernel"].astype(jnp.float32) * qkv["kernel_scale"][:, None]
  assert float(jnp.abs(restored - exact).max()) < 0.04 * float(jnp.abs(exact).max())
  arrays = open_arrays(find(tmp_path / "run/checkpoints", step=2))
  assert not any("kernel" in name for name in arrays)
  assert any(np.abs(stored.read()).max() > 0 for name, stored in arrays.items() if name.endswith("low_rank/b"))
