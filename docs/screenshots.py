"""Takes the pictures of pages that the documentation shows.

python docs/screenshots.py RUN/delta_report.html --comparison comparison.html

Needs Chromium, and Playwright, which `pip install -e '.[test]'` has.
"""

import argparse
import os
import pathlib
import shutil
import sys
from typing import Any, NamedTuple

from playwright import sync_api

IMAGES = pathlib.Path(__file__).parent / "images"


class Shot(NamedTuple):
  """A picture of a page from one of its parts on.

  Attributes:
    page: Flag that names the page.
    width: Width of the window.
    height: Height of the window.
    scheme: Color scheme, light or dark.
    part: Selector of the part at the top.
    play: The person's mark and cells in a game against the model.
  """

  page: str
  width: int
  height: int
  scheme: str
  part: str = "body"
  play: tuple[str, tuple[int, ...]] | None = None


SHOTS = {
  "report_desktop": Shot("page", 1280, 1180, "light", play=("O", (0, 5, 6, 1))),
  "report_phone": Shot("page", 390, 1180, "dark", play=("X", (4, 1))),
  "report_training": Shot("page", 1280, 800, "light", "#training"),
  "report_curves": Shot("page", 390, 1180, "dark", "#curves"),
  "comparison_desktop": Shot("comparison", 1280, 1180, "light"),
  "comparison_phone": Shot("comparison", 390, 1180, "dark"),
}


def take(browser: Any, page: pathlib.Path, shot: Shot) -> bytes:
  """Returns a picture of a page as PNG."""
  tab = browser.new_page(
    viewport={"width": shot.width, "height": shot.height},
    color_scheme=shot.scheme,
  )
  tab.goto(page.absolute().as_uri())
  if shot.play:
    mark, cells = shot.play
    tab.click(f"#play-{mark}")
    for cell in cells:
      free = tab.locator(".board button").nth(cell)
      if "free" in (free.get_attribute("class") or ""):
        free.click()
  tab.locator(shot.part).evaluate("part => part.scrollIntoView()")
  picture = tab.screenshot()
  tab.close()
  return picture


def main() -> None:
  """Parses the flags and writes the pictures."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("page", type=pathlib.Path, help="a run's report as HTML")
  parser.add_argument(
    "--comparison", type=pathlib.Path, help="the page of compare.py"
  )
  parser.add_argument(
    "--output", type=pathlib.Path, default=IMAGES, help="directory to write to"
  )
  flags = parser.parse_args()
  paths = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
  chromium = next(filter(None, paths), None)
  pages = {"page": flags.page, "comparison": flags.comparison}
  pages = {name: page for name, page in pages.items() if page is not None}
  if chromium is None:
    sys.exit("error: needs Chromium on the PATH")
  for page in pages.values():
    if not page.exists():
      sys.exit(f"error: {page}: no such page")
  # Chromium's sandbox is not for root.
  sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
  with sync_api.sync_playwright() as started:
    browser = started.chromium.launch(executable_path=chromium, args=sandbox)
    for name, shot in SHOTS.items():
      if shot.page in pages:
        output = flags.output / f"{name}.png"
        output.write_bytes(take(browser, pages[shot.page], shot))
        print(output)


if __name__ == "__main__":
  main()
