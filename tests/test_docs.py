"""The pages say what there is: links, paths, flags and code hold."""

import ast
import pathlib
import re
import shlex

import pytest

import tunix_ttt
from tunix_ttt import config as config_lib

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [
  ROOT / "README.md",
  ROOT / "CONTRIBUTING.md",
  ROOT / "benchmarks" / "README.md",
  *sorted(
    page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts
  ),
]
DOCS = [page for page in PAGES if (ROOT / "docs") in page.parents]
# Commands in blocks, their lines joined; and what stands in a line of text.
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(
  r"\b(?:clusters|configs|training|evalsets|benchmarks)/[\w.]+\.\w+"
)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name(page):
  return str(page.relative_to(ROOT)) if isinstance(page, pathlib.Path) else ""


def anchors(page):
  """Lists the anchors of a page's headings, as GitHub makes them."""
  text = BLOCK.sub("", page.read_text())
  return {
    re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
    for heading in HEADING.findall(text)
  }


def commands():
  """Lists the script and the flags of each command that a page shows."""
  found = []
  for page in PAGES:
    for language, block in BLOCK.findall(page.read_text()):
      if language != "sh":
        continue
      for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        scripts = [n for n, w in enumerate(words) if w.endswith(".py")]
        if scripts and scripts[0] and "python" in words[scripts[0] - 1]:
          script, rest = words[scripts[0]], words[scripts[0] + 1 :]
          found.append((page, script, rest))
  return found


COMMANDS = commands()
# With a subcommand, where there is one.
HELPED = sorted(
  {
    (script, rest[0]) if script.endswith("evalset.py") else (script,)
    for _, script, rest in COMMANDS
  }
)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_what_there_is(page):
  for link in LINK.findall(page.read_text()):
    if re.match(r"https?://", link):
      continue
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.exists(), link
    assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_exist(page):
  for path in PATH.findall(page.read_text()):
    if "results/" not in path:
      assert (ROOT / path).is_file(), path


def test_every_page_and_script_is_reached():
  linked = {
    (page.parent / link.partition("#")[0]).resolve()
    for page in PAGES
    for link in LINK.findall(page.read_text())
  }
  reached = linked | {ROOT / "docs" / "index.md", ROOT / "docs/benchmarks.md"}
  assert set(DOCS) <= reached
  shown = {ROOT / script for _, script, _ in COMMANDS}
  scripts = [
    path
    for folder in ("training", "benchmarks")
    for path in (ROOT / folder).glob("*.py")
    if "cli.run(main)" in path.read_text()
  ]
  assert len(scripts) > 20 and set(scripts) <= shown


@pytest.mark.parametrize("command", HELPED, ids=" ".join)
def test_flags_are_the_scripts_own(run, command, monkeypatch):
  script, *subcommand = command
  # A script imports modules beside it.
  monkeypatch.syspath_prepend((ROOT / script).parent)
  code, out, _ = run(ROOT / script, *subcommand, "--help")
  assert code == 0
  known = set(re.findall(r"--[a-z][\w-]*", out))
  for page, shown, rest in COMMANDS:
    if shown == script and rest[: len(subcommand)] == subcommand:
      flags = {word.partition("=")[0] for word in rest if word[:2] == "--"}
      assert flags <= known, name(page)


def test_settings_in_commands_are_known():
  for page, _, rest in COMMANDS:
    if "--set" not in rest or "--config" not in rest:
      continue
    config = rest[rest.index("--config") + 1]
    if not (ROOT / config).is_file():
      continue
    pairs = [w for w in rest if re.match(r"^[a-z_.]+=", w)]
    assert pairs, name(page)
    config_lib.load_any(ROOT / config, pairs)


PYTHON = {
  name(page): [
    code
    for language, code in BLOCK.findall(page.read_text())
    if language == "python"
  ]
  for page in PAGES
}


@pytest.mark.parametrize("page", [page for page in PYTHON if PYTHON[page]])
def test_python_runs(page):
  # The blocks of a page are one module.
  names = {"__name__": page}
  for code in PYTHON[page]:
    exec(compile(code, f"<{page}>", "exec"), names)


# Code that would take long is fenced as py and not executed.
LONG = {
  name(page): blocks
  for page in PAGES
  if (
    blocks := [
      code
      for language, code in BLOCK.findall(page.read_text())
      if language == "py"
    ]
  )
}


def imported(tree):
  """Imports the names that code takes from the package; returns their values."""
  names = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom):
      if (node.module or "").partition(".")[0] == "tunix_ttt":
        exec(ast.unparse(node), names)
    elif isinstance(node, ast.Import):
      for each in node.names:
        if each.name.partition(".")[0] == "tunix_ttt":
          exec(ast.unparse(ast.Import([each])), names)
  names.pop("__builtins__", None)
  return names


def missing(tree, names):
  """Yields the attributes of imported modules that do not exist."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
      module = names.get(node.value.id)
      if module is not None and not hasattr(module, node.attr):
        yield f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("page", LONG)
def test_names_in_long_python_exist(page):
  # A page's blocks share their imports, those that are executed included.
  trees = [ast.parse(code, f"<{page}>") for code in PYTHON[page] + LONG[page]]
  names = {"ttt": tunix_ttt}
  for tree in trees:
    names |= imported(tree)
  long = trees[len(PYTHON[page]) :]
  assert not [each for tree in long for each in missing(tree, names)]
  used = {
    node.id
    for tree in long
    for node in ast.walk(tree)
    if isinstance(node, ast.Name)
  }
  assert used & set(names)


def test_missing_names_are_seen():
  names = imported(ast.parse("from tunix_ttt import dry_run as a, errors"))
  code = ast.parse("a.describe(errors.nothing, b.nothing)")
  assert [*missing(code, names)] == ["errors.nothing"]
  with pytest.raises(ImportError):
    imported(ast.parse("from tunix_ttt import nothing"))


def test_there_is_something_to_test():
  assert len(COMMANDS) > 30 and sum(map(len, PYTHON.values())) >= 2
