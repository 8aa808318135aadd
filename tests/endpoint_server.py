"""A server of completions, which answers and fails as it is told."""

from collections.abc import Callable, Iterator
import contextlib
import http.server
import json
import threading
from typing import Any, NamedTuple


class Said(NamedTuple):
  """A response after a wait; a body of None breaks the connection."""

  body: bytes | None
  status: int = 200
  retry_after: str | None = None
  wait: float = 0.0


def completion(text: str | None, finish: str = "stop") -> Said:
  """Returns a completion of both kinds."""
  choice = {"message": {"content": text}, "text": text, "finish_reason": finish}
  return Said(json.dumps({"choices": [choice]}).encode())


class Server(http.server.ThreadingHTTPServer):
  """Calls `behave` with the number of each request, from 0, and its body.

  Attributes:
    requests: Path, headers and body of each request, in order.
    most: Largest number of requests at a time.
  """

  daemon_threads = True

  def __init__(self, behave: Callable[[int, dict[str, Any]], Said]):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.behave, self.lock = behave, threading.Lock()
    self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
    self.now = self.most = 0
    self.closing = threading.Event()

  @property
  def url(self) -> str:
    return f"http://127.0.0.1:{self.server_port}/v1"

  def handle_error(self, request: Any, client_address: Any) -> None:
    """Ignores clients that have gone."""


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"

  def do_POST(self) -> None:
    server = self.server
    assert isinstance(server, Server)
    body = json.loads(self.rfile.read(int(self.headers["content-length"])))
    with server.lock:
      number = len(server.requests)
      server.requests.append((self.path, dict(self.headers), body))
      server.now += 1
      server.most = max(server.most, server.now)
    said = server.behave(number, body)
    server.closing.wait(said.wait)
    with server.lock:
      server.now -= 1
    if said.body is None:
      self.close_connection = True
      return
    self.send_response(said.status)
    if said.retry_after is not None:
      self.send_header("retry-after", said.retry_after)
    self.send_header("content-length", str(len(said.body)))
    self.end_headers()
    self.wfile.write(said.body)

  def log_message(self, format: str, *args: Any) -> None:
    """Says nothing."""


@contextlib.contextmanager
def serving(behave: Callable[[int, dict[str, Any]], Said]) -> Iterator[Server]:
  """Yields a running server."""
  server = Server(behave)
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  thread.start()
  try:
    yield server
  finally:
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


def observation(body: dict[str, Any]) -> str:
  """Returns the observation in a request."""
  if "messages" in body:
    return body["messages"][-1]["content"]
  return body["prompt"].removesuffix("\n").rpartition("\n\n")[2]
