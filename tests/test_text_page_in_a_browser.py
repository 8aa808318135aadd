"""A game played by its text in headless Chromium."""

import pytest

from tests import nim_games
from tests import test_page_in_a_browser
from tests import test_text_page
from tunix_ttt.report import run_page

pytestmark = test_page_in_a_browser.pytestmark
browser = test_page_in_a_browser.browser
opened = test_page_in_a_browser.opened
material = test_text_page.material


@pytest.fixture(scope="module")
def address(material, tmp_path_factory) -> str:
  output = tmp_path_factory.mktemp("page") / "report.html"
  run_page.write(material, output)
  return output.as_uri()


def play(tab, *moves):
  for move in moves:
    tab.click(f"#moves button >> text={move}")


def buttons(tab):
  return tab.locator("#moves button").all_text_contents()


def test_a_game_is_clicked_through(opened):
  tab = opened()
  tab.click("text=Play as second")
  # The first player takes one of nine and then leaves multiples of four.
  assert tab.inner_text("#text") == nim_games.observe(8)
  assert tab.inner_text("#state") == "Your move: you are second."
  play(tab, 3)
  assert tab.inner_text("#text") == nim_games.observe(4)
  play(tab, 2)
  assert tab.inner_text("#text") == nim_games.observe(0, is_turn=False)
  assert tab.inner_text("#state") == "The model wins: your return is -1."
  assert buttons(tab) == []
  entries = tab.locator("#log li").all_inner_texts()
  assert len(entries) == 5
  words, _ = nim_games.answer("first", 2)
  assert entries[0] == f"The model: 2 optimal\n{words}"
  # Every move loses.
  assert entries[1] == "You: 2 optimal"
  tab.click("text=Take back")
  assert tab.inner_text("#text") == nim_games.observe(4)
  tab.click("text=New game")
  assert tab.inner_text("#text") == nim_games.observe(8)
  assert tab.locator("#undo").is_disabled()


@pytest.mark.parametrize(
  "moves, stones, entry",
  [
    ((1, 2), 5, f"The model no legal move; 1 would have been\n{nim_games.answer('second', 5)[0]}"),
    ((3, 3), 2, f"The model: 3 no legal move; 2 would have been\n{nim_games.answer('second', 2)[0]}"),
  ],
)  # fmt: skip
def test_a_human_wins_by_an_answer_that_is_no_move(
  opened, moves, stones, entry
):
  tab = opened()
  play(tab, *moves)
  assert tab.inner_text("#text") == nim_games.observe(stones, is_turn=False)
  ended = "The model's answer is no legal move: you win."
  assert tab.inner_text("#state") == ended
  assert buttons(tab) == []
  assert tab.locator("#log li").first.inner_text() == entry


def test_only_legal_moves_have_buttons_and_slips_are_marked(opened):
  tab = opened()
  assert tab.get_attribute("#seats button >> nth=0", "aria-pressed") == "true"
  # The model takes one each time: 8, 7, 4 and 3, 2 and 1 stones are left.
  assert buttons(tab) == ["1", "2", "3"]
  play(tab, 1, 3)
  assert tab.inner_text("#text") == nim_games.observe(3)
  play(tab, 1)
  entry = tab.locator("#log li").nth(1).inner_text()
  assert entry == "You: 1 not optimal; 3 would have been"
  tab.click("text=Take back")
  play(tab, 3)
  assert tab.inner_text("#state") == "You win: your return is 1."


def test_the_focus_follows_a_game_played_by_keyboard(opened):
  tab = opened()

  def focused():
    return tab.evaluate("document.activeElement.textContent")

  tab.locator("#moves button").nth(2).focus()
  tab.keyboard.press("Enter")
  # Five stones are left after the model's move.
  assert tab.inner_text("#text") == nim_games.observe(5)
  assert focused() == "3"
  tab.keyboard.press("Space")
  assert focused() == "New game"
  tab.keyboard.press("Shift+Tab")
  assert focused() == "Take back"
  tab.keyboard.press("Enter")
  tab.keyboard.press("Enter")
  # Nothing is left to take back.
  assert focused() == "Take back" and tab.locator("#undo").is_disabled()
  tab.keyboard.press("Enter")
  assert tab.inner_text("#text") == nim_games.observe(9)


def test_recorded_games_open_one_at_a_time(opened):
  tab = opened()
  records = tab.locator(".record")
  assert records.count() > 30 and tab.locator(".record[open]").count() == 0
  for number in (0, 4):
    records.nth(number).locator("summary").click()
    assert tab.locator(".record[open]").count() == 1
  assert records.nth(4).locator("pre").first.is_visible()


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits(opened, width):
  tab = opened(width=width)
  play(tab, 1, 2)
  tab.locator(".record summary").first.click()
  assert tab.evaluate("document.documentElement.scrollWidth") == width
