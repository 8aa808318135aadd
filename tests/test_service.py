"""Training on a service: what needs no server; see `test_service_live`."""

import io
import itertools
import json
import os
import socket
import tarfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import hugging_face as made
from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.algorithms import grpo_loss
from tunix_ttt.models import token_log_probs
from tunix_ttt.rollout import trajectory
from tunix_ttt.service import connection
from tunix_ttt.service import service_games
from tunix_ttt.service import service_models
from tunix_ttt.service import service_runs
from tunix_ttt.service import service_trainer

VOCAB_SIZE = 512


@pytest.fixture(autouse=True)
def key(monkeypatch):
  monkeypatch.setenv(connection.KEY_VARIABLE, "tml-of-a-test")


class Scripted:
  """Weights whose answers are given, one for each prompt in turn."""

  def __init__(self, answers: list[list[int]]):
    self.answers, self.prompts = answers, []

  def sample(self, prompts, seeds, *, most, stop, temperature):
    del seeds, stop, temperature
    self.prompts += prompts
    answers = [
      self.answers.pop(0)[:limit]
      for _, limit in zip(prompts, most, strict=True)
    ]
    return [
      connection.Sampled(tokens, [-1.0] * len(tokens)) for tokens in answers
    ]


def scripted(tokenizer, answers, **play):
  """Returns a player of tic-tac-toe without thoughts, and its weights."""
  config = config_lib.load_any(
    {
      "data": {"games": {"thoughts": "none"}},
      "play": {"max_new_tokens": 24, "temperature": 1.0, **play},
    }
  )
  weights = Scripted(answers)
  player = service_games.ServedModel(tokenizer, weights).player(config)
  keys = jax.random.split(jax.random.key(0), 1)
  return player(keys, player.begin(keys, jnp.zeros(1, int))), weights


class TestAnswers:
  def test_what_follows_an_unreadable_token_is_no_part(self, tokenizer):
    start = tokenizer.encode("<move>")
    answer = [*start, *start, *start]
    games, _ = scripted(tokenizer, [answer])
    assert games.ending == trajectory.Ending.PARSE_ERROR
    count = int(games.action_mask.sum())
    assert 0 < count < len(answer)
    assert games.actions[0, 0, :count].tolist() == answer[:count]

  def test_an_answer_that_is_cut(self, tokenizer):
    # An answer may begin with any number of line breaks.
    breaks = (tokenizer.encode("\n" * 30) * 30)[:30]
    games, weights = scripted(tokenizer, [breaks])
    assert games.ending == trajectory.Ending.LENGTH
    assert games.action_mask.sum() == 24
    (prompt,) = weights.prompts
    assert len(prompt) > 10

  def test_another_try_after_an_unreadable_answer(self, tokenizer):
    start = tokenizer.encode("<move>")
    games, weights = scripted(
      tokenizer,
      [[*start, *start]] * 5,
      context="full",
      on_parse_error="retry",
    )
    assert games.ending == trajectory.Ending.LENGTH
    assert games.retried.tolist() == [[False] + [True] * 4]
    # Each prompt extends the one before, with the answer in between.
    for before, after in itertools.pairwise(weights.prompts):
      assert after[: len(before)] == before
      assert after[len(before) :][: len(start)] == start


@pytest.mark.parametrize(
  "mode",
  [
    "token-mean", "sequence-mean-token-mean", "sequence-mean-token-scale",
    "seq-mean-token-sum", "sequence-mean-token-sum-norm",
  ],
)  # fmt: skip
def test_the_service_trains_the_config_s_loss(mode):
  """The sum over tokens that a service takes has the gradient of the loss."""
  config = config_lib.load(
    config_lib.GRPOConfig, {"grpo": {"loss_agg_mode": mode}}
  )
  algorithm = grpo_loss.algorithm_config(config)
  rng = np.random.default_rng(0)
  trained = rng.random((3, 8)) < 0.6
  old = rng.normal(size=trained.shape).astype(np.float32)
  advantages = rng.normal(size=trained.shape).astype(np.float32)
  make: Any = grpo_loss.GameExample
  rows = make(
    prompt_ids=None,
    prompt_mask=None,
    completion_ids=None,
    completion_mask=jnp.asarray(trained),
    advantages=jnp.asarray(advantages),
    ref_per_token_logps=None,
    old_per_token_logps=jnp.asarray(old),
    sampler_is_weights=None,
  )

  def loss(log_probs: jax.Array) -> jax.Array:
    zeros = jnp.zeros_like(log_probs)
    scores = token_log_probs.TokenLogProbs(log_probs, zeros, zeros > 0)
    return grpo_loss.loss_of_rows(scores, rows, algorithm)[0]

  expected = jax.grad(loss)(jnp.asarray(old))
  weights = service_trainer.loss_weights(trained, algorithm)
  # The derivative of -advantage * exp(new - old) at new = old.
  np.testing.assert_allclose(
    -advantages * weights * trained, expected, atol=1e-6
  )


class TestWithoutAServer:
  def settings(self, **changes: Any) -> config_lib.ServiceConfig:
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      url = f"http://127.0.0.1:{free.getsockname()[1]}"
    return config_lib.ServiceConfig(**{"base_url": url, **changes})

  def refused(self, settings: config_lib.ServiceConfig) -> str:
    pytest.importorskip("tinker")
    with pytest.raises(errors.UserError) as error:
      connection.Connection(settings)
    return str(error.value)

  def test_no_key(self, monkeypatch):
    monkeypatch.delenv(connection.KEY_VARIABLE)
    assert "TINKER_API_KEY is not set" in self.refused(self.settings())

  def test_no_key_of_tinker(self, monkeypatch):
    monkeypatch.setenv(connection.KEY_VARIABLE, "sk-secret")
    message = self.refused(self.settings())
    assert "begin with tml-" in message and "secret" not in message

  def test_an_archive_that_is_cut_off(self, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
      content = tarfile.TarInfo("../adapter_config.json")
      content.size = 1000
      archive.addfile(content, io.BytesIO(os.urandom(1000)))
    whole = buffer.getvalue()
    for data in (whole[:200], whole):
      with pytest.raises(errors.UserError, match="here: the adapter"):
        connection._unpack(data, tmp_path, "here")
    assert not [*tmp_path.iterdir()] and not [*tmp_path.parent.glob("*.json")]

  @pytest.mark.parametrize(
    ("key", "value", "advice"),
    [
      ("lora", "null", "set lora"),
      ("rollout.temperature", "0.7", "must be 1"),
      ("play.constrained", "true", "must be false"),
      ("grpo.beta", "0.1", "must be 0"),
      ("opponents.past_selves", "[0.5, 0.5]", "past_selves: must be 0"),
    ],
  )
  def test_settings_that_a_service_cannot_follow(self, key, value, advice):
    start = {"lora": {"rank": 2}, "service": {}}
    service_models.check(config_lib.load(config_lib.GRPOConfig, start))
    config = config_lib.load(config_lib.GRPOConfig, start, [f"{key}={value}"])
    with pytest.raises(errors.UserError, match=advice):
      service_models.check(config)

  def test_a_model_without_weights_is_enough(self, tmp_path):
    made.write_tokenizer(tmp_path, "qwen2.5", VOCAB_SIZE)
    content = {"model_type": "llama", "vocab_size": VOCAB_SIZE}
    (tmp_path / "config.json").write_text(json.dumps(content))
    config = config_lib.load_any(
      {"model": {"name": str(tmp_path)}, "lora": {"rank": 2}, "service": {}}
    )
    model = service_models.open_model(config)
    assert model.tokenizer.vocab_size == VOCAB_SIZE
    assert (model.base, model.start) == (str(tmp_path), None)

  def test_what_cannot_be_evaluated_is_refused_first(self, tmp_path):
    made.write_tokenizer(tmp_path, "qwen2.5", VOCAB_SIZE)
    content = {"model_type": "llama", "vocab_size": VOCAB_SIZE}
    (tmp_path / "config.json").write_text(json.dumps(content))
    settings = {
      "model": {"name": str(tmp_path)},
      "lora": {"rank": 2},
      "data": {"games": {"thoughts": "none"}},
      "play": {"temperature": 1.0, "num_answers": 0},
      "service": {},
    }
    config = config_lib.load(config_lib.GRPOConfig, settings)
    with pytest.raises(errors.UserError, match="play.num_answers: 0"):
      service_runs.plan_grpo(config)

  def test_a_run_that_was_trained_here(self, sft_run):
    config = config_lib.load_any({"lora": {"rank": 2}, "service": {}})
    for name in (sft_run, sft_run / "checkpoint-final"):
      with pytest.raises(errors.UserError, match="--backend local"):
        service_models.open_model(config, str(name))

  def test_no_server(self):
    message = self.refused(self.settings())
    assert "cannot be reached" in message and "of-a-test" not in message

  @pytest.mark.parametrize(
    ("url", "reason"),
    [
      ("ftp://somewhere", "no base URL"),
      ("http://me:secret@localhost", "no base URL"),
      ("http://example.com", "use https"),
    ],
  )
  def test_an_address_that_is_none(self, url, reason):
    assert reason in self.refused(self.settings(base_url=url))
