"""LoRA folders: what is added is what was trained, under the names of peft, and the base stays as it is."""

import json
import re
import shutil

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import save_lora_run, save_run
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from nova_jax.checkpoints.convert import convert
from nova_jax.checkpoints.load import load_model
from nova_jax.checkpoints.lora import CONFIG, OURS, WEIGHTS, open_lora
from nova_jax.checkpoints.lora_export import write_lora
from nova_jax.checkpoints.model_folder import open_folder
from nova_jax.checkpoints.weight_files import open_weights
from nova_jax.config import LoraConfig, ModelConfig
from nova_jax.models.condition import Condition
from nova_jax.utils.errors import UserError

CFG = ModelConfig(
    latent_dim=1, latent_size=(16, 16), patch_size=4, width=64, num_heads=2, temporal_depth=2, spatial_depth=2,
    denoiser_depth=1, denoiser_width=16, base_frames=2, text_dim=8, text_len=8, mixer_rank=2)
# All kinds of matrices: heads among the inputs, parts among the outputs, in stacks and outside.
LORA = LoraConfig(rank=2, alpha=3.0, targets=("kernel",))
FULL = (r"/(scale|bias)$", "patch_embed/proj/kernel", "mask_token", "text_embed/proj")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """A model, the workdir of its LoRA, the LoRA alone, and the model with the LoRA as it was trained."""
  folder = tmp_path_factory.mktemp("lora")
  save_run(folder / "base", CFG)
  model = save_lora_run(folder / "run", folder / "base", CFG, LORA)
  write_lora(open_lora(folder / "run"), folder / "alone")
  return folder, model


@pytest.fixture(scope="module")
def full(folders, tmp_path_factory):
  """As `folders`, of a LoRA beside which parameters of all other kinds are trained themselves."""
  folder, _ = folders
  cfg = LoraConfig(rank=2, alpha=3.0, targets=("blocks/attn",), full=FULL)
  target = tmp_path_factory.mktemp("full")
  model = save_lora_run(target / "run", folder / "base", CFG, cfg, seed=1)
  write_lora(open_lora(target / "run"), target / "alone")
  return target, model


def outputs(model):
  """Return what the model computes from what a training step and a sampling step begin with."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  latents, condition, ids = draw(2, 2, 16, 16, 1), Condition(draw(2, 8, 8), jnp.array([8, 3])), jnp.arange(6)[None]
  tokens, noised = draw(2, 16, 16), draw(2, 16, 16)

  def run(model):
    cond = model.anchor(model.temporal(latents, model.embed_condition(condition)))[:, 1]
    z = model.image_encoder(
        model.mask_tokens(tokens, jnp.zeros((2, 16, 1))), jnp.repeat(ids, 2, 0), jnp.int32(6), cond)
    return z, model.image_decoder(noised, jnp.full((2, 1), 300.0), model.image_decoder.condition(z))

  return jax.jit(run)(model)


def weights(model):
  return {"/".join(map(str, path)): np.asarray(value[...]) for path, value in nnx.to_flat_state(nnx.state(model))}


@pytest.mark.parametrize("name", ["run", "alone"])
def test_what_is_added_computes_what_was_trained(folders, name):
  folder, trained = folders
  loaded = load_model(folder / "base", lora=folder / name)
  for ours, expected in zip(outputs(loaded), outputs(trained), strict=True):
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6 * float(np.abs(expected).max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "alone"])
def test_parameters_that_were_trained_themselves_are_read_from_both(folders, full, name):
  (folder, _), (target, trained) = folders, full
  before, expected = weights(load_model(folder / "base")), weights(trained)
  loaded = weights(load_model(folder / "base", lora=target / name))
  own = {path for path in loaded if any(re.search(pattern, path) for pattern in FULL)}
  for path in own:
    np.testing.assert_allclose(loaded[path], expected[path], rtol=1e-6, atol=1e-7, err_msg=path)
  changed = {path for path in before if not np.array_equal(before[path], loaded[path])}
  assert changed == own | {path for path in before if re.search("blocks/attn/.*kernel", path)}
  half = weights(load_model(folder / "base", lora={target / name: 0.5}))
  for path in own:
    np.testing.assert_allclose(half[path], (before[path] + expected[path]) / 2, rtol=1e-5, atol=1e-6, err_msg=path)
  assert all(np.array_equal(value, before[path]) for path, value in weights(
      load_model(folder / "base", lora={target / name: 0.0})).items())


def test_their_modules_are_named_for_peft(full):
  target, _ = full
  config = json.loads((target / "alone" / CONFIG).read_text(encoding="utf-8"))
  matrices = load_file(target / "alone" / WEIGHTS)
  own = {name.removeprefix("base_model.model.") for name in matrices if ".lora_" not in name}
  assert {name.rpartition(".")[0] for name in own} == set(config["modules_to_save"])
  assert {"video_encoder.blocks.1.norm1.weight", "text_embed.proj.weight", "text_embed.proj.bias"} <= own
  assert "text_embed.proj" not in config["target_modules"]
  write_lora(open_lora(target / "alone"), target / "again")
  for name in (CONFIG, WEIGHTS):
    assert (target / "again" / name).read_bytes() == (target / "alone" / name).read_bytes()


def test_modules_may_be_named_by_their_ends_as_peft_takes_them(full, tmp_path):
  target, _ = full
  shutil.copytree(target / "alone", tmp_path / "lora")
  short = lambda names: sorted({name.rpartition(".")[2] for name in names})
  edit(tmp_path / "lora", CONFIG, lambda values: values | {"modules_to_save": short(values["modules_to_save"])})
  assert open_lora(tmp_path / "lora").full.keys() == open_lora(target / "alone").full.keys()


@pytest.mark.slow
def test_the_workdir_is_the_model_with_the_lora(folders):
  folder, _ = folders
  expected = weights(load_model(folder / "base", lora=folder / "run"))
  found = weights(load_model(folder / "run"))
  assert found.keys() == expected.keys()
  assert all(np.array_equal(found[name], expected[name]) for name in found)


@pytest.mark.slow
def test_without_the_lora_the_weights_are_the_same_bits(folders):
  folder, _ = folders
  before = weights(load_model(folder / "base"))
  changed = weights(load_model(folder / "base", lora={folder / "alone": 0.8}))
  for lora in (None, {folder / "alone": 0.0}):
    after = weights(load_model(folder / "base", lora=lora))
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)
  kernels = {name for name in before if name.endswith("kernel") and "patch_embed" not in name}
  assert {name for name in before if not np.array_equal(before[name], changed[name])} == kernels


@pytest.mark.slow
def test_several_are_added_with_their_weights(folders, tmp_path):
  folder, _ = folders
  save_lora_run(tmp_path / "other", folder / "base", CFG, LoraConfig(rank=1, targets=("blocks/attn",)), seed=1)
  base, one, other = (
      weights(load_model(folder / "base", lora=lora)) for lora in (None, folder / "run", tmp_path / "other"))
  both = weights(load_model(folder / "base", lora={folder / "run": 0.5, tmp_path / "other": -2.0}))
  for name in base:
    expected = base[name] + 0.5 * (one[name] - base[name]) - 2.0 * (other[name] - base[name])
    np.testing.assert_allclose(both[name], expected, atol=1e-6, err_msg=name)


def test_files_are_those_of_peft(folders):
  """Names and layouts of published weights: W [out, in] + alpha / r · B [out, r] · A [r, in]."""
  folder, _ = folders
  config = json.loads((folder / "alone" / CONFIG).read_text(encoding="utf-8"))
  assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 2, 3.0)
  matrices = load_file(folder / "alone" / WEIGHTS)
  base = {name: stored.read() for name, stored in open_folder(folder / "base").transformer().weights.items()}
  merged = open_folder(folder / "base").transformer(folder / "alone").weights
  modules = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in matrices}
  assert modules == set(config["target_modules"])
  assert {"video_encoder.blocks.1.attn.qkv", "image_encoder.blocks.1.mlp.fc2", "text_embed.proj",
          "image_decoder.blocks.0.norm1.proj", "video_encoder.mixer.lora"} <= modules
  for module in modules:
    a, b = (matrices[f"base_model.model.{module}.lora_{matrix}.weight"] for matrix in "AB")
    np.testing.assert_allclose(
        merged[f"{module}.weight"].read(), base[f"{module}.weight"] + 1.5 * b @ a, rtol=1e-5, atol=1e-6)


def test_a_written_lora_is_read_with_the_same_bits(folders, tmp_path):
  folder, _ = folders
  write_lora(open_lora(folder / "alone"), tmp_path / "again")
  for name in (CONFIG, WEIGHTS, OURS):
    assert (tmp_path / "again" / name).read_bytes() == (folder / "alone" / name).read_bytes()
  with pytest.raises(UserError, match="target: .* exists"):
    write_lora(open_lora(folder / "alone"), tmp_path / "again")


def test_diffusers_finds_rank_and_alpha_in_the_file(folders):
  """Its `load_lora_adapter` reads no config: without these it takes alpha for the rank."""
  folder, _ = folders
  with safe_open(folder / "alone" / WEIGHTS, "numpy") as file:
    told = json.loads(file.metadata()["lora_adapter_metadata"])
    names = {name.rpartition(".lora_")[0].removeprefix("base_model.model.") for name in file.keys()}
  told = {name.removeprefix("base_model.model."): value for name, value in told.items()}
  assert (told["r"], told["lora_alpha"]) == (2, 3.0) and set(told["target_modules"]) == names


def test_names_of_diffusers_are_read(folders, tmp_path):
  folder, _ = folders
  shutil.copytree(folder / "alone", tmp_path / "alone")
  matrices = load_file(folder / "alone" / WEIGHTS)
  save_file({name.replace("base_model.model.", "transformer."): value for name, value in matrices.items()},
            tmp_path / "alone" / WEIGHTS)
  assert open_lora(tmp_path / "alone").updates.keys() == open_lora(folder / "alone").updates.keys()


@pytest.mark.slow
def test_commands_merge_and_write_it_alone(folders, tmp_path):
  folder, _ = folders
  done = commands.run("convert", "--source", folder / "run", "--parts=lora", "--target", tmp_path / "alone")
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "alone" / WEIGHTS).read_bytes() == (folder / "alone" / WEIGHTS).read_bytes()
  # The LoRA says which model it belongs to.
  done = commands.run("convert", "--lora", folder / "alone", "--target", tmp_path / "merged")
  assert done.returncode == 0, done.stderr
  merged = {name: stored.read() for name, stored in open_weights(tmp_path / "merged/transformer").items()}
  expected = open_folder(folder / "base").transformer(folder / "alone").weights
  assert all(np.array_equal(merged[name], expected[name].read()) for name in expected)
  # And the base has its own digest, as before.
  done = commands.run(
      "convert", "--source", tmp_path / "merged", "--lora", folder / "alone", "--target", tmp_path / "no")
  assert done.returncode == 2 and "was trained for another model" in done.stderr


def test_a_merged_model_knows_no_words(folders, tmp_path):
  """A LoRA may have taught it others than the model has seen, which a prompt would be told of."""
  folder, _ = folders
  shutil.copytree(folder / "base", tmp_path / "base")
  edit(tmp_path / "base", "nova.json", lambda values: values | {"words": ["digit"]})
  for lora, words in ((None, ("digit",)), (folder / "alone", ())):
    convert(tmp_path / "base", tmp_path / str(bool(lora)), lora=lora)
    assert open_folder(tmp_path / str(bool(lora))).card.words == words


@pytest.mark.slow
def test_a_merged_model_is_rounded_once(folders, tmp_path):
  """A model in float16 and a LoRA make weights in float32 that float16 didn't round."""
  folder, _ = folders
  convert(folder / "base", tmp_path / "half", dtype="float16")
  save_lora_run(tmp_path / "run", tmp_path / "half", CFG, LORA)
  convert(tmp_path / "half", tmp_path / "merged", dtype="float32", lora=tmp_path / "run")
  merged = {name: stored.read() for name, stored in open_weights(tmp_path / "merged/transformer").items()}
  expected = weights(load_model(tmp_path / "half", lora=tmp_path / "run"))
  assert np.array_equal(merged["text_embed.proj.weight"], expected["text_embed/proj/kernel"].T)


def edit(folder, name, change):
  values = json.loads((folder / name).read_text(encoding="utf-8"))
  (folder / name).write_text(json.dumps(change(values)), encoding="utf-8")


def edit_matrices(folder, change):
  save_file({name: value for name, value in change(load_file(folder / WEIGHTS)).items()}, folder / WEIGHTS)


BROKEN = {
    "there is no folder": lambda folder: shutil.rmtree(folder),
    f"has no {CONFIG}": lambda folder: (folder / CONFIG).unlink(),
    f"has no {WEIGHTS}": lambda folder: (folder / WEIGHTS).unlink(),
    "use_dora=True is not supported": lambda folder: edit(folder, CONFIG, lambda values: values | {"use_dora": True}),
    "expected a rank r": lambda folder: edit(folder, CONFIG, lambda values: values | {"r": "2"}),
    "expected [3, in] and [out, 3]": lambda folder: edit(folder, CONFIG, lambda values: values | {"r": 3}),
    "is not a matrix of a LoRA": lambda folder: edit_matrices(
        folder, lambda found: found | {"base_model.model.x.lora_magnitude": np.ones(2, np.float32)}),
    "one of the matrices A and B alone": lambda folder: edit_matrices(
        folder, lambda found: dict(sorted(found.items())[1:])),
    "which {base} doesn't have": lambda folder: edit_matrices(
        folder, lambda found: {name.replace("blocks.1", "blocks.7"): value for name, value in found.items()}),
    "of shape (7, 8), and that of": lambda folder: edit_matrices(
        folder, lambda found: found | {"base_model.model.text_embed.proj.lora_B.weight": np.ones((7, 2), np.float32)}),
    "was trained for another model": lambda folder: edit(folder, OURS, lambda values: values | {"digest": "0" * 64}),
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_can_not_be_added_is_refused_in_one_line(folders, tmp_path, message):
  folder, _ = folders
  shutil.copytree(folder / "alone", tmp_path / "lora")
  BROKEN[message](tmp_path / "lora")
  found = message.replace("{base}", str(folder / "base/checkpoints/1"))
  with pytest.raises(UserError, match=re.escape(found)) as error:
    load_model(folder / "base", lora=tmp_path / "lora")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("given, message", [
    (["--lora", "x:strong"], "--lora: expected FOLDER or FOLDER:WEIGHT such as loras/fox:0.8, got 'x:strong'"),
    (["--lora", "x", "--lora", "x:0.5"], "--lora: x is there twice"),
    (["--lora", "x", "--lora", "./x/:0.5"], "lora: ./x/ is there twice, also by another name"),
    (["--lora", "x:nan"], "lora: expected a finite number as the weight of x, got nan"),
    (["--lora", "x:0.5"], "lora: there is no folder"),
])
def test_a_flag_that_makes_no_sense_ends_with_exit_code_2(folders, tmp_path, given, message):
  folder, _ = folders
  done = commands.run("sample", "--checkpoint", folder / "base", "--output", tmp_path, "--prompt", "a fox", *given)
  assert done.returncode == 2 and message in done.stderr


def test_a_model_is_no_lora(folders):
  folder, _ = folders
  with pytest.raises(UserError, match="lora: .* trained a whole model, not a LoRA"):
    load_model(folder / "base", lora=folder / "base")
  done = commands.run("convert", "--source", folder / "base", "--parts=lora", "--target", folder / "no")
  assert done.returncode == 2 and "--source: " in done.stderr and "not a LoRA" in done.stderr


def test_a_lora_is_no_model(folders):
  folder, _ = folders
  with pytest.raises(UserError, match="alone is no model folder; .*; it is a LoRA: give the model that it was trained"):
    load_model(folder / "alone")


def test_a_base_that_is_gone_is_named(folders, tmp_path):
  folder, _ = folders
  shutil.copytree(folder / "run", tmp_path / "run")
  gone = {"base": str(tmp_path / "gone")}
  edit(tmp_path / "run", "nova.json", lambda values: values | {"lora": values["lora"] | gone})
  with pytest.raises(UserError, match=r"for the model .*gone, which isn't there"):
    open_folder(tmp_path / "run")
  open_lora(tmp_path / "run")  # It can be added to the model where that lies now.
