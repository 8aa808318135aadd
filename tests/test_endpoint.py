"""Requests to a real server that fails in every way, and their cache."""

import email.utils
import json
import time

import pytest

from tests import endpoint_server
from tests.endpoint_server import Said
from tests.endpoint_server import completion
from tunix_ttt import errors
from tunix_ttt.evaluate import endpoint as endpoint_lib
from tunix_ttt.evaluate import replies as replies_lib
from tunix_ttt.text import chat

OBSERVATIONS = [f"Stones: {n}\nYour move?" for n in range(7)]
KEY = "sk-secret-0123"


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
  monkeypatch.setattr(endpoint_lib, "FIRST_WAIT", 0.01)
  monkeypatch.setenv(endpoint_lib.KEY_VARIABLE, KEY)
  monkeypatch.chdir(tmp_path)


def prompt(observation):
  return [chat.message("system", "Rules."), chat.message("user", observation)]


def client(server, tmp_path, **settings):
  settings = {"model": "m", "retries": 2, "timeout": 20.0, **settings}
  cache = replies_lib.Cache(tmp_path / "c.jsonl")
  url = server if isinstance(server, str) else server.url
  settings["url"] = url
  return endpoint_lib.Client(endpoint_lib.Endpoint(**settings), cache, prompt)


def echo(number, body):
  del number
  return completion(f"to {endpoint_server.observation(body)}")


def answers(observations=OBSERVATIONS):
  return [f"to {each}" for each in observations]


def rows(tmp_path):
  return [
    json.loads(r) for r in (tmp_path / "c.jsonl").read_text().splitlines()
  ]


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_answers_come_in_order_and_are_asked_for_once(tmp_path, api):
  with endpoint_server.serving(echo) as server:
    for _ in range(2):
      with client(server, tmp_path, api=api, max_tokens=5) as ask:
        replies = ask([*OBSERVATIONS, *OBSERVATIONS])
        assert [reply.response for reply in replies] == answers() * 2
    assert len(server.requests) == len(OBSERVATIONS)
    path, headers, body = server.requests[0]
  observation = endpoint_server.observation(body)
  content = {"prompt": f"Rules.\n\n{observation}\n"}
  if api == "chat":
    content = {"messages": prompt(observation)}
  assert body == {
    "model": "m", **content, "max_tokens": 5, "temperature": 0
  }  # fmt: skip
  assert path == "/v1/" + ("chat/" if api == "chat" else "") + "completions"
  assert headers["Authorization"] == f"Bearer {KEY}"
  assert {row["observation"] for row in rows(tmp_path)} == {*OBSERVATIONS}
  assert KEY not in (tmp_path / "c.jsonl").read_text()


@pytest.mark.parametrize(
  "change", [{"model": "n"}, {"max_tokens": 6}, {"api": "completions"}]
)
def test_answers_of_other_settings_are_others(tmp_path, change):
  with endpoint_server.serving(echo) as server:
    for settings in ({}, change):
      with client(server, tmp_path, **settings) as ask:
        ask(OBSERVATIONS[:1])
    assert len(server.requests) == 2
  # Another URL is no other setting.
  with client("http://127.0.0.1:9/v1", tmp_path, **change) as ask:
    assert ask(OBSERVATIONS[:1])[0].response == answers()[0]


FAULTS = {
  "too many": Said(b"{}", 429, "0.3"),
  "late": Said(b"{}", 503, email.utils.formatdate(0)),
  "an odd wait": Said(b"{}", 503, "1e999"),
  "500": Said(b"<html>\x1b[2J</html>", 500),
  "broken": Said(None),
  "a wait": Said(b"{}", wait=2.0),
  "no JSON": Said(b'{"choices": [{"message": {"cont'),
  "no UTF-8": Said(b"\xff\xfe\x00"),
  "nested": Said(b"[" * 100_000),
  "no choices": Said(b'{"choices": []}'),
  "no object": Said(b"[1]"),
  "no text": Said(b'{"choices": [{"message": {"content": 5}}]}'),
  "large": Said(b'{"choices": "' + b"a" * endpoint_lib.MAX_BYTES + b'"}'),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_passes(tmp_path, name):
  times = []

  def behave(number, body):
    times.append(time.monotonic())
    return FAULTS[name] if number == 0 else echo(number, body)

  timeout = 0.5 if name == "a wait" else 20
  with (
    endpoint_server.serving(behave) as server,
    client(server, tmp_path, timeout=timeout) as ask,
  ):
    (reply,) = ask(OBSERVATIONS[:1])
  assert reply.response == answers()[0] and len(times) == 2
  if name == "too many":
    assert times[1] - times[0] >= 0.3


@pytest.mark.parametrize(
  "name, found",
  [
    ("500", r"HTTP 500: '<html>\x1b[2J</html>'"),
    ("a wait", "no whole response within 0.2 s"),
    ("broken", "Server disconnected"),
    ("no choices", "no completion but '{\"choices\": []}'"),
    ("large", "a response of over 1,000,000 bytes"),
  ],
)
def test_a_fault_that_stays(tmp_path, name, found):
  timeout = 0.2 if name == "a wait" else 20
  with endpoint_server.serving(lambda *_: FAULTS[name]) as server:
    with (
      client(server, tmp_path, timeout=timeout) as ask,
      pytest.raises(errors.UserError) as caught,
    ):
      ask(OBSERVATIONS[:1])
    assert len(server.requests) == 3
  assert found in str(caught.value) and "(tried 3 times)" in str(caught.value)


def test_a_refusal_is_final_and_keeps_the_key(tmp_path):
  text = f"bad key {KEY}\n\x1b[31m" + "x" * 5000
  said = Said(json.dumps({"error": {"message": text}}).encode(), 401)
  with endpoint_server.serving(lambda *_: said) as server:
    with (
      client(server, tmp_path, concurrency=1) as ask,
      pytest.raises(errors.UserError) as caught,
    ):
      ask(OBSERVATIONS)
    assert len(server.requests) == 1
  message = str(caught.value)
  assert r"HTTP 401: 'bad key … \x1b[31mxxx" in message
  assert message.endswith("; set OPENAI_API_KEY") and len(message) < 300
  assert KEY not in message and message.isprintable()


def test_a_dead_server_costs_no_answer(tmp_path):
  """It dies after four answers; the next one is asked for the other three."""

  def dies(number, body):
    return echo(number, body) if number < 4 else Said(None)

  with (
    endpoint_server.serving(dies) as server,
    client(server, tmp_path, concurrency=2) as ask,
    pytest.raises(errors.UserError, match="tried 3 times"),
  ):
    ask(OBSERVATIONS)
  kept = {row["observation"] for row in rows(tmp_path)}
  assert len(kept) == 4
  with (
    client(server, tmp_path) as ask,
    pytest.raises(errors.UserError, match="refused"),
  ):
    ask(OBSERVATIONS)
  with endpoint_server.serving(echo) as other:
    with client(other, tmp_path) as ask:
      assert [reply.response for reply in ask(OBSERVATIONS)] == answers()
    asked = [endpoint_server.observation(body) for _, _, body in other.requests]
  assert sorted(asked) == sorted({*OBSERVATIONS} - kept)


def test_requests_at_a_time(tmp_path):
  def slow(number, body):
    return echo(number, body)._replace(wait=0.1)

  with endpoint_server.serving(slow) as server:
    with client(server, tmp_path, concurrency=3) as ask:
      ask(OBSERVATIONS)
    assert server.most == 3


def test_odd_texts(tmp_path):
  texts = [("a\ud800b", "stop"), (None, "length"), ("c", "length")]
  with (
    endpoint_server.serving(lambda n, _: completion(*texts[n])) as server,
    client(server, tmp_path, concurrency=1) as ask,
  ):
    replies = ask(sorted(OBSERVATIONS)[:3])
  assert [(reply.response, reply.truncated) for reply in replies] == [
    ("a?b", False),
    ("", True),
    ("c", True),
  ]


@pytest.mark.parametrize(
  "url",
  ["localhost:8000/v1", "ftp://a/v1", "http:///v1", "http://a/v1?b=c", ""],
)
def test_wrong_urls(url):
  with pytest.raises(errors.UserError, match="is no base URL"):
    endpoint_lib.Endpoint(url=url, model="m")


def test_secrets_that_cannot_be_sent(monkeypatch, tmp_path):
  with pytest.raises(errors.UserError) as caught:
    endpoint_lib.Endpoint(url="http://user:secret@a/v1", model="m")
  assert "secret" not in str(caught.value)
  monkeypatch.setenv(endpoint_lib.KEY_VARIABLE, "two\nsecrets")
  with pytest.raises(errors.UserError) as caught:
    client("http://127.0.0.1:9/v1", tmp_path)
  assert "secrets" not in str(caught.value)


def reply(number, key=None):
  return replies_lib.Reply(
    key=str(number) if key is None else key,
    observation=OBSERVATIONS[number],
    response="é",
  )


def test_a_torn_line_is_dropped_and_the_rest_stays(tmp_path):
  path = tmp_path / "new" / "c.jsonl"
  cache = replies_lib.Cache(path)
  cache.open()
  for number in range(3):
    cache.add(reply(number))
  cache.close()
  whole = path.read_bytes()
  for size in range(whole.rfind(b"\n", 0, -1) + 1, len(whole)):
    path.write_bytes(whole[:size])
    cache = replies_lib.Cache(path)
    # Looking changes nothing.
    assert path.read_bytes() == whole[:size]
    assert (cache.get("2") is not None) == (size == len(whole) - 1) and (
      cache.get("1") is not None
    )
    cache.open()
    cache.add(reply(2))
    cache.close()
    assert replies_lib.read(path).keys() == {*OBSERVATIONS[:3]}


@pytest.mark.parametrize(
  "content, found",
  [
    ('{"a": 1}\n', "c.jsonl:1: observation: Field required"),
    ("text", "c.jsonl:1: not valid JSON"),
    ('{"key": "a"\n', "c.jsonl:1: not valid JSON"),
    ('{"observation": "a", "response": 3}', "c.jsonl:1: response: Input should be"),
  ],
)  # fmt: skip
def test_other_files_are_no_caches(tmp_path, content, found):
  path = tmp_path / "c.jsonl"
  path.write_text(content)
  with pytest.raises(errors.UserError, match=found):
    replies_lib.Cache(path)
  with pytest.raises(errors.UserError, match=found):
    replies_lib.read(path)
  assert path.read_text() == content


def test_a_file_of_two_models_is_refused(tmp_path):
  path = tmp_path / "answers.jsonl"
  lines = [{"observation": "a", "response": text} for text in ("b", "b", "c")]
  path.write_text("".join(json.dumps(line) + "\n" for line in lines[:2]))
  assert replies_lib.read(path)["a"].response == "b"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  with pytest.raises(
    errors.UserError, match="answers.jsonl:3: this answer diff"
  ):
    replies_lib.read(path)
