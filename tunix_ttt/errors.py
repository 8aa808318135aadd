"""The one exception that stands for a mistake in a user's input."""


class UserError(Exception):
  """A mistake in a config, data file, path or flag.

  The message is complete: it names the file and line, key or row, says what
  was found and what to do. Scripts print it and exit with 2.
  """
