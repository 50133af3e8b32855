"""Sampling in one call, for those who hold a model and conditions; `nova_jax.pipeline` goes from texts to pixels."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from nova_jax.diffusion import Scheduler
from nova_jax.models.condition import Condition
from nova_jax.models.nova import NOVA
from nova_jax.sampling.frame_context import Model
from nova_jax.sampling.guidance import Guidance
from nova_jax.sampling.inputs import Conditions, Inputs
from nova_jax.sampling.plan import make_plan
from nova_jax.sampling.sampler import generate


def sample(
    model: NOVA, scheduler: Scheduler, condition: Condition | Mapping[str, Array], key: Key[Array, ""], *,
    num_frames: int = 1, num_inference_steps: int = 64, num_diffusion_steps: int = 25, guidance_scale: float = 5.0,
    given: Float[Array, "B G h w C"] | None = None,
) -> Float[Array, "B T h w C"]:
  """Generate latents for a batch of conditions.

  Args:
    model: transformer.
    scheduler: diffusion process that the model was trained with.
    condition: condition of B samples, or a training batch, which holds one.
    key: random key; each sample draws from a key of its own.
    num_frames: latent frames T, given ones included.
    num_inference_steps: sets of tokens that a frame is written in, S.
    num_diffusion_steps: evaluations of the denoiser for each set, K.
    guidance_scale: scale of classifier-free guidance against the empty caption or class; 1 turns it off.
    given: first G latent frames, which are kept and condition all later ones.

  Raises:
    UserError: a setting that the model can't do.
    FloatingPointError: latents that are not finite.
  """
  plan = make_plan(
      model.cfg, scheduler, num_frames=num_frames, num_sets=num_inference_steps, num_steps=num_diffusion_steps,
      guidance=Guidance(guidance_scale))
  condition = Condition.from_batch(condition)
  keys = jax.random.split(key, condition.num_samples)
  inputs = Inputs(Conditions(condition, condition.without(model.cfg.num_classes)), keys, given)
  frames = generate(Model.from_module(model), plan, inputs)
  return jnp.stack(list(frames), axis=1)
