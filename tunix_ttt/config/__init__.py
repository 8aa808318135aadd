"""Typed configs: frozen dataclasses, read from YAML or made in Python.

Both ways validate every value.
"""

from tunix_ttt.config.dpo_config import DPOConfig as DPOConfig
from tunix_ttt.config.dpo_config import PreferenceConfig as PreferenceConfig
from tunix_ttt.config.grpo_config import AlgorithmConfig as AlgorithmConfig
from tunix_ttt.config.grpo_config import EpisodesConfig as EpisodesConfig
from tunix_ttt.config.grpo_config import GRPOConfig as GRPOConfig
from tunix_ttt.config.grpo_config import MoveQualityConfig as MoveQualityConfig
from tunix_ttt.config.grpo_config import OpponentsConfig as OpponentsConfig
from tunix_ttt.config.grpo_config import OutcomeConfig as OutcomeConfig
from tunix_ttt.config.grpo_config import RewardsConfig as RewardsConfig
from tunix_ttt.config.grpo_config import RolloutConfig as RolloutConfig
from tunix_ttt.config.loading import RECIPES as RECIPES
from tunix_ttt.config.loading import differences as differences
from tunix_ttt.config.loading import flatten as flatten
from tunix_ttt.config.loading import from_dict as from_dict
from tunix_ttt.config.loading import load as load
from tunix_ttt.config.loading import load_any as load_any
from tunix_ttt.config.loading import to_dict as to_dict
from tunix_ttt.config.pipeline_config import PairsConfig as PairsConfig
from tunix_ttt.config.pipeline_config import PipelineConfig as PipelineConfig
from tunix_ttt.config.pipeline_config import StageConfig as StageConfig
from tunix_ttt.config.sections import SIZES as SIZES
from tunix_ttt.config.sections import CheckpointConfig as CheckpointConfig
from tunix_ttt.config.sections import DataConfig as DataConfig
from tunix_ttt.config.sections import DataFormat as DataFormat
from tunix_ttt.config.sections import DistributedConfig as DistributedConfig
from tunix_ttt.config.sections import EvalConfig as EvalConfig
from tunix_ttt.config.sections import GamesConfig as GamesConfig
from tunix_ttt.config.sections import LoggingConfig as LoggingConfig
from tunix_ttt.config.sections import LoraConfig as LoraConfig
from tunix_ttt.config.sections import MeshConfig as MeshConfig
from tunix_ttt.config.sections import ModelConfig as ModelConfig
from tunix_ttt.config.sections import PlayConfig as PlayConfig
from tunix_ttt.config.sections import SFTConfig as SFTConfig
from tunix_ttt.config.sections import TokenizerConfig as TokenizerConfig
from tunix_ttt.config.sections import TrainingConfig as TrainingConfig
