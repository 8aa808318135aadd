"""Writes HTML pages that need nothing beside them: style, scripts and data."""

import base64
from collections.abc import Iterable, Mapping, Sequence
import csv
import gzip
import hashlib
import importlib.resources
import io
import pathlib
from typing import Any, NamedTuple

import markupsafe

from tunix_ttt import files
from tunix_ttt.report import delta_report
from tunix_ttt.report import plots

# Bytes of a download: beyond the first it is compressed, beyond the second left
# out.
_MAX_PLAIN, _MAX_BYTES = 40_000, 250_000


class Download(NamedTuple):
  """A file inside a page; the address is empty if the file is too large.

  `source` is the path of the data.
  """

  name: str
  address: str
  source: str


def download(name: str, data: bytes, source: pathlib.Path) -> Download:
  """Returns a file for a page, compressed if it is not small."""
  end = ""
  if len(data) > _MAX_PLAIN:
    # Without a time, equal files are equal bytes.
    end, data = ".gz", gzip.compress(data, mtime=0)
  if len(data) > _MAX_BYTES:
    return Download(name, "", str(source))
  text = base64.b64encode(data).decode()
  address = f"data:application/octet-stream;base64,{text}"
  return Download(name + end, address, str(source))


def to_csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
  """Returns rows as CSV, with a column for each key in any of them."""
  rows = [*rows]
  file = io.StringIO()
  keys = dict.fromkeys(key for row in rows for key in row)
  writer = csv.DictWriter(file, [*keys], lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return file.getvalue().encode()


class Curves(NamedTuple):
  """The training curves of a page: panels, their figures, and their values."""

  panels: Sequence[plots.Panel]
  figures: Mapping[str, plots.Figure]
  values: Sequence[Mapping[str, Any]]


def curves(panels: Sequence[plots.Panel]) -> Curves:
  """Draws panels for a page."""
  figures = {panel.name: plots.curves(panel) for panel in panels}
  values = [plots.readout(each, figures[each.name]) for each in panels]
  return Curves(panels, figures, values)


def write(
  output: pathlib.Path,
  template: str,
  drawn: Curves,
  plots_to: pathlib.Path | None,
  *,
  maps: Mapping[str, plots.Figure] | None = None,
  scripts: Sequence[tuple[str, str]] = (),
  package: str = delta_report.PACKAGE,
  **values: Any,
) -> None:
  """Writes a page, and its figures if `plots_to` names a new directory.

  The template gets figures as SVG, and values, which are escaped.

  Args:
    output: Path of the page.
    template: Name of a template of `assets`.
    drawn: Training curves, `curves` of the template.
    plots_to: Directory for the figures; None for none.
    maps: Other figures by name, `maps` of the template.
    scripts: Packages and files of `assets`, the only scripts that the page may
      run besides that of its sliders.
    package: Package whose templates the template can import.
    **values: Values for the template.

  Raises:
    errors.UserError: If the file or the directory exists.
  """
  files.check_absent(output)
  maps = maps or {}
  sources = [*scripts, (delta_report.PACKAGE, "page.js")]
  script = "\n".join(_asset(*source) for source in sources)
  digest = hashlib.sha256(script.encode()).digest()
  # Matplotlib escapes the text of figures.
  svgs = [
    markupsafe.Markup(plots.inline_svg(f)) for f in drawn.figures.values()
  ]
  page = delta_report.template(
    template, autoescape=True, packages=[package]
  ).render(
    style=markupsafe.Markup(_asset(delta_report.PACKAGE, "page.css")),
    script=markupsafe.Markup(script),
    # A source expression of the page's Content-Security-Policy.
    script_digest=f"sha256-{base64.b64encode(digest).decode()}",
    curves=[*zip(drawn.panels, svgs, strict=True)],
    curve_values=drawn.values,
    maps=[markupsafe.Markup(plots.inline_svg(f)) for f in maps.values()],
    **values,
  )
  if plots_to is not None:
    plots.save({**drawn.figures, **maps}, plots_to)
  files.write_text(output, page)


def _asset(package: str, name: str) -> str:
  path = importlib.resources.files(package) / "assets" / name
  return path.read_text(encoding="utf-8")
