"""The public names: `__init__.py` reads this list, imports each when it is asked for, and editors complete it."""

from nova_jax.autoencoders import make_autoencoder as make_autoencoder
from nova_jax.checkpoints.load import load_model as load_model
from nova_jax.checkpoints.model_folder import load_autoencoder as load_autoencoder
from nova_jax.checkpoints.model_folder import load_text_encoder as load_text_encoder
from nova_jax.checkpoints.model_folder import open_folder as open_folder
from nova_jax.config import PRESETS as PRESETS
from nova_jax.config import CacheConfig as CacheConfig
from nova_jax.config import DataConfig as DataConfig
from nova_jax.config import EvalConfig as EvalConfig
from nova_jax.config import Experiment as Experiment
from nova_jax.config import MeshConfig as MeshConfig
from nova_jax.config import ModelConfig as ModelConfig
from nova_jax.config import OptimizerConfig as OptimizerConfig
from nova_jax.config import SampleConfig as SampleConfig
from nova_jax.config import SchedulerConfig as SchedulerConfig
from nova_jax.config import SourceConfig as SourceConfig
from nova_jax.config import StageConfig as StageConfig
from nova_jax.config import TrainConfig as TrainConfig
from nova_jax.data.cache.build import build as build_cache  # noqa: F401
from nova_jax.data.digits.datasets import prepare as prepare_digits  # noqa: F401
from nova_jax.data.loader import Loader as Loader
from nova_jax.data.sources import DigitData as DigitData
from nova_jax.data.videos import VideoFeed as VideoFeed
from nova_jax.diffusion import Scheduler as Scheduler
from nova_jax.diffusion import make_scheduler as make_scheduler
from nova_jax.diffusion.batch import Batch as Batch
from nova_jax.diffusion.ddpm import DDPM as DDPM
from nova_jax.diffusion.flow_matching import FlowMatching as FlowMatching
from nova_jax.diffusion.loss import loss as loss
from nova_jax.models.condition import Condition as Condition
from nova_jax.models.nova import NOVA as NOVA
from nova_jax.pipeline import Pipeline as Pipeline
from nova_jax.pipeline.clips import Clips as Clips
from nova_jax.sampling.one_call import sample as sample
from nova_jax.sampling.sampler import Noise as Noise
from nova_jax.text import make_text_encoder as make_text_encoder
from nova_jax.train.callbacks import Callback as Callback
from nova_jax.train.callbacks import SaveCheckpoints as SaveCheckpoints
from nova_jax.train.callbacks.evaluation import EarlyStopping as EarlyStopping
from nova_jax.train.callbacks.evaluation import HeldOutLoss as HeldOutLoss
from nova_jax.train.callbacks.stop import StopOnSignal as StopOnSignal
from nova_jax.train.nova import NovaTask as NovaTask
from nova_jax.train.nova import train_nova as train_nova
from nova_jax.train.task import Task as Task
from nova_jax.train.trainer import Trainer as Trainer
from nova_jax.utils.errors import UserError as UserError

__version__: str
