"""Renders self-contained HTML pages from templates, with style and script."""

import base64
from collections.abc import Iterable, Mapping
import hashlib
import importlib.resources
import pathlib
from typing import Any

import jinja2
import markupsafe

from tunix_ttt import files
from tunix_ttt.report import plots

_ASSETS = importlib.resources.files("tunix_ttt.report") / "assets"


def render(template: str, script: str | None = None, **values: Any) -> str:
  """Renders a template of `assets`; all values are escaped.

  The page may run no script but `script`, a file of `assets`.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("tunix_ttt.report", "assets"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  code, source = None, None
  if script is not None:
    code = _asset(script)
    digest = hashlib.sha256(code.encode()).digest()
    # A source expression of the page's Content-Security-Policy.
    source = f"sha256-{base64.b64encode(digest).decode()}"
  return environment.get_template(template).render(
    style=_asset("page.css"), script=code, script_digest=source, **values
  )


def write(
  output: pathlib.Path,
  page: str,
  figures: Mapping[str, plots.Figure],
  plots_to: pathlib.Path | None,
) -> None:
  """Writes a page, and its figures if `plots_to` names a new directory.

  Raises:
    errors.UserError: If the file or the directory exists.
  """
  files.check_absent(output)
  if plots_to is not None:
    plots.save(figures, plots_to)
  files.write_text(output, page)


def inline(figures: Iterable[plots.Figure]) -> list[markupsafe.Markup]:
  """Returns figures as SVG markup for a template."""
  # Matplotlib escapes the text.
  return [markupsafe.Markup(plots.inline_svg(figure)) for figure in figures]


def _asset(name: str) -> markupsafe.Markup:
  return markupsafe.Markup((_ASSETS / name).read_text(encoding="utf-8"))
