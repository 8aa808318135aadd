"""A connection to a Tinker-compatible service.

Tinker's client repeats requests that may succeed later, and polls for results. What
it lacks is an end: it waits for ever for a server that is gone. Here each wait checks
the server's health.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
import io
import logging
import os
import pathlib
import tarfile
import threading
import time
from typing import Any, NamedTuple, TypeVar
import zlib

import httpx
import numpy as np

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.models.hub import adapters
from tunix_ttt.models.hub import hub_loading
from tunix_ttt.runs import progress

# Environment variable of the API key.
KEY_VARIABLE = "TINKER_API_KEY"
# The prefix of keys, without which the client refuses them.
_KEY_PREFIX = "tml-"
# Address of Tinker's own service.
_TINKER = "https://tinker.thinkingmachines.dev/services/tinker-prod"
# Seconds between checks of the server's health, and for its reply.
_POLL, _REPLY = 5.0, 10.0
# Largest adapter to download, in bytes.
_MAX_ADAPTER = 8 * 10**9

ResultT = TypeVar("ResultT")


class Sampled(NamedTuple):
  """Sampled tokens and their log-probabilities at temperature 1."""

  tokens: list[int]
  log_probs: list[float]


class Counts:
  """Tokens and time that a run took on a service.

  Attributes:
    prompt: Tokens of prompts, and of rows that are only scored.
    sampled: Tokens of answers.
    trained: Tokens of rows, each time they are trained.
    seconds: Time in which the run waited.
  """

  def __init__(self):
    """Starts at 0."""
    self.prompt = self.sampled = self.trained = 0
    self.seconds = 0.0

  def restore(self, rows: Sequence[Mapping[str, Any]]) -> None:
    """Goes on from the last of the rows of `metrics.jsonl` that has counts."""
    for row in reversed(rows):
      if "service/prompt" in row:
        for name in vars(self):
          setattr(self, name, row[f"service/{name}"])
        return

  def metrics(self) -> dict[str, float]:
    """Returns the counts by their names in `metrics.jsonl`."""
    return {f"service/{k}": float(v) for k, v in vars(self).items()}

  def cost(self, prices: tuple[float, float, float] | None) -> float | None:
    """Returns US dollars at prices for a million tokens each, if there are any."""
    if prices is None:
      return None
    tokens = self.prompt, self.sampled, self.trained
    return sum(n * price for n, price in zip(tokens, prices, strict=True)) / 1e6


class Connection:
  """Asks a service and waits for it; messages never hold the key.

  Attributes:
    config: Settings of the service.
    address: Base URL of the service.
    counts: Tokens so far.
  """

  def __init__(self, config: config_lib.ServiceConfig):
    """Looks for the key and the server.

    Raises:
      errors.UserError: if the client is not installed, the key is missing, or the
        server cannot be reached.
    """
    # What it would send says nothing of this library's users.
    os.environ.setdefault("TINKER_TELEMETRY", "0")
    self._tinker = _client_library()
    # It warns of each download.
    logging.getLogger("tinker").setLevel(logging.ERROR)
    self.config, self.counts = config, Counts()
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
      raise errors.UserError(
        f"service: the environment variable {KEY_VARIABLE} is not set; set it to"
        " the key of your account (a local server takes any that begins with"
        f" {_KEY_PREFIX})"
      )
    if not key.startswith(_KEY_PREFIX) or not key.isascii():
      raise errors.UserError(
        f"{KEY_VARIABLE}: is not an API key; keys begin with {_KEY_PREFIX}"
      )
    self._secret = key
    self.address = config.base_url or _TINKER
    _check_address(self.address)
    if fault := self._fault():
      raise errors.UserError(
        f"service.base_url: {self.address} cannot be reached: {fault}"
      )
    self.client = self._tinker.ServiceClient(api_key=key, base_url=self.address)

  def call(
    self, what: str, function: Callable[..., Any], *arguments: Any, **named: Any
  ) -> Any:
    """Returns the result of a function of the client that blocks."""
    future: futures.Future[Any] = futures.Future()

    def run() -> None:
      try:
        future.set_result(function(*arguments, **named))
      except BaseException as error:
        future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return self.wait(what, future)

  def wait(self, what: str, future: Any) -> Any:
    """Returns the result of a request; `what` names it in messages.

    Raises:
      errors.UserError: if the service refuses the request, or gives no sign of life
        for `service.timeout` seconds.
    """
    # The client wraps some of its futures.
    future = future.future() if hasattr(future, "future") else future
    seen = started = time.monotonic()
    poll = min(_POLL, self.config.timeout / 2)
    while True:
      try:
        result = future.result(timeout=poll)
        self.counts.seconds += time.monotonic() - started
        return result
      except (TimeoutError, futures.TimeoutError) as error:
        if future.done():
          raise self._refusal(what, error) from None
        fault, now = self._fault(), time.monotonic()
        if fault is None:
          seen = now
        elif now - seen > self.config.timeout:
          raise errors.UserError(
            f"{self.address}: {what}: no sign of life for {now - seen:.0f} s:"
            f" {fault}"
          ) from None
      except Exception as error:
        # The client raises errors of many kinds.
        raise self._refusal(what, error) from None

  def _fault(self) -> str | None:
    """Returns what is wrong with the server; None if it answers."""
    try:
      url = f"{self.address.rstrip('/')}/api/v1/healthz"
      status = httpx.get(url, timeout=_REPLY).status_code
    except httpx.HTTPError as error:
      return self._clean(str(error) or type(error).__name__)
    return f"HTTP {status}" if status >= 500 else None

  def _refusal(self, what: str, error: Exception) -> errors.UserError:
    tinker, hint = self._tinker, ""
    if isinstance(
      error, tinker.AuthenticationError | tinker.PermissionDeniedError
    ):
      hint = f"; {KEY_VARIABLE} is wrong, or may not do this"
    elif isinstance(error, tinker.NotFoundError):
      hint = "; check service.base_url and model.name"
    text = self._clean(str(error) or type(error).__name__)
    return errors.UserError(f"{self.address}: {what}: {text}{hint}")

  def _clean(self, text: str) -> str:
    """Quotes the start of a text of the service, without the key."""
    text = text.replace(self._secret, "…")
    return errors.quote(" ".join(text.split())[:300])


def _client_library() -> Any:
  try:
    import tinker  # pyright: ignore[reportMissingImports]
  except ImportError:
    raise errors.UserError(
      "service: Tinker's client is not installed; run: pip install"
      " 'tunix_ttt[tinker]'"
    ) from None
  return tinker


def _check_address(address: str) -> None:
  """Raises a UserError for an address to which a key may not be sent."""
  try:
    url = httpx.URL(address)
  except httpx.InvalidURL:
    url = httpx.URL("")
  if url.scheme not in ("http", "https") or not url.host or url.userinfo:
    raise errors.UserError(
      f"service.base_url: {errors.quote(address)} is no base URL such as"
      " http://localhost:8000"
    )
  is_here = url.host in ("localhost", "127.0.0.1", "::1")
  if url.scheme == "http" and not is_here:
    raise errors.UserError(
      f"service.base_url: {errors.quote(address)} would be sent the key"
      " unencrypted; use https"
    )


class Weights:
  """The adapter that a service trains, and its present sampler."""

  def __init__(
    self,
    connection: Connection,
    model: str,
    *,
    rank: int,
    seed: int,
    start: str | None = None,
    state: str | None = None,
  ):
    """Makes a new adapter of a model, or takes up one that the service has.

    `start` is the path of weights to start from, `state` that of weights and
    optimizer to go on from.
    """
    self._connection, self._model = connection, model
    self._tinker: Any = _client_library()
    client = connection.client
    if state is not None:
      self._training: Any = connection.call(
        f"taking up {state}",
        client.create_training_client_from_state_with_optimizer,
        state,
      )
    elif start is not None:
      self._training = connection.call(
        f"taking up {start}", client.create_training_client_from_state, start
      )
    else:
      self._training = connection.call(
        f"training {model}",
        client.create_lora_training_client,
        base_model=model,
        rank=rank,
        seed=seed,
      )
    self._sampler: Any = None

  def stated(self) -> tuple[str | None, int | None]:
    """Returns the tokenizer's name and the rank that the service states, if any."""
    info = self._connection.call("the model's data", self._training.get_info)
    data = info.model_data
    return data.tokenizer_id or data.model_name, info.lora_rank

  def refresh(self) -> None:
    """Makes later samples come from the weights of now."""
    self._sampler = self._connection.call(
      "weights for sampling",
      self._training.save_weights_and_get_sampling_client,
      retry_config=self._retries(),
    )

  def _retries(self) -> Any:
    from tinker.lib import retry_handler  # pyright: ignore[reportMissingImports]

    size = self._connection.config.concurrency
    return retry_handler.RetryConfig(max_connections=size)

  def sample(
    self,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    most: Sequence[int],
    stop: Sequence[int],
    temperature: float,
  ) -> list[Sampled]:
    """Samples an answer to each prompt of N.

    Args:
      prompts: Token ids of each prompt.
      seeds: Random seed of each answer.
      most: Maximum number of tokens of each answer.
      stop: Tokens that end an answer; they are a part of it.
      temperature: Sampling temperature; 0 is greedy.
    """
    if self._sampler is None:
      self.refresh()
    types, counts = self._tinker.types, self._connection.counts
    sampler: Any = self._sampler
    jobs = [
      sampler.sample(
        prompt=types.ModelInput.from_ints(list(prompt)),
        num_samples=1,
        sampling_params=types.SamplingParams(
          max_tokens=limit, seed=seed, stop=list(stop), temperature=temperature
        ),
      )
      for prompt, seed, limit in zip(prompts, seeds, most, strict=True)
    ]
    results = []
    with progress.bar(total=len(jobs), desc="answers", leave=False) as bar:
      for prompt, job in zip(prompts, jobs, strict=True):
        (answer,) = self._connection.wait("sampling", job).sequences
        if answer.logprobs is None:
          raise errors.UserError(
            f"{self._connection.address}: sampling: no log-probabilities"
          )
        results.append(Sampled(list(answer.tokens), list(answer.logprobs)))
        counts.prompt += len(prompt)
        counts.sampled += len(answer.tokens)
        cost = counts.cost(self._connection.config.prices)
        bar.set_postfix_str(
          f"{counts.sampled:,} tokens"
          + ("" if cost is None else f", about ${cost:.2f}"),
          False,
        )
        bar.update()
    return results

  def datum(self, tokens: Sequence[int], **inputs: np.ndarray) -> Any:
    """Returns a row of L tokens with inputs of the loss, float32 [L - 1] each."""
    types = self._tinker.types
    arrays = {
      name: types.TensorData.from_numpy(np.asarray(values, np.float32))
      for name, values in inputs.items()
    }
    targets = np.asarray(tokens[1:], np.int64)
    return types.Datum(
      model_input=types.ModelInput.from_ints([*map(int, tokens[:-1])]),
      loss_fn_inputs={
        "target_tokens": types.TensorData.from_numpy(targets),
        **arrays,
      },
    )

  def train(
    self,
    rows: Sequence[Any],
    loss: str,
    adam: dict[str, float],
    settings: dict[str, float] | None = None,
  ) -> tuple[list[np.ndarray], float | None]:
    """Makes an optimizer step on rows of `datum`.

    Returns the log-probabilities before it, float32 [L - 1] of each row, and the
    norm of the gradient, if the service states it.
    """
    passed = self._training.forward_backward(rows, loss, settings)
    stepped = self._training.optim_step(self._tinker.types.AdamParams(**adam))
    result = self._connection.wait("training", passed)
    metrics = self._connection.wait("the optimizer", stepped).metrics or {}
    self._connection.counts.trained += sum(
      row.model_input.length for row in rows
    )
    norms = (v for k, v in metrics.items() if k.endswith("grad_norm"))
    return _log_probs(result), next(norms, None)

  def score(self, rows: Sequence[Any]) -> list[np.ndarray]:
    """Returns the log-probabilities of rows, float32 [L - 1] each."""
    passed = self._training.forward(rows, "cross_entropy")
    self._connection.counts.prompt += sum(
      row.model_input.length for row in rows
    )
    return _log_probs(self._connection.wait("scoring", passed))

  def save(self, name: str) -> str:
    """Saves weights and optimizer on the service; returns their path there."""
    job = self._training.save_state(name)
    return self._connection.wait("saving the state", job).path

  def download(self, name: str, directory: pathlib.Path) -> None:
    """Writes the adapter of now into a directory, as PEFT does."""
    job = self._training.save_weights_for_sampler(name)
    path = self._connection.wait("saving the adapter", job).path
    rest = self._connection.call(
      "a client of files", self._connection.client.create_rest_client
    )
    # SkyRL's paths lack the kind that the client's own parser looks for.
    run, checkpoint = path.removeprefix("tinker://").split("/", 1)
    job = rest.get_checkpoint_archive_url(run, checkpoint)
    url = self._connection.wait("the adapter's address", job).url
    archive = self._connection.call("the adapter", _download, url)
    _unpack(archive, directory, self._connection.address)
    _complete(directory, self._model)


def _log_probs(result: Any) -> list[np.ndarray]:
  return [
    np.asarray(output["logprobs"].data, np.float32)
    for output in result.loss_fn_outputs
  ]


def _download(url: str) -> bytes:
  data = bytearray()
  with httpx.stream("GET", url, timeout=60, follow_redirects=True) as response:
    response.raise_for_status()
    for chunk in response.iter_bytes():
      data += chunk
      if len(data) > _MAX_ADAPTER:
        raise ValueError(f"more than {_MAX_ADAPTER:,} bytes")
  return bytes(data)


def _unpack(archive: bytes, directory: pathlib.Path, address: str) -> None:
  """Writes the two files of an adapter that an archive holds, and no other."""
  wanted = {adapters.CONFIG, adapters.WEIGHTS}
  contents = {}
  try:
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
      for member in members:
        name = pathlib.PurePosixPath(member.name).name
        if name in wanted and member.isfile() and member.size < _MAX_ADAPTER:
          content = members.extractfile(member)
          assert content is not None
          contents[name] = content.read()
  except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
    raise errors.UserError(f"{address}: the adapter: {error}") from None
  if missing := wanted - contents.keys():
    raise errors.UserError(
      f"{address}: the adapter has no {' and no '.join(sorted(missing))}"
    )
  for name, content in contents.items():
    (directory / name).write_bytes(content)


def _complete(directory: pathlib.Path, base: str) -> None:
  """Writes what PEFT needs and a service leaves out of an adapter's config.

  Raises:
    errors.UserError: if the config is no adapter's.
  """
  path = directory / adapters.CONFIG
  stated = files.read_json(path, "adapter config")
  tensors = hub_loading.read_headers(directory / adapters.WEIGHTS)
  try:
    lora = config_lib.LoraConfig(rank=stated["r"], alpha=stated["lora_alpha"])
  except (KeyError, ValueError):
    raise errors.UserError(f"{path}: has no rank and alpha") from None
  content = adapters.settings(lora, tensors, base, None)
  content |= {k: v for k, v in stated.items() if v is not None}
  if pathlib.Path(base).is_dir():
    base = str(pathlib.Path(base).absolute())
  content["base_model_name_or_path"] = base
  files.write_text(path, files.to_json(content) + "\n")
