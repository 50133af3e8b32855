"""Models by their ids on the hub: what is downloaded, kept, checked and refused. The hub is a stand-in."""

import dataclasses
import hashlib
import socket
import sys

import commands
import numpy as np
import pytest
from checkpoints.published import VIDEO, assert_same_weights
from hub_stand_in import go_offline, log_in, point_to

import nova_jax
from nova_jax.checkpoints.hub import identity, local_folder, parse_id, part_folder, pinned
from nova_jax.checkpoints.hub.files import needed
from nova_jax.checkpoints.model_folder import load_autoencoder
from nova_jax.media import write_png
from nova_jax.pipeline.batch_sampling import make_provenances
from nova_jax.pipeline.provenance import read_provenance
from nova_jax.utils.errors import RunFailed, UserError

ID = "ORG/nova"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
PARTS = ("transformer", "vae", "text_encoder")


@pytest.fixture
def model(hub):
  """The released model's twin on the hub, with files that nobody here needs."""
  repo = hub.add(ID, VIDEO)
  files = repo.commits[repo.branches["main"]]
  files |= {
      "README.md": b"# Nova", ".gitattributes": b"*", "samples/fox.png": b"PNG", "vae/notes.txt": b"",
      "vae/diffusion_pytorch_model.bin": b"twin", "vae/diffusion_pytorch_model.fp16.safetensors": b"variant"}
  return repo


def files_of(folder):
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(place, kind=UserError, **options):
  with pytest.raises(kind) as error:
    local_folder(place, **options)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_an_id_is_told_from_a_path(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert parse_id("BAAI/nova-d48w1024-osp480") == ("BAAI/nova-d48w1024-osp480", None)
  assert parse_id("a/b@v1.0") == ("a/b", "v1.0") and parse_id("a/b@refs/pr/1") == ("a/b", "refs/pr/1")
  for path in ("a", "a/b/c", "./a/b", "../a", "~/a", "/a/b", "gs://a/b", "hf://a/b", "-a/b", "a/b@", "a/", "a b/c", "",
               "runs/a.b/@c", "a/.b"):
    assert parse_id(path) is None, path
  (tmp_path / "a/b").mkdir(parents=True)
  assert parse_id("a/b") is None, "a folder wins"
  assert parse_id("a/mistyped") is None, "what is beside a folder is not asked of the hub"
  assert local_folder("a/b") == type(tmp_path)("a/b")


def test_a_model_comes_by_its_id_and_stays(hub, model, monkeypatch, capsys):
  folder = local_folder(ID)
  assert files_of(folder) == files_of(VIDEO), "what is needed, and nothing else"
  assert identity(folder) == identity(folder / "vae") == f"{ID}@{model.branches['main']}"
  assert identity(VIDEO) is None
  printed = capsys.readouterr().out
  assert f"downloading {ID} (commit {model.branches['main'][:12]}): 10 files, " in printed and " MB, into " in printed
  assert all(token is None for token in hub.tokens) and hub.tokens, "no token goes to another host"

  hub.requests.clear()
  assert local_folder(ID) == folder and not hub.requests, "a process asks once"
  go_offline(monkeypatch)
  assert local_folder(ID) == folder and not hub.requests
  monkeypatch.undo()


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, model):
  first = model.branches["main"]
  model.commit(model.commits[first] | {"model_index.json": b"{}"}, "trial")
  assert (local_folder(f"{ID}@trial") / "model_index.json").read_bytes() == b"{}"
  assert local_folder(ID).name == first
  hub.requests.clear()
  assert local_folder(f"{ID}@{first}").name == first
  assert not hub.requests, "a commit never changes, so nothing is asked"
  assert pinned(ID) == f"{ID}@{first}" and pinned("/a/b") == "/a/b"
  assert "no such branch, tag or commit" in refusal(f"{ID}@gone")


def test_parts_alone_are_small(hub, model):
  folder = part_folder(ID, "vae")
  assert folder.name == "vae" and (folder / "diffusion_pytorch_model.safetensors").exists()
  assert not (folder.parent / WEIGHTS).exists()
  assert load_autoencoder(ID).spatial_stride == load_autoencoder(str(VIDEO / "vae")).spatial_stride
  assert nova_jax.load_model(ID).cfg == nova_jax.load_model(VIDEO).cfg
  assert (folder.parent / WEIGHTS).exists()
  assert not list((folder.parent / "text_encoder").glob("*.safetensors"))


def test_which_files_are_needed():
  shards = [f"vae/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
  index = "vae/diffusion_pytorch_model.safetensors.index.json"
  names = ["vae/config.json", *shards, index, "vae/diffusion_pytorch_model.bin", "vae/x.fp16.safetensors", "a.png"]
  assert needed(names, PARTS) == sorted(["vae/config.json", *shards, index])
  names = ["text_encoder/config.json", "text_encoder/pytorch_model.bin", "nova.json", "all_in_one.safetensors"]
  assert needed(names, PARTS) == sorted(names[:3])
  assert needed(names, ["vae"]) == ["nova.json", "text_encoder/config.json"]
  arrays = ["transformer/digests/m", "transformer/state/d/0", "transformer/state/m"]
  names = ["nova.json", "transformer/config.json", *arrays, "vae/config.json"]
  assert needed(names, PARTS) == sorted(names)
  assert needed(names, ["vae"]) == ["nova.json", "transformer/config.json", "vae/config.json"]
  names = ["adapter_config.json", "adapter_model.safetensors", "README.md", "adapter_model.bin"]
  assert needed(names, PARTS) == names[:2]
  names = ["nova.json", "config.json", "checkpoints/5/state/d", "tensorboard/events", "samples/step_5.png"]
  assert needed(names, PARTS) == sorted(names[:3])


def test_a_download_that_was_cut_continues(hub, model):
  hub.cut[WEIGHTS] = 500_500
  assert "fails with status 503 (out of order); the same command continues" in refusal(ID, RunFailed)
  assert not list(hub_cache().glob("snapshots/*")), "half a model is not seen"
  hub.cut, hub.failing = {}, {}
  hub.requests.clear()
  assert files_of(local_folder(ID)) == files_of(VIDEO)
  sent = [request for request in hub.requests if request.startswith("GET /large") and WEIGHTS in request]
  assert len(sent) == 1 and sent[0].endswith(" from 500000"), "what was there is not sent again"
  assert not list(hub_cache().rglob("*.incomplete"))


def hub_cache():
  from huggingface_hub import constants

  return type(VIDEO)(constants.HF_HUB_CACHE) / "models--ORG--nova"


@pytest.mark.parametrize("name", [WEIGHTS, "model_index.json"])
def test_a_damaged_file_is_downloaded_again_once(hub, model, caplog, name):
  hub.damaged[name] = 1
  assert files_of(local_folder(ID)) == files_of(VIDEO)
  assert f"{name} of {ID} arrived damaged, and is downloaded again" in caplog.text


def test_a_file_that_stays_damaged_is_named(hub, model):
  hub.damaged[WEIGHTS] = 2
  assert f"{WEIGHTS} arrived damaged 2 times" in refusal(ID, RunFailed)
  digest = hashlib.sha256((VIDEO / WEIGHTS).read_bytes()).hexdigest()
  assert not list(hub_cache().glob("snapshots/*")) and not list(hub_cache().glob(f"blobs/{digest}*"))
  assert files_of(local_folder(ID)) == files_of(VIDEO)


def test_what_the_user_can_mend(hub, model, monkeypatch):
  message = refusal("ORG/mistyped")
  assert message.startswith("there is no folder ORG/mistyped, and there is no model ORG/mistyped on the hub (http://127")
  model.gated = True
  assert f"accept terms first, at {hub.url}/{ID}; then log in" in refusal(ID)
  model.gated = False
  hub.failing[f"resolve/.*/{WEIGHTS}"] = 403  # Anyone may see the names of a gated model's files.
  assert "your token may not do this" in refusal(ID)
  hub.failing.clear()
  model.private = True
  assert "if it is private, log in by `hf auth login`" in refusal(ID)
  log_in(monkeypatch, "hf_wrong")
  assert "does not know your token" in refusal(ID)
  log_in(monkeypatch)
  assert files_of(local_folder(ID)) == files_of(VIDEO)
  hub.add("ORG/pictures", VIDEO).commit({"fox.png": b"PNG"}, "main")
  assert "holds no model that this program knows, but 1 other files" in refusal("ORG/pictures")


def test_what_the_world_can_mend(hub, model):
  hub.failing["GET /api/models"] = 503
  assert "fails with status 503 (out of order)" in refusal(ID, RunFailed)
  hub.failing = {"tree": 429}
  assert "fails with status 429" in refusal(ID, RunFailed)


@pytest.mark.parametrize("number, code", ((socket.EAI_NONAME, 2), (socket.EAI_AGAIN, 1)))
def test_a_host_without_an_address(hub, tmp_path, monkeypatch, number, code):
  def no_address(*args, **settings):
    raise socket.gaierror(number, "no such host")

  point_to("http://hub.invalid", tmp_path / "cache", monkeypatch)
  monkeypatch.setattr(socket, "getaddrinfo", no_address)
  done = commands.run("sample", "--checkpoint", ID, "--prompt", "x", "--output", tmp_path / "out")
  assert done.returncode == code, done.stderr
  assert ("download the model where there is a network" in done.stderr) == (code == 2)


def test_without_a_network(hub, model, tmp_path, monkeypatch):
  folder = local_folder(ID, ("vae",))
  point_to("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
  assert local_folder(ID, ("vae",)) == folder, "the cache has it"
  assert "can't be reached (ConnectError: " in refusal(ID, RunFailed)
  assert "can't be reached" in refusal("ORG/other", RunFailed)
  go_offline(monkeypatch)
  assert local_folder(ID, ("vae",)) == folder
  message = refusal(ID)
  assert "lacks text_encoder/model.safetensors and 1 other files, and HF_HUB_OFFLINE forbids asking the hub" in message
  assert "lacks it, and HF_HUB_OFFLINE forbids" in refusal("ORG/other")


def test_nothing_downloads_by_itself(hub, model, tmp_path, monkeypatch):
  message = refusal(f"{ID}@main", download=False)
  assert "only what you name yourself is downloaded: give ORG/nova@main" in message
  assert not hub.requests
  with pytest.raises(UserError, match="neither a folder nor a built-in vae"):
    load_autoencoder(ID, tmp_path)  # As the card of a model folder may name it.
  assert not hub.requests


def test_without_the_library(monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  assert refusal(ID).endswith("pip install huggingface_hub")
  assert local_folder("./ORG/nova") == type(VIDEO)("ORG/nova")


@pytest.mark.slow
def test_commands_take_ids(hub, model, tmp_path):
  done = commands.run("convert", "--source", ID, "--target", tmp_path / "ours")
  assert done.returncode == 0, done.stderr
  assert nova_jax.open_folder(tmp_path / "ours").card.source.endswith(model.branches["main"])
  done = commands.run("convert", "--source", tmp_path / "ours", "--target", tmp_path / "back")
  for part in PARTS:
    assert_same_weights(tmp_path / "back" / part, VIDEO / part)
  done = commands.run("convert", "--source", "ORG/mistyped", "--target", tmp_path / "x")
  assert done.returncode == 2 and done.stderr.count("\n") == 1
  assert "there is no model ORG/mistyped on the hub" in done.stderr
  hub.failing["."] = 500
  done = commands.run("convert", "--source", "ORG/other", "--target", tmp_path / "x")
  assert done.returncode == 1 and done.stderr.count("\n") == 1 and "fails with status 500" in done.stderr


def test_outputs_name_the_commit_and_download_nothing(hub, model, tmp_path, monkeypatch):
  place = pinned(ID)
  pipe = nova_jax.Pipeline.load(place)
  made, = make_provenances(pipe, place, "ema", [{"prompt": "a fox", "seed": 1}], [[0]], 1)
  assert made.checkpoint == place == f"{ID}@{model.branches['main']}"
  file = tmp_path / "fox.png"
  write_png(file, np.zeros((8, 8, 3), np.uint8), note=made.text())
  assert read_provenance(file) == made
  point_to(hub.url, tmp_path / "another_cache", monkeypatch)
  hub.requests.clear()
  done = commands.run("sample", "--reproduce", file, "--output", tmp_path / "out")
  assert done.returncode == 2 and f"is downloaded: give {place} (--checkpoint" in done.stderr
  assert not hub.requests, "a file of a stranger's makes no request"
  write_png(file, np.zeros((8, 8, 3), np.uint8), note=dataclasses.replace(made, lora={"ORG/style": 1.0}).text())
  done = commands.run("sample", "--reproduce", file, "--checkpoint", VIDEO, "--output", tmp_path / "out")
  assert done.returncode == 2 and "ORG/style: the cache" in done.stderr and not hub.requests
