"""Takes the pictures of a report that the documentation shows.

python docs/screenshots.py RUN/report.html

Needs Chromium, and Playwright, which `pip install -e '.[test]'` has.
"""

import argparse
import os
import pathlib
import shutil
import sys

from playwright import sync_api

IMAGES = pathlib.Path(__file__).parent / "images"
# name: width, height, colour scheme, the person's mark and moves.
SHOTS = {
  "report_desktop": (1100, 1180, "light", "O", (0, 5)),
  "report_phone": (390, 1180, "dark", "X", (4, 1)),
}


def main() -> None:
  """Parses the flags and writes the pictures."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("page", type=pathlib.Path, help="a run's report.html")
  parser.add_argument(
    "--output", type=pathlib.Path, default=IMAGES, help="directory to write to"
  )
  flags = parser.parse_args()
  page, output = flags.page, flags.output
  paths = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
  chromium = next(filter(None, paths), None)
  if chromium is None or not page.exists():
    sys.exit(f"error: needs Chromium on the PATH, and the page {page}")
  # Chromium's sandbox is not for root.
  sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
  with sync_api.sync_playwright() as started:
    browser = started.chromium.launch(executable_path=chromium, args=sandbox)
    for name, (width, height, scheme, mark, cells) in SHOTS.items():
      tab = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
      )
      tab.goto(page.absolute().as_uri())
      tab.click(f"#play-{mark}")
      for cell in cells:
        button = tab.locator(".board button").nth(cell)
        if button.is_enabled():
          button.click()
      tab.screenshot(path=output / f"{name}.png")
      print(output / f"{name}.png")


if __name__ == "__main__":
  main()
