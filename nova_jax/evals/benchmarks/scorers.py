"""Commands of the official scorers, which run as they are in a checkout of the scorer's code.

Results are written beside the scored folder, into the folder of the run.
Invariant: commands name every path absolutely and quote it, so that they run wherever the checkout is.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nova_jax.evals.benchmarks.layout import Layout
from nova_jax.evals.benchmarks.prompts import VBENCH_FOLDERS

# Aspect ratios of the pictures of VBench-I2V.
_RATIOS = {"1-1": 1.0, "8-5": 1.6, "7-4": 1.75, "16-9": 16 / 9}
_I2V = (
    "i2v_subject", "i2v_background", "camera_motion", "subject_consistency", "background_consistency",
    "motion_smoothness", "dynamic_degree", "aesthetic_quality", "imaging_quality")


class _Folder(NamedTuple):
  """A finished folder."""

  layout: Layout
  scored: Path
  height: int
  width: int

  def path(self, *parts: str) -> str:
    """Return a path within the scored folder, for a shell."""
    return shlex.quote(str(self.scored.joinpath(*parts)))

  def beside(self, name: str) -> str:
    """Return a path beside the scored folder, for a shell."""
    return shlex.quote(str(self.scored.parent / name))

  @property
  def groups(self) -> list[str]:
    """Folders of the prompts' groups, in order."""
    return list(dict.fromkeys(item.path.partition("/")[0] for item in self.layout.items))


def how_to_score(layout: Layout, scored: Path, shape: Sequence[int]) -> list[str]:
  """Return where the official scorer is, as a comment of a shell, and its commands for a finished folder.

  Args:
    layout: of the folder.
    scored: folder that the scorer reads.
    shape: frames, height and width of its files.
  """
  folder = _Folder(layout, scored.absolute(), *shape[-2:])
  place, commands = ("", _prediction) if layout.context_frames else _SCORERS[layout.benchmark]
  return ([f"# in a checkout of {place}"] if place else []) + commands(folder)


def _geneval(folder: _Folder) -> list[str]:
  results = folder.beside("results.jsonl")
  return [
      "./evaluation/download_models.sh detectors/",
      f"python evaluation/evaluate_images.py {folder.path()} --outfile {results} --model-path detectors/",
      f"nova-jax score --benchmark geneval --results {results}"]


def _geneval2(folder: _Folder) -> list[str]:
  # The pictures' paths are relative to the scored folder.
  return [
      f'scorer="$PWD"; cd {folder.path()} && python "$scorer/evaluation.py" --benchmark_data '
      f'"$scorer/geneval2_data.jsonl" --image_filepath_data image_paths.json --method soft_tifa_gm --output_file '
      f'{folder.beside("results.json")}; cd "$scorer"',
      f"python soft_tifa_analysis.py --benchmark_data geneval2_data.jsonl --score_data {folder.beside('results.json')}"]


def _vbench(folder: _Folder) -> list[str]:
  results, static = folder.beside("results"), folder.beside("static")
  commands = []
  for dimension, group in VBENCH_FOLDERS.items():
    if group in folder.groups:
      videos = folder.path(group)
      if dimension == "temporal_flickering":
        commands.append(f"python static_filter.py --videos_path {videos} --result_path {static}")
        videos = folder.beside("static/filtered_videos")
      commands.append(f"python evaluate.py --videos_path {videos} --dimension {dimension} --output_path {results}")
  return [*commands, f"nova-jax score --benchmark vbench --results {results}"]


def _vbench_i2v(folder: _Folder) -> list[str]:
  shape = folder.width / folder.height
  ratio = min(_RATIOS, key=lambda name: abs(_RATIOS[name] - shape))
  results = folder.beside("results")
  return [
      f"python evaluate_i2v.py --videos_path {folder.path()} --dimension {' '.join(_I2V)} --ratio {ratio} "
      f"--output_path {results}",
      f"(cd {results} && zip -qr {folder.beside('results.zip')} .)",
      f"python scripts/cal_i2v_final_score.py --zip_file {folder.beside('results.zip')} --model_name nova"]


def _vbench_long(folder: _Folder) -> list[str]:
  results = folder.beside("results")
  commands = []
  for dimension, group in VBENCH_FOLDERS.items():
    if group in folder.groups:
      still = " --static_filter_flag" if dimension == "temporal_flickering" else ""
      commands.append(
          f"python vbench2_beta_long/eval_long.py --videos_path {folder.path(group)} --dimension {dimension} "
          f"--mode long_vbench_standard --dev_flag{still} --output_path {results}")
  return [*commands, f"nova-jax score --benchmark vbench --results {results}"]


def _vbench2(folder: _Folder) -> list[str]:
  results = folder.beside("results")
  return [
      *(f"python evaluate.py --videos_path {folder.path(group)} --dimension {group} "
        f"--output_path {folder.beside(f'results/{group}')}" for group in folder.groups),
      f"(cd {results} && zip -qr {folder.beside('results.zip')} .)",
      f"python scripts/cal_final_score.py --zip_file {folder.beside('results.zip')} --model_name nova"]


def _dpg(folder: _Folder) -> list[str]:
  return [f"bash dpg_bench/dist_eval.sh {folder.path()} {folder.height // 2}"]  # The side of one of the four tiles.


def _t2i_compbench(folder: _Folder) -> list[str]:
  out = shlex.quote(f"{folder.scored}/")
  return [
      "# one of these, by category: colour, shape and texture; spatial relationships; other relationships",
      f"(cd BLIPvqa_eval && python BLIP_vqa.py --out_dir={out})",
      f"(cd UniDet_eval && python 2D_spatial_eval.py --outpath={out})",
      f"python CLIPScore_eval/CLIP_similarity.py --outpath={out}"]


def _class_to_image(folder: _Folder) -> list[str]:
  labeled = "_labeled" if folder.height < 512 else ""  # As the reference batches are named.
  return [
      f"python evaluations/evaluator.py VIRTUAL_imagenet{folder.height}{labeled}.npz {folder.beside('samples.npz')}"]


def _prediction(folder: _Folder) -> list[str]:
  return [
      f"nova-jax score --benchmark prediction --real {folder.path('real')} --generated {folder.path('generated')} "
      f"--context_frames {folder.layout.context_frames} --csv {folder.beside('drift.csv')} --plot "
      f"{folder.beside('drift.png')} --json {folder.beside('scores.json')}"]


_SCORERS: Mapping[str, tuple[str, Callable[[_Folder], list[str]]]] = {
    "geneval": ("djghosh13/geneval", _geneval),
    "geneval2": ("facebookresearch/GenEval2", _geneval2),
    "vbench": ("Vchitect/VBench", _vbench),
    "vbench_i2v": ("Vchitect/VBench, with its pictures in vbench2_beta_i2v/data", _vbench_i2v),
    "vbench_long": ("Vchitect/VBench", _vbench_long),
    "vbench2": ("Vchitect/VBench, in its folder VBench-2.0", _vbench2),
    "dpg": ("TencentQQGYLab/ELLA", _dpg),
    "t2i_compbench": ("Karine-Huang/T2I-CompBench", _t2i_compbench),
    "class_to_image": ("openai/guided-diffusion, with the reference batch of ImageNet beside it", _class_to_image)}
