"""Models that are published on the hub: what is checked before, what is sent, and what comes back."""

import json
import shutil
import socket

import commands
import numpy as np
import pytest
from checkpoints.published import VIDEO, assert_same_weights
from hub_stand_in import go_offline, log_in, point_to
from huggingface_hub import ModelCard
from parity.reference import ROOT
from safetensors.numpy import load_file, save_file

import nova_jax
from nova_jax.checkpoints.hub import local_folder, pinned
from nova_jax.checkpoints.lora import FORMAT, read_loras
from nova_jax.checkpoints.model_card import LoraCard
from nova_jax.checkpoints.part_digest import weights_digest
from nova_jax.config import Experiment, LoraConfig, StageConfig, TrainConfig
from nova_jax.pipeline.provenance import read_provenance
from nova_jax.utils.fields import to_dict

ID = "someone/fox"


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A published folder of a user who is logged in."""
  log_in(monkeypatch)
  return shutil.copytree(VIDEO, tmp_path / "fox")


def push(*args):
  done = commands.run("convert", *args)
  assert done.returncode == 0, done.stderr
  return done


def refusal(*args, code=2):
  done = commands.run("convert", *args)
  assert done.returncode == code and done.stderr.count("\n") == 1, done.stderr
  return done.stderr


def sent(hub):
  return [request for request in hub.requests if request.startswith(("PUT", "POST")) and "validate" not in request]


def files_of(folder):
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_pushed_comes_back(hub, folder, caplog):
  (folder / "samples").mkdir()
  (folder / "samples/fox.png").write_bytes(b"PNG" * 200)
  (folder / "notes.txt").write_text("mine", encoding="utf-8")
  (folder / "secret.json").write_text("{}", encoding="utf-8")
  done = push("--source", folder, "--push", ID, "--license", "apache-2.0", "--private")
  assert "uploading 12 files, 3.2" in done.stdout and f"pushed to {hub.url}/{ID}/tree/" in done.stdout
  assert "2 files of" in caplog.text and "such as notes.txt" in caplog.text
  assert hub.repos[ID].private
  back = local_folder(ID)
  assert files_of(back) == {name: content for name, content in files_of(VIDEO).items()}
  stored = hub.repos[ID].commits[hub.repos[ID].branches["main"]]
  assert stored["samples/fox.png"] == b"PNG" * 200 and not {"notes.txt", "secret.json"} & stored.keys()
  assert nova_jax.open_folder(ID).card == nova_jax.open_folder(VIDEO).card
  card = ModelCard(stored["README.md"].decode())
  assert (card.data.library_name, card.data.pipeline_tag, card.data.license) == (
      "nova_jax", "text-to-video", "apache-2.0")
  assert f'Pipeline.load("{ID}")' in card.text and "![fox](samples/fox.png)" in card.text
  assert "AutoencoderKL" in card.text and "PhiEncoderModel" in card.text


@pytest.mark.slow
def test_a_training_run_is_converted_and_pushed(hub, trained, tmp_path, monkeypatch):
  log_in(monkeypatch)
  run = shutil.copytree(trained, tmp_path / "run")
  cfg = nova_jax.open_folder(run).card.model
  cache = "/home/someone/.cache/huggingface/hub/models--ORG--nova/snapshots/" + "0" * 40
  experiment = Experiment(
      model=cfg, init=cache, train=TrainConfig(steps=1234, stages=(StageConfig(batch_size=4, num_frames=3),)))
  (run / "config.json").write_text(json.dumps(to_dict(experiment)), encoding="utf-8")
  (run / "samples").mkdir()
  for step in range(6):
    (run / f"samples/step_{step}.png").write_bytes(b"PNG")
  push("--source", run, "--target", tmp_path / "fox", "--push", ID, "--revision", "trial")
  stored = hub.repos[ID].commits[hub.repos[ID].branches["trial"]]
  assert "README.md" not in hub.repos[ID].commits[hub.repos[ID].branches["main"]]
  assert sorted(name for name in stored if "samples" in name) == [f"samples/step_{step}.png" for step in range(2, 6)]
  card = ModelCard(stored["README.md"].decode())
  assert card.data.base_model == "ORG/nova" and card.data.license is None
  assert "| steps | 1,234 |" in card.text and "/home" not in card.content
  assert_same_weights(local_folder(f"{ID}@trial") / "transformer", tmp_path / "fox/transformer")


@pytest.mark.slow  # Hundreds of files.
def test_a_converted_folder_is_pushed_as_it_is(hub, ours, tmp_path, monkeypatch):
  log_in(monkeypatch)
  source = shutil.copytree(ours / VIDEO.relative_to(ROOT), tmp_path / "ours")
  push("--source", source, "--push", ID)
  mine, there = files_of(source), files_of(local_folder(ID))
  card = json.loads(mine.pop("nova.json"))
  assert json.loads(there.pop("nova.json")) == card | {"source": VIDEO.name}, "where it lay is nobody's business"
  assert {name: content for name, content in mine.items() if name != "README.md"} == there


@pytest.mark.slow
def test_a_card_of_the_user_s_own_stays(hub, folder, caplog):
  (folder / "README.md").write_text("# Mine\n", encoding="utf-8")
  push("--source", folder, "--push", ID)
  assert "is pushed as it is; --rewrite_card writes a new one" in caplog.text
  assert hub.repos[ID].commits[hub.repos[ID].branches["main"]]["README.md"] == b"# Mine\n"
  push("--source", folder, "--push", ID, "--rewrite_card")
  assert b"library_name: nova_jax" in hub.repos[ID].commits[hub.repos[ID].branches["main"]]["README.md"]


def test_nothing_is_sent_before_all_is_checked(hub, folder, tmp_path, trained):
  assert "expected ORG/NAME" in refusal("--source", folder, "--push", "fox")
  assert "give a --target too" in refusal("--source", trained, "--push", ID)
  assert "--license belongs to --push" in refusal("--source", folder, "--target", tmp_path / "x", "--license", "mit")
  assert "--dtype: --source is pushed as it is" in refusal("--source", folder, "--push", ID, "--dtype", "float16")
  assert "must be on a disk" in refusal("--source", folder, "--target", "memory://fox", "--push", ID)
  assert "is no model folder" in refusal("--source", folder / "scheduler", "--push", ID)
  file = folder / "vae/diffusion_pytorch_model.safetensors"
  weights = load_file(file)
  name = min(weights)
  save_file(weights | {name: np.full_like(weights[name], np.nan)}, file)
  assert f"{name} is not finite; nothing was sent" in refusal("--source", folder, "--push", ID)
  save_file({other: array for other, array in weights.items() if other != name}, file)
  assert "vae does not fit its config; nothing was sent" in refusal("--source", folder, "--push", ID)
  assert not sent(hub) and not (folder / "README.md").exists()


def test_who_may_push(hub, folder, monkeypatch, tmp_path):
  hub.failing["repos/create"] = 403
  assert "your token may not do this" in refusal("--source", folder, "--push", ID)
  log_in(monkeypatch, "hf_wrong")
  assert "does not know your token" in refusal("--source", folder, "--push", ID)
  monkeypatch.delenv("HF_TOKEN")
  assert "asks who you are; log in by `hf auth login`" in refusal("--source", folder, "--push", ID)
  go_offline(monkeypatch)
  assert "HF_HUB_OFFLINE forbids" in refusal("--source", folder, "--push", ID)
  point_to("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
  log_in(monkeypatch)
  assert "can't be reached" in refusal("--source", folder, "--push", ID, code=1)

  def no_address(*args, **settings):
    raise socket.gaierror(socket.EAI_NONAME, "no such host")

  point_to("http://hub.invalid", tmp_path / "cache", monkeypatch)
  log_in(monkeypatch)
  monkeypatch.setattr(socket, "getaddrinfo", no_address)
  message = refusal("--source", folder, "--push", ID)
  assert "push from where there is a network" in message and "download" not in message


@pytest.mark.slow
def test_an_upload_that_failed_continues(hub, trained, tmp_path, monkeypatch):
  log_in(monkeypatch)
  hub.failing["/commit/"] = 500
  message = refusal("--source", trained, "--target", tmp_path / "fox", "--push", ID, code=1)
  assert "fails with status 500" in message
  assert f"{tmp_path}/fox is complete: to push it, " in message and f"--source={tmp_path}/fox --push={ID}" in message
  assert any(request.startswith("PUT") for request in hub.requests)
  hub.failing.clear()
  hub.requests.clear()
  push("--source", tmp_path / "fox", "--push", ID)
  assert not any(request.startswith("PUT") for request in hub.requests), "what had been sent is not sent again"
  assert_same_weights(local_folder(ID) / "transformer", tmp_path / "fox/transformer")


def save_lora(folder, base):
  """Write a LoRA for a model, with random matrices; return what it says of the model."""
  part = nova_jax.open_folder(base).transformer()
  name = next(name for name in sorted(part.weights) if name.endswith("attn.proj.weight"))
  out, inputs = part.weights[name].shape
  module = "base_model.model." + name.removesuffix(".weight")
  folder.mkdir()
  rng = np.random.default_rng(0)
  save_file({
      f"{module}.lora_A.weight": rng.normal(size=(2, inputs)).astype(np.float32),
      f"{module}.lora_B.weight": rng.normal(size=(out, 2)).astype(np.float32)}, folder / "adapter_model.safetensors")
  (folder / "adapter_config.json").write_text(
      json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}), encoding="utf-8")
  card = LoraCard(str(base), weights_digest(part), LoraConfig())
  (folder / "nova_lora.json").write_text(json.dumps(FORMAT | to_dict(card)), encoding="utf-8")
  return card


def test_a_lora_is_pushed_and_added_by_its_id(hub, tmp_path, monkeypatch):
  log_in(monkeypatch)
  hub.add("ORG/nova", VIDEO)
  base, folder = pinned("ORG/nova"), tmp_path / "lora"
  card = save_lora(folder, base)
  done = push("--source", folder, "--push", "someone/style")
  assert f"launch.sample --checkpoint {base} --lora someone/style" in done.stdout
  stored = hub.repos["someone/style"].commits[hub.repos["someone/style"].branches["main"]]
  readme = ModelCard(stored["README.md"].decode())
  assert readme.data.base_model == "ORG/nova" and "lora" in readme.data.tags
  assert f'Pipeline.load("{base}", lora="someone/style")' in readme.text and "a LoRA of rank 2" in readme.text
  (there, _), = read_loras({"someone/style": 0.5})
  assert files_of(there.path) == {name: content for name, content in files_of(folder).items() if name != "README.md"}

  (folder / "nova_lora.json").write_text(json.dumps(FORMAT | to_dict(card) | {"base": str(VIDEO)}), encoding="utf-8")
  config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": str(VIDEO)}
  (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
  push("--source", folder, "--push", "someone/other", "--rewrite_card")
  stored = hub.repos["someone/other"].commits[hub.repos["someone/other"].branches["main"]]
  assert json.loads(stored["nova_lora.json"])["base"] == VIDEO.name
  assert json.loads(stored["adapter_config.json"]) == config | {"base_model_name_or_path": VIDEO.name}
  assert not any(str(VIDEO).encode() in content for content in stored.values())

  (folder / "nova_lora.json").write_text(json.dumps(FORMAT | to_dict(card) | {"base": "digits"}), encoding="utf-8")
  done = push("--source", folder, "--push", "someone/sign", "--rewrite_card")
  assert "launch.sample --checkpoint digits --lora someone/sign" in done.stdout


@pytest.mark.slow
def test_outputs_name_a_lora_by_its_commit_and_are_made_again(hub, tmp_path):
  save_lora(tmp_path / "lora", VIDEO)
  place = f"someone/style@{hub.add('someone/style', tmp_path / 'lora').branches['main']}"
  given = ["sample", "--checkpoint", VIDEO, "--num_frames=1", "--num_inference_steps=1",
           "--num_diffusion_steps=1", "--formats=png"]
  done = commands.run(*given, "--prompt", "a fox", "--lora", "someone/style:0.5", "--output", tmp_path / "out")
  assert done.returncode == 0, done.stderr
  file, = (tmp_path / "out").glob("000-*.png")
  assert read_provenance(file).lora == {place: 0.5}
  hub.requests.clear()
  done = commands.run("sample", "--reproduce", file, "--output", tmp_path / "again", "--formats=png")
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes() and not hub.requests


@pytest.mark.slow
def test_a_merged_lora_names_the_model_that_it_was_trained_for(hub, tmp_path, monkeypatch):
  log_in(monkeypatch)
  hub.add("ORG/nova", VIDEO)
  save_lora(tmp_path / "lora", pinned("ORG/nova"))
  push("--lora", tmp_path / "lora", "--target", tmp_path / "merged", "--push", ID)
  stored = hub.repos[ID].commits[hub.repos[ID].branches["main"]]
  assert ModelCard(stored["README.md"].decode()).data.base_model == "ORG/nova"


def test_no_path_of_this_machine_is_sent(hub, folder):
  """Libraries that save a model keep where they had loaded it from."""
  own = {"model_index.json": "_name_or_path", "transformer/config.json": "_name_or_path",
         "vae/config.json": "_name_or_path", "scheduler/scheduler_config.json": "_name_or_path",
         "tokenizer/tokenizer_config.json": "name_or_path"}
  for name, field in own.items():
    values = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps(values | {field: f"{folder}/there"}), encoding="utf-8")
  phi = json.loads((folder / "text_encoder/config.json").read_text(encoding="utf-8")) | {"_name_or_path": "ORG/phi"}
  (folder / "text_encoder/config.json").write_text(json.dumps(phi), encoding="utf-8")
  push("--source", folder, "--push", ID)
  stored = hub.repos[ID].commits[hub.repos[ID].branches["main"]]
  assert not [name for name, content in stored.items() if str(folder).encode() in content]
  assert {json.loads(stored[name])[field] for name, field in own.items()} == {"there"}
  assert json.loads(stored["text_encoder/config.json"]) == phi
