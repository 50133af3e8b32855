"""Fine-tuning on clips of your own: `python examples/finetune.py MODEL CLIPS WORKDIR STEPS`.

MODEL is a model folder of any form, or an id on the Hugging Face hub; CLIPS is a folder of videos with captions in .txt
files of the same names. The clips become latents in WORKDIR/cache; training starts from the model's weights, and the
same command continues it.
"""

import logging
import sys
from pathlib import Path

import nova_jax

logging.basicConfig(format="%(message)s")
logging.getLogger("nova_jax").setLevel("INFO")  # Shows the lines that commands print.
if len(sys.argv) != 5:
  sys.exit(__doc__)
source, clips, workdir, steps = sys.argv[1:]
workdir = Path(workdir)
folder = nova_jax.open_folder(source)
model, card = folder.path, folder.card
# Parts of a model are built in, by name, or folders beside the transformer.
autoencoder, text_encoder = (
    str(model / name) if (model / name).is_dir() else name for name in (card.autoencoder, card.text_encoder))
num_frames = nova_jax.load_autoencoder(autoencoder).num_frames(card.num_frames)
height, width = (side * nova_jax.load_autoencoder(autoencoder).spatial_stride for side in card.model.latent_size)
nova_jax.build_cache(clips, workdir / "cache", nova_jax.CacheConfig(
    buckets=((num_frames, height, width),), autoencoder=autoencoder, text_encoder=text_encoder,
    text_dim=card.model.text_dim, text_len=card.model.text_len))
nova_jax.train_nova(nova_jax.Experiment(
    model=card.model, scheduler=card.scheduler, sample=card.sample, init=str(model), autoencoder=autoencoder,
    text_encoder=text_encoder,
    data=nova_jax.DataConfig(name="caches", sources=(nova_jax.SourceConfig(str(workdir / "cache")),)),
    train=nova_jax.TrainConfig(
        steps=int(steps), stages=(nova_jax.StageConfig(batch_size=8, num_frames=card.num_frames),), save_every=500),
    optimizer=nova_jax.OptimizerConfig(learning_rate=2e-5, warmup_steps=100)), workdir)
