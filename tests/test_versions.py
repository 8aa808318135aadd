"""Built datasets: selection, manifests and immutability."""

import json

import pytest

from tunix_ttt import config as config_lib
from tunix_ttt import errors
from tunix_ttt.data import datasets
from tunix_ttt.data import generate
from tunix_ttt.data import reading
from tunix_ttt.data import versions
from tunix_ttt.games.tictactoe import board_kinds

ROWS = [
  {
    "id": f"r{n}",
    "text": chr(97 + n),
    "created_at": f"2025-01-{20 - n:02}T00:00:00Z",
    "meta": {"side": "XO"[n % 2], "score": n},
  }
  for n in range(10)
]


@pytest.fixture
def source(tmp_path):
  return write(tmp_path / "rows.jsonl", ROWS)


def write(path, rows):
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return str(path)


def build(tmp_path, sources, version="v1", skip_bad_rows=False, **choice):
  return versions.build(
    tmp_path / "datasets",
    "letters",
    version,
    sources,
    versions.Choice(**choice),
    skip_bad_rows=skip_bad_rows,
  )


def ids(tmp_path, version="v1"):
  data = tmp_path / "datasets" / "letters" / version / reading.DATA
  return [json.loads(line)["id"] for line in data.read_text().splitlines()]


def test_rows_and_their_provenance_are_kept(tmp_path, source):
  manifest = build(tmp_path, [source])
  place = tmp_path / "datasets" / "letters" / "v1"
  lines = (place / reading.DATA).read_text().splitlines()
  assert [json.loads(line) for line in lines] == ROWS
  assert reading.Version.read(place / reading.MANIFEST) == manifest
  assert manifest.rows == 10 and manifest.formats == {"text": 10}
  assert manifest.counts == {"read": 10, "filtered_out": 0, "over_limit": 0}
  (parent,) = manifest.parents
  assert parent.path == source and parent.digest == manifest.digest


def test_filters(tmp_path, source):
  manifest = build(tmp_path, [source], filters={"meta.side": "O"})
  assert ids(tmp_path) == ["r1", "r3", "r5", "r7", "r9"]
  assert manifest.counts["filtered_out"] == 5
  build(tmp_path, [source], "v2", filters={"meta.score": "3", "meta.side": "O"})
  assert ids(tmp_path, "v2") == ["r3"]
  with pytest.raises(errors.UserError, match="none of 10 rows passes"):
    build(tmp_path, [source], "v3", filters={"nothing": "1"})
  assert not (tmp_path / "datasets" / "letters" / "v3").exists()


def test_filters_on_metadata(tmp_path):
  rows = [
    {"id": "a", "text": "a", "metadata": {"source": "u", "deal": {"n": 1}}},
    {"id": "b", "text": "b", "metadata": {"source": "v"}},
    {"id": "c", "text": "c", "source": "v", "metadata": {"source": "u"}},
    {"id": "d", "text": "d", "metadata": "u"},
    {"id": "e", "text": "e", "source": "u", "metadata": {}},
  ]
  source = write(tmp_path / "rows.jsonl", rows)
  build(tmp_path, [source], filters={"source": "u"})
  assert ids(tmp_path) == ["a", "e"]
  build(tmp_path, [source], "v2", filters={"metadata.source": "u"})
  assert ids(tmp_path, "v2") == ["a", "c"]
  build(tmp_path, [source], "v3", filters={"deal.n": "1", "source": "u"})
  assert ids(tmp_path, "v3") == ["a"]


def test_the_latest_rows_are_taken(tmp_path, source):
  build(tmp_path, [source], limit=3)
  # Later rows were made earlier.
  assert ids(tmp_path) == ["r0", "r1", "r2"]
  undated = [{**row, "created_at": None} for row in ROWS]
  for row in undated[:1]:
    del row["created_at"]
  path = write(tmp_path / "undated.jsonl", [undated[0], *ROWS[1:]])
  manifest = build(tmp_path, [path], "v2", limit=3)
  assert ids(tmp_path, "v2") == ["r7", "r8", "r9"]
  assert manifest.counts["over_limit"] == 7


def test_random_rows_depend_on_the_seed(tmp_path, source):
  for version, seed in (("a", 0), ("b", 0), ("c", 1)):
    build(tmp_path, [source], version, limit=4, strategy="random", seed=seed)
  a, b, c = (ids(tmp_path, version) for version in "abc")
  assert a == b != c and len(a) == 4 and a == sorted(a)


def test_versions_never_change(tmp_path, source):
  build(tmp_path, [source])
  with pytest.raises(errors.UserError, match="v1: already exists"):
    build(tmp_path, [source])
  data = tmp_path / "datasets" / "letters" / "v1" / reading.DATA
  data.write_text(data.read_text() + '{"text": "x"}\n')
  with pytest.raises(errors.UserError, match="changed since it was built"):
    build(tmp_path, [str(data.parent)], "v2")


def test_parents_that_were_built_or_generated(tmp_path, source):
  first = build(tmp_path, [source])
  path = tmp_path / "games.jsonl"
  kind = board_kinds.Prompts(format="token_board")
  generate.write(path, "prompts", kind, 3, 5)
  place = str(tmp_path / "datasets" / "letters" / "v1")
  manifest = build(tmp_path, [place, str(path)], "v2")
  built, generated = manifest.parents
  assert (built.name, built.version) == ("letters", "v1")
  assert built.digest == first.digest and built.generator is None
  assert generated.generator is not None
  assert generated.generator["generator"] == "prompts"
  assert generated.generator["seed"] == 5
  assert manifest.formats == {"text": 10, "prompt": 3}


def test_bad_rows(tmp_path):
  path = write(tmp_path / "bad.jsonl", [*ROWS[:2], {"a": 1}])
  with pytest.raises(errors.UserError, match="bad.jsonl:3: found the fields a"):
    build(tmp_path, [path])
  manifest = build(tmp_path, [path], skip_bad_rows=True)
  assert manifest.rows == 2
  assert manifest.parents[0].skipped.rows == 1
  assert "bad.jsonl:3: " in manifest.parents[0].skipped.first[0]


@pytest.mark.parametrize("name", ["", "../x", ".x", "a/b", "a b"])
def test_names(tmp_path, name):
  with pytest.raises(errors.UserError, match="--name: "):
    versions.directory(tmp_path, name, "v1")
  with pytest.raises(errors.UserError, match="--version: "):
    versions.directory(tmp_path, "a", name)


def test_a_version_is_trained_on(tmp_path, source):
  manifest = build(tmp_path, [source])
  place = tmp_path / "datasets" / "letters" / "v1"
  source_rows = datasets.load(config_lib.DataConfig(path=str(place)), 0)
  assert (source_rows.name, source_rows.version) == ("letters", "v1")
  assert source_rows.digest == manifest.digest and source_rows.path == str(
    place
  )
  assert source_rows.key == "letters-v1" and len(source_rows.samples) == 10


def test_export(tmp_path, source):
  build(tmp_path, [source])
  place = tmp_path / "datasets" / "letters" / "v1"
  output = tmp_path / "out.jsonl"
  assert versions.export(place, output, "prompt_completion") == 10
  rows = [json.loads(line) for line in output.read_text().splitlines()]
  assert rows[3]["prompt"] == "" and rows[3]["completion"] == "d"
  assert rows[3]["id"] == "r3" and rows[3]["meta"] == ROWS[3]["meta"]
  assert "text" not in rows[3]
  with pytest.raises(errors.UserError, match="already exists"):
    versions.export(place, output, "text")
  other = tmp_path / "other.jsonl"
  with pytest.raises(
    errors.UserError,
    match=":1: plain text has no turns; 10 rows cannot be written as messages",
  ):
    versions.export(place, other, "messages")
  assert not other.exists()
