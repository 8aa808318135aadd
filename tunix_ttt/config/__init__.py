"""Typed configs: frozen dataclasses, read from YAML or made in Python.

Both ways validate every value.
"""

from tunix_ttt.config.episode_configs import EpisodesConfig as EpisodesConfig
from tunix_ttt.config.episode_configs import MctsConfig as MctsConfig
from tunix_ttt.config.episode_configs import OpponentsConfig as OpponentsConfig
from tunix_ttt.config.loading import Settings as Settings
from tunix_ttt.config.loading import differences as differences
from tunix_ttt.config.loading import flatten as flatten
from tunix_ttt.config.loading import load as load
from tunix_ttt.config.loading import load_any as load_any
from tunix_ttt.config.loading import recipe_of as recipe_of
from tunix_ttt.config.loading import to_dict as to_dict
from tunix_ttt.config.recipe_configs import RECIPES as RECIPES
from tunix_ttt.config.recipe_configs import AlgorithmConfig as AlgorithmConfig
from tunix_ttt.config.recipe_configs import DPOConfig as DPOConfig
from tunix_ttt.config.recipe_configs import GRPOConfig as GRPOConfig
from tunix_ttt.config.recipe_configs import (
  MoveQualityConfig as MoveQualityConfig,
)
from tunix_ttt.config.recipe_configs import OutcomeConfig as OutcomeConfig
from tunix_ttt.config.recipe_configs import PairsConfig as PairsConfig
from tunix_ttt.config.recipe_configs import PipelineConfig as PipelineConfig
from tunix_ttt.config.recipe_configs import PreferenceConfig as PreferenceConfig
from tunix_ttt.config.recipe_configs import Recipe as Recipe
from tunix_ttt.config.recipe_configs import Rejected as Rejected
from tunix_ttt.config.recipe_configs import RewardsConfig as RewardsConfig
from tunix_ttt.config.recipe_configs import RolloutConfig as RolloutConfig
from tunix_ttt.config.recipe_configs import SFTConfig as SFTConfig
from tunix_ttt.config.recipe_configs import StageConfig as StageConfig
from tunix_ttt.config.sections import SIZES as SIZES
from tunix_ttt.config.sections import CheckpointConfig as CheckpointConfig
from tunix_ttt.config.sections import DataConfig as DataConfig
from tunix_ttt.config.sections import DataFormat as DataFormat
from tunix_ttt.config.sections import DistributedConfig as DistributedConfig
from tunix_ttt.config.sections import EvalConfig as EvalConfig
from tunix_ttt.config.sections import GameConfig as GameConfig
from tunix_ttt.config.sections import GamesConfig as GamesConfig
from tunix_ttt.config.sections import LoggingConfig as LoggingConfig
from tunix_ttt.config.sections import LoraConfig as LoraConfig
from tunix_ttt.config.sections import MeshConfig as MeshConfig
from tunix_ttt.config.sections import ModelConfig as ModelConfig
from tunix_ttt.config.sections import PlayConfig as PlayConfig
from tunix_ttt.config.sections import TokenizerConfig as TokenizerConfig
from tunix_ttt.config.sections import TrainingConfig as TrainingConfig
from tunix_ttt.config.service_configs import ServiceConfig as ServiceConfig
