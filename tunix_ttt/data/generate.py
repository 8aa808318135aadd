"""Writes files of generated rows."""

from collections import Counter
import hashlib
import pathlib

from tunix_ttt import errors
from tunix_ttt import files
from tunix_ttt.data import reading
from tunix_ttt.games import row_kinds
from tunix_ttt.runs import progress
from tunix_ttt.runs import run_directory


def write(
  output: pathlib.Path,
  generator: str,
  kind: row_kinds.Kind,
  count: int,
  seed: int,
) -> reading.Generated:
  """Writes the rows and the manifest beside them; both files appear, or neither.

  `generator` is the name of the kind in the manifest.

  Raises:
    errors.UserError: If a file exists already, or no row is kept.
  """
  counts: Counter[str] = Counter()
  digest, num_rows = hashlib.sha256(), 0
  with (
    files.new_file(reading.beside(output)) as manifest_file,
    files.new_file(output) as file,
    progress.stage("making rows", has_bar=True),
  ):
    for row in kind.rows(count, seed, counts):
      line = files.to_json(row).encode() + b"\n"
      digest.update(line)
      file.write(line)
      num_rows += 1
    if not num_rows:
      summary = ", ".join(f"{name} {n}" for name, n in counts.items())
      raise errors.UserError(
        f"{output}: not written, because no row was kept"
        f" ({summary or 'nothing'}); raise the count, or keep other games"
      )
    manifest = reading.Generated(
      created_at=run_directory.now(),
      digest=digest.hexdigest(),
      rows=num_rows,
      generator=generator,
      settings={"count": count, **kind.settings()},
      seed=seed,
      counts=dict(counts),
    )
    manifest_file.write(manifest.to_bytes())
  return manifest
