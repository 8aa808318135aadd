"""Asks a model behind an OpenAI-compatible endpoint, in parallel.

A request is repeated where it may succeed later: after timeouts, broken
connections, the statuses 408, 429 and 5xx, and responses without a completion.
Each answer is appended to a cache as it arrives, so an interrupted judgement asks
for the rest only. Responses are data: bounded, checked and never shown raw.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
import dataclasses
import email.utils
import hashlib
import json
import math
import os
import threading
import time
from typing import Any, Literal, Self

import httpx

from tunix_ttt import errors
from tunix_ttt.evaluate import replies as replies_lib
from tunix_ttt.runs import progress
from tunix_ttt.text import chat

# Environment variable of the API key.
KEY_VARIABLE = "OPENAI_API_KEY"
# Maximum size of a response in bytes.
MAX_BYTES = 1_000_000
# Waits before another try in seconds: the first, doubled each time, and the most.
FIRST_WAIT, MAX_WAIT = 0.5, 300.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endpoint:
  """Address and settings of requests; decoding is greedy.

  Attributes:
    url: Base URL, such as http://localhost:8000/v1.
    model: Name of the model.
    api: `chat` sends the rules as the system message and the observation as the
      user's, `completions` sends both as one text.
    max_tokens: Maximum number of tokens in an answer.
    timeout: Longest time for a whole response in seconds.
    retries: Number of times that a failed request is repeated.
    concurrency: Number of requests at a time.
  """

  url: str
  model: str
  api: Literal["chat", "completions"] = "chat"
  max_tokens: int = 256
  timeout: float = 60.0
  retries: int = 5
  concurrency: int = 8

  def __post_init__(self):
    try:
      url = httpx.URL(self.url)
    except httpx.InvalidURL:
      url = httpx.URL("")
    if url.userinfo:
      raise errors.UserError(
        f"endpoint: the URL holds a password; leave it out and set {KEY_VARIABLE}"
      )
    if url.scheme not in ("http", "https") or not url.host or url.query:
      raise errors.UserError(
        f"endpoint: {errors.quote(self.url)} is no base URL such as"
        " http://localhost:8000/v1"
      )

  @property
  def address(self) -> str:
    """URL of requests."""
    end = "chat/completions" if self.api == "chat" else "completions"
    return f"{self.url.rstrip('/')}/{end}"

  def body(self, prompt: Sequence[chat.Message]) -> dict[str, Any]:
    """Returns the request for an answer to a prompt."""
    content: dict[str, Any] = {"messages": [*prompt]}
    if self.api == "completions":
      content = {"prompt": "\n\n".join(m["content"] for m in prompt) + "\n"}
    limits = {"max_tokens": self.max_tokens, "temperature": 0}
    return {"model": self.model, **content, **limits}


class _RetryError(Exception):
  """A fault that may pass, and the least wait in seconds."""

  def __init__(self, fault: str, wait: float = 0.0):
    super().__init__(fault)
    self.wait = wait


class Client:
  """Answers observations by an endpoint and a cache; a context manager."""

  def __init__(
    self,
    endpoint: Endpoint,
    cache: replies_lib.Cache,
    prompt: Callable[[str], Sequence[chat.Message]],
  ):
    """Reads the API key from the environment, if there is one.

    Args:
      endpoint: Endpoint.
      cache: Answers so far.
      prompt: Function from an observation to its prompt.

    Raises:
      errors.UserError: If the API key cannot be sent.
    """
    self._endpoint, self._cache, self._prompt = endpoint, cache, prompt
    self._stop = threading.Event()
    # No message may hold it.
    self._secret = os.environ.get(KEY_VARIABLE, "").strip()
    if not all("!" <= letter <= "~" for letter in self._secret):
      raise errors.UserError(
        f"{KEY_VARIABLE}: has characters that a key cannot have; set it again"
      )
    headers = {"Accept-Encoding": "identity"}
    if self._secret:
      headers["Authorization"] = f"Bearer {self._secret}"
    self._http = httpx.Client(
      headers=headers,
      timeout=endpoint.timeout,
      limits=httpx.Limits(max_connections=endpoint.concurrency),
    )

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    self._http.close()
    self._cache.close()

  def cached(self, observation: str) -> replies_lib.Reply | None:
    """Returns the answer that the cache has, if any."""
    return self._cache.get(self._key(self._body(observation)))

  def __call__(self, observations: Sequence[str]) -> list[replies_lib.Reply]:
    """Returns the answers to observations, and asks for those not in the cache.

    Raises:
      errors.UserError: If a request fails for good. Other answers are kept.
    """
    missing = [each for each in observations if self.cached(each) is None]
    if missing:
      self._cache.open()
      self._ask({*missing})
    every = [self.cached(each) for each in observations]
    return [reply for reply in every if reply is not None]

  def _ask(self, observations: set[str]) -> None:
    pool = futures.ThreadPoolExecutor(self._endpoint.concurrency)
    jobs = [pool.submit(self._answer, each) for each in sorted(observations)]
    try:
      with progress.bar(total=len(jobs), desc="answers", leave=False) as bar:
        for job in futures.as_completed(jobs):
          job.result()
          bar.update()
    except BaseException as error:
      self._stop.set()
      # Requests under way end and are kept, except at Ctrl-C.
      pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
      raise
    pool.shutdown()

  def _body(self, observation: str) -> dict[str, Any]:
    return self._endpoint.body(self._prompt(observation))

  def _key(self, body: Mapping[str, Any]) -> str:
    """Returns the digest of a request, which is the same for every URL."""
    text = json.dumps([self._endpoint.api, body], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

  def _answer(self, observation: str) -> None:
    """Asks until there is an answer and caches it, unless another one failed."""
    endpoint, body = self._endpoint, self._body(observation)
    key = self._key(body)
    try:
      result = self._retry(body, 1 + int(key[:8], 16) / 2**32)
      if result is not None:
        self._cache.add(
          replies_lib.Reply(
            key=key,
            model=endpoint.model,
            observation=observation,
            response=result[0],
            truncated=result[1],
          )
        )
    except errors.UserError:
      self._stop.set()
      raise

  def _retry(
    self, body: Mapping[str, Any], spread: float
  ) -> tuple[str, bool] | None:
    """Sends a request until it succeeds; None if another one failed.

    Waits are multiplied by `spread`, which is from 1 to 2 and spreads the tries of
    requests that failed together.
    """
    endpoint, attempt = self._endpoint, 0
    while not self._stop.is_set():
      try:
        return self._post(body)
      except _RetryError as error:
        if attempt == endpoint.retries:
          raise errors.UserError(
            f"{endpoint.address}: {error} (tried {attempt + 1} times)"
          ) from None
        wait = max(FIRST_WAIT * 2 ** min(attempt, 16) * spread, error.wait)
        self._stop.wait(min(wait, MAX_WAIT))
        attempt += 1
    return None

  def _post(self, body: Mapping[str, Any]) -> tuple[str, bool]:
    """Sends a request; returns the text, and whether it is truncated."""
    endpoint, data = self._endpoint, bytearray()
    late = _RetryError(f"no whole response within {endpoint.timeout:g} s")
    deadline = time.monotonic() + endpoint.timeout
    try:
      with self._http.stream("POST", endpoint.address, json=body) as response:
        for chunk in response.iter_raw():
          data += chunk
          if len(data) > MAX_BYTES:
            raise _RetryError(f"a response of over {MAX_BYTES:,} bytes")
          if time.monotonic() > deadline:
            raise late
    except httpx.TimeoutException:
      raise late from None
    except httpx.TransportError as error:
      fault = str(error) or type(error).__name__
      raise _RetryError(self._clean(fault)) from None
    status, content = response.status_code, self._clean(_message(bytes(data)))
    if status in (408, 429) or status >= 500:
      wait = _retry_after(response.headers.get("retry-after", ""))
      raise _RetryError(f"HTTP {status}: {content}", wait)
    if status != 200:
      hints = {401: f"; set {KEY_VARIABLE}", 404: "; check URL and model"}
      raise errors.UserError(
        f"{endpoint.address}: HTTP {status}: {content}{hints.get(status, '')}"
      )
    try:
      choice = json.loads(bytes(data))["choices"][0]
      is_chat = endpoint.api == "chat"
      text = choice["message"]["content"] if is_chat else choice["text"]
      truncated = choice.get("finish_reason") == "length"
      # A model that was cut within its thought may have no content.
      text = ("" if text is None else text).encode(errors="replace").decode()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
      raise _RetryError(f"no completion but {content}") from None
    return text, truncated

  def _clean(self, text: str) -> str:
    """Quotes the start of a text of a server, without the API key."""
    if self._secret:
      text = text.replace(self._secret, "…")
    return errors.quote(" ".join(text.split())[:120])


def _message(data: bytes) -> str:
  """Returns the message of a server's error, or else the whole response."""
  try:
    message = json.loads(data)["error"]["message"]
  except (ValueError, LookupError, TypeError, RecursionError):
    message = None
  return message if isinstance(message, str) else data.decode(errors="replace")


def _retry_after(text: str) -> float:
  """Returns the wait of a header `Retry-After` in seconds; 0 if it has none."""
  try:
    if text[:1].isdigit():
      wait = float(text)
    else:
      wait = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
  except (ValueError, OverflowError, OSError):
    return 0.0
  return wait if math.isfinite(wait) else 0.0
