"""The page in headless Chromium: games clicked through, phone and dark."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests import players
from tests import test_plots
from tests import test_training_games
from tunix_ttt.games.tictactoe import rules
from tunix_ttt.games.tictactoe import solver
from tunix_ttt.games.tictactoe import text_formats
from tunix_ttt.report import run_page

CHROMIUM = next(
  filter(
    None,
    map(shutil.which, ("chromium", "chromium-browser", "google-chrome")),
  ),
  None,
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
  """The page of a player that takes the first free cell, once a perfect one."""
  directory = tmp_path_factory.mktemp("page")
  say = "<b>{}</b> I force a win.".format
  before, after = (
    players.write(players.matches(table), directory / name, say)
    for name, table in (
      ("before.jsonl", players.PERFECT),
      ("games.jsonl", players.FIRST_LEGAL),
    )
  )
  material = run_page.collect(games_before=before, games_after=after)
  material = dataclasses.replace(
    material,
    metrics=test_plots.SFT,
    training=[test_training_games.record(step) for step in (2, 30, 400)],
  )
  output = directory / "report.html"
  run_page.write(material, output)
  return output.as_uri()


@pytest.fixture(scope="module")
def browser():
  sync_api = pytest.importorskip("playwright.sync_api")
  # Chromium's sandbox is not for root.
  flags = ["--no-sandbox"] if os.getuid() == 0 else []
  with sync_api.sync_playwright() as started:
    yield started.chromium.launch(executable_path=CHROMIUM, args=flags)


@pytest.fixture
def opened(browser, address):
  """Opens the page, which may say nothing to the console and ask for nothing."""
  wrong: list[str] = []

  def open_page(width=1200, scheme="light"):
    context = browser.new_context(
      viewport={"width": width, "height": 800}, color_scheme=scheme
    )
    tab = context.new_page()
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on(
      "request",
      lambda request: (
        wrong.append(request.url) if request.url != address else None
      ),
    )
    tab.goto(address)
    return tab

  yield open_page
  assert wrong == []


def marks(tab) -> str:
  cells = tab.locator(".board button").all_text_contents()
  return "".join(cell or "." for cell in cells)


def expected(person: int, choices: list[int]) -> tuple[int, list[int]]:
  """Returns the board and all moves after the person's."""
  board, moves, left = rules.EMPTY_BOARD, [], list(choices)
  while rules.legal_masks()[board]:
    if rules.side_to_move()[board] != person:
      cell = int(players.FIRST_LEGAL[board])
    elif left:
      cell = left.pop(0)
    else:
      break
    moves.append(cell)
    board = int(rules.successors()[board, cell])
  return board, moves


@pytest.mark.parametrize(
  "person, choices, ending",
  [
    (rules.X, [4, 2, 6], "You win."),
    (rules.X, [8, 7, 5, 3], "The model wins."),
    (rules.O, [4, 3, 7, 6], "The model wins."),
    (rules.O, [4, 2, 6], "You win."),
  ],
)
def test_a_game_is_clicked_through(opened, person, choices, ending):
  tab = opened()
  tab.click(f"#play-{text_formats.MARK_NAMES[person]}")
  board, moves, clicked = rules.EMPTY_BOARD, [], []
  for count in range(len(choices) + 1):
    clicked = choices[:count]
    board, moves = expected(person, clicked)
    wanted = "".join(".XO"[mark] for mark in rules.cells()[board])
    assert marks(tab) == wanted
    if rules.winners()[board] != rules.NO_WINNER:
      break
    assert tab.inner_text("#state").startswith("Your move")
    tab.locator(".board button").nth(choices[count]).click()
  assert tab.inner_text("#state") == ending
  assert tab.locator(".board button.free").count() == 0
  # What is said of each move, the last one first.
  entries = tab.locator("#log li").all()[::-1]
  assert len(entries) == len(moves)
  board = rules.EMPTY_BOARD
  for entry, cell in zip(entries, moves, strict=True):
    text = entry.inner_text()
    mine = rules.side_to_move()[board] == person
    name = text_formats.coordinate(cell)
    assert text.startswith(f"{'You' if mine else 'The model'}: {name} ")
    best = solver.optimal_cells(board)
    verdict = "optimal" if cell in best else "not optimal; "
    assert verdict in text
    if cell not in best:
      assert " or ".join(map(text_formats.coordinate, best)) in text
    if not mine:
      # Its words, as text.
      words = entry.locator("pre").inner_text()
      assert words == f"<b>{name}</b> I force a win."
      value = solver.solve().move_values[board, cell]
      assert ("The thought is false." in text) == (value != solver.WIN)
    board = int(rules.successors()[board, cell])
  tab.click("#undo")
  board, _ = expected(person, clicked[:-1])
  assert marks(tab) == "".join(".XO"[mark] for mark in rules.cells()[board])


def test_the_page_fits_a_phone_and_follows_the_scheme(opened, tmp_path):
  papers = {}
  for scheme in ("light", "dark"):
    tab = opened(width=360, scheme=scheme)
    width = tab.evaluate("document.documentElement.scrollWidth")
    assert width == 360
    papers[scheme] = tab.evaluate(
      "getComputedStyle(document.body).backgroundColor"
    )
    shot = pathlib.Path(tmp_path / f"{scheme}.png")
    tab.screenshot(path=shot)
    assert shot.stat().st_size > 5000
  assert papers == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}


def test_the_board_is_played_by_keyboard(opened):
  tab = opened()

  def focused() -> str:
    return tab.evaluate("document.activeElement.getAttribute('aria-label')")

  tab.locator(".board button").nth(4).focus()
  tab.keyboard.press("Enter")
  assert marks(tab) == "O...X...."
  # The focus stays, and arrows move it over the board.
  assert focused() == "B2: X"
  tab.keyboard.press("Enter")
  assert marks(tab) == "O...X...."
  for key, label in (
    ("ArrowUp", "A2: free"),
    ("ArrowUp", "A2: free"),
    ("ArrowRight", "A3: free"),
    ("ArrowRight", "A3: free"),
    ("ArrowDown", "B3: free"),
    ("ArrowLeft", "B2: X"),
  ):
    tab.keyboard.press(key)
    assert focused() == label
  tab.keyboard.press("ArrowRight")
  tab.keyboard.press("Space")
  assert marks(tab) == "OO..XX..." and focused() == "B3: X"
  tab.locator("#undo").focus()
  tab.keyboard.press("Enter")
  tab.keyboard.press("Enter")
  assert marks(tab) == "." * 9
  assert tab.evaluate("document.activeElement.id") == "undo"


def test_the_model_before_training_plays_its_own_moves(opened):
  tab = opened()
  for model, moves in (
    ("Before", players.PERFECT),
    ("After", players.FIRST_LEGAL),
  ):
    tab.click(f"#models >> text={model} training")
    tab.click("#play-O")
    first = "." * 9
    cell = int(moves[rules.EMPTY_BOARD])
    assert marks(tab) == first[:cell] + "X" + first[cell + 1 :]
    pressed = tab.locator("#models [aria-pressed=true]").all_inner_texts()
    assert pressed == [f"{model} training"]


def test_a_slider_shows_the_games_of_a_step(opened):
  tab = opened()

  def visible() -> list[str]:
    steps = tab.locator(".step")
    assert steps.count() == 3
    return [
      step.get_attribute("data-step")
      for step in steps.all()
      if step.is_visible() and step.locator("h3").is_visible()
    ]

  assert visible() == ["2"]
  slider = tab.locator("#step")
  slider.focus()
  tab.keyboard.press("ArrowRight")
  assert visible() == ["30"]
  tab.keyboard.press("End")
  assert visible() == ["400"]
  assert slider.get_attribute("aria-valuetext") == "step 400"
  assert "Games of step 400" in tab.inner_text("#training")


def test_curves_are_read_by_keyboard_and_by_pointer(opened):
  tab = opened()
  figure = tab.locator("#curves figure").last
  readout = figure.locator(".readout")
  assert readout.locator("span").all_inner_texts() == [
    "training 0.0125",
    "evaluation 0.5",
  ]
  tab.locator("#cursor").focus()
  tab.keyboard.press("Home")
  assert readout.locator("span").all_inner_texts() == [
    "training 1",
    "evaluation 0.5 (step 80)",
  ]
  tab.keyboard.press("ArrowRight")
  assert readout.inner_text().startswith("training 0.5")
  # All figures are read at the same step, where the pointer is in one.
  figure.locator("svg").scroll_into_view_if_needed()
  box = figure.locator("svg").bounding_box()
  mark = figure.locator(".mark").bounding_box()
  assert box and mark
  tab.mouse.move(mark["x"] + 60, box["y"] + box["height"] / 2)
  step = int(tab.inner_text("#curves output"))
  assert 5 < step < 80
  moved = figure.locator(".mark").bounding_box()
  assert moved and abs(moved["x"] - mark["x"] - 60) < 5
  accuracy = tab.locator("#curves figure").first.locator(".readout")
  assert f"training {100 * step / 99:.1f}%" in accuracy.inner_text()


def test_without_scripts_all_training_games_can_be_opened(browser, address):
  tab = browser.new_context(java_script_enabled=False).new_page()
  tab.goto(address)
  assert not tab.locator("#step").is_visible()
  assert tab.locator(".step summary").count() == 3
  tab.locator(".step summary").last.click()
  assert tab.locator(".step h3").last.is_visible()


def test_a_file_is_saved(opened, tmp_path):
  tab = opened()
  with tab.expect_download() as started:
    tab.click("text=results_after.json")
  path = tmp_path / "results.json"
  started.value.save_as(path)
  assert json.loads(path.read_text())["model"] == "a scripted player"


def test_screenshots(address, tmp_path):
  script = pathlib.Path(__file__).parents[1] / "docs/screenshots.py"
  page_path = address.removeprefix("file://")
  # A process of its own: this one has a browser open.
  out = subprocess.run(
    [sys.executable, script, page_path, "--output", tmp_path],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  images = sorted(tmp_path.iterdir())
  assert [image.name for image in images] == [
    f"report_{name}.png" for name in ("curves", "desktop", "phone", "training")
  ]
  assert sorted(out.split()) == [*map(str, images)]
  # PNG has the width at a fixed place.
  widths = [int.from_bytes(i.read_bytes()[16:20], "big") for i in images]
  assert widths == [390, 1280, 390, 1280]
