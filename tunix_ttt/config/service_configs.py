"""Settings of a service that computes instead of local devices."""

from tunix_ttt.config import sections


@sections.settings
class ServiceConfig:
  """A Tinker-compatible service, which samples and trains an adapter.

  The key is the environment variable `TINKER_API_KEY`.

  Attributes:
    base_url: Address of the service; None is Tinker's own.
    concurrency: Number of requests for answers at a time.
    timeout: Seconds without a sign of life of the service after which a run stops.
    averages: Whether the service averages losses over the tokens of a row and then
      over rows, as SkyRL does, in place of Tinker's sums. Advantages are scaled so
      that the sums are the config's loss either way.
    prices: US dollars for a million tokens of prompts, of answers and of training,
      in this order, for the cost that is shown; None shows none.
  """

  base_url: str | None = None
  concurrency: sections.Positive = 64
  timeout: sections.AboveZero = 120.0
  averages: sections.Flag = False
  prices: tuple[float, float, float] | None = None
