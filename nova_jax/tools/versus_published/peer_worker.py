"""The same work with the published code: a script that another Python runs, which needs no JAX.

It reads its sizes as JSON from the command line, says "ready", and then answers each line "train T" or "generate T"
(T frames) with the seconds that took, or with "error: …".
Invariant: float32 on all cores, nothing recomputed, the optimizer of the published configs: the fastest documented way.
"""

import functools
import importlib
import json
import os
import sys
import time


def main() -> None:
  peer, sizes = sys.argv[1], json.loads(sys.argv[2])
  sys.path.insert(0, peer)
  work = Work(sizes)
  print("ready", flush=True)
  for line in sys.stdin:
    what, num_frames = line.split()
    run = work.training(int(num_frames)) if what == "train" else work.generation(int(num_frames))
    start = time.perf_counter()
    run()
    print(time.perf_counter() - start, flush=True)


class Work:
  """The model, and what is done with it. See `nova_jax/tools/versus_published/peer.py` for the sizes."""

  def __init__(self, sizes):
    # Here, so that a missing package is an error of this worker and not of the file that describes it.
    self.torch = importlib.import_module("torch")
    nova = importlib.import_module("diffnext.models.transformers.transformer_nova")
    flow = importlib.import_module("diffnext.schedulers.scheduling_cfm")
    self.torch.set_num_threads(len(os.sched_getaffinity(0)))
    self.torch.manual_seed(0)
    self.sizes, size = sizes, sizes["latent_size"]
    makers = (nova.VIDEO_ENCODERS, nova.IMAGE_ENCODERS, nova.IMAGE_DECODERS)
    bases = (nova.video_encoder, nova.image_encoder, nova.image_decoder)
    for registry, name, base, fields in zip(makers, sizes["names"], bases, sizes["parts"], strict=True):
      registry.register(name, functools.partial(base, **fields))
    stride, patch = 8, sizes["patch_size"]
    grid = [side // patch for side in size]
    self.model = nova.NOVATransformer3DModel(
        image_dim=sizes["latent_dim"], image_size=[side * stride for side in size], image_stride=stride,
        text_token_dim=sizes["text_dim"], text_token_len=sizes["text_len"], image_base_size=grid,
        video_base_size=[sizes["base_frames"], grid[0] // 2, grid[1] // 2], video_mixer_rank=sizes["mixer_rank"],
        arch=sizes["names"])
    self.model.noise_scheduler = flow.FlowMatchEulerDiscreteScheduler()
    self.model.sample_scheduler = flow.FlowMatchEulerDiscreteScheduler()
    self.model.loss_repeat = sizes["loss_repeat"]
    # A draw from an interval without length.
    ratio = 1 - sizes["num_visible"] / (grid[0] * grid[1])
    self.model.mask_embed.mask_ratios = [ratio - 1e-6, ratio + 1e-6, 0.25]
    self.optimizer = self.torch.optim.AdamW(
        self.model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.02, fused=True)
    self.model.text_embed.dropout = 0

  def texts(self, num):
    shape = (self.sizes["text_len"], self.sizes["text_dim"])
    return [self.torch.ones(*shape) for _ in range(num)]

  def clips(self, num_frames):
    return self.torch.zeros(
        self.sizes["batch_size"], self.sizes["latent_dim"], num_frames, *self.sizes["latent_size"])

  def training(self, num_frames):
    """Return a function that takes one step: losses, gradients, update."""
    batch = self.sizes["batch_size"]
    self.model.train()
    self.model.mask_embed.attn_mask = None  # It is kept for clips of one length.

    def run():
      inputs = {
          "x": self.clips(num_frames), "prompt": self.texts(batch), "motion_flow": [5.0] * batch, "fps": [12.0] * batch}
      losses = self.model(inputs)
      sum(losses.values()).backward()
      self.optimizer.step()
      self.optimizer.zero_grad(set_to_none=True)

    return run

  def generation(self, num_frames):
    """Return a function that generates latents."""
    sizes, batch = self.sizes, self.sizes["batch_size"]
    self.model.eval()
    for block in self.model.video_encoder.blocks:
      block.attn.attn_mask = None
    encoder = self.model.text_embed

    def run():
      with self.torch.no_grad():
        null = encoder.weight[: sizes["text_len"]].expand(batch, -1, -1)
        prompt = self.torch.cat([encoder.encode_prompts(self.texts(batch)), null])
        self.model({
            "prompt": prompt, "batch_size": batch, "motion_flow": [5.0] * batch, "fps": [12.0] * batch,
            "max_latent_length": num_frames, "num_preds": sizes["set_sizes"], "num_diffusion_steps": sizes["num_steps"],
            "guidance_scale": sizes["guidance_scale"], "tqdm1": False, "tqdm2": False, "latents": []})

    return run


if __name__ == "__main__":
  try:
    main()
  except Exception as error:
    text = " ".join(str(error).split())
    if isinstance(error, (ImportError, AttributeError)):
      print(f"error: {text}; install its dependencies, or give the Python that has them as --peer_python", flush=True)
    else:
      print(f"error: {type(error).__name__}: {text}", flush=True)
