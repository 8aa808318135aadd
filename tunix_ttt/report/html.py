"""Pages that need nothing beside them: templates, style and script in one."""

import base64
from collections.abc import Mapping
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
  """Returns a page; all values are escaped.

  Args:
    template: its file's name.
    script: the name of the one script that the page may run.
    **values: what the template tells of.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("tunix_ttt.report", "assets"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  code = None if script is None else _asset(script)
  return environment.get_template(template).render(
    style=_asset("page.css"),
    script=code,
    script_digest=None if code is None else _digest(code),
    **values,
  )


def write(
  output: pathlib.Path,
  page: str,
  figures: Mapping[str, plots.Figure],
  plots_to: pathlib.Path | None,
) -> None:
  """Writes a page, and its figures as files.

  Args:
    output: where the page goes, which must not exist.
    page: what `render` returned.
    figures: those on it, by the names of their files.
    plots_to: a directory for the figures, which must not exist either.

  Raises:
    errors.UserError: if something stands in the way.
  """
  files.check_absent(output)
  if plots_to is not None:
    plots.save(figures, plots_to)
  files.write_text(output, page)


def inline(figure: plots.Figure) -> markupsafe.Markup:
  """Returns a figure as a part of a page."""
  # Matplotlib escapes the texts in it.
  return markupsafe.Markup(plots.inline_svg(figure))


def _asset(name: str) -> markupsafe.Markup:
  return markupsafe.Markup((_ASSETS / name).read_text(encoding="utf-8"))


def _digest(script: str) -> str:
  """Returns what allows a page this script, and no other."""
  digest = hashlib.sha256(script.encode()).digest()
  return f"sha256-{base64.b64encode(digest).decode()}"
