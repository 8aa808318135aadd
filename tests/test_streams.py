"""Random streams: one for each purpose, told apart for every seed."""

import argparse
import ast
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import conftest
from tests import test_architecture
from tunix_ttt import cli
from tunix_ttt import errors
from tunix_ttt import streams
from tunix_ttt.games.tictactoe import rules

Stream = streams.Stream
MODULES = [
  *test_architecture.MODULES,
  *(conftest.ROOT / "training").glob("*.py"),
]
# The rows of a published evalset stay as they are.
FROZEN = {"games/tictactoe/board_reader.py": {"np.random.default_rng"}}
MAKERS = {
  "jax.random.key",
  "jax.random.PRNGKey",
  "np.random.default_rng",
  "np.random.SeedSequence",
  "np.random.RandomState",
  "np.random.seed",
}


def made(path):
  """Lists what makes keys or generators from seeds in a module."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Attribute) and ast.unparse(node) in MAKERS:
      found.add(ast.unparse(node))
    if isinstance(node, ast.Import):
      found |= {n.name for n in node.names} & {"random"}
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "nnx.Rngs":
      argument = ast.unparse(node.args[0])
      if argument != "key" and not argument.startswith("streams.key("):
        found.add(f"nnx.Rngs({argument})")
  return found


def test_nothing_else_makes_keys_from_seeds():
  found = {
    str(path.relative_to(test_architecture.PACKAGE))
    if path.is_relative_to(test_architecture.PACKAGE)
    else path.name: made(path)
    for path in MODULES
  }
  assert len(found.pop("streams.py")) == 3
  assert {path: names for path, names in found.items() if names} == FROZEN


def test_no_two_streams_are_the_same():
  numbers = [stream.number for stream in Stream]
  # Members of one value would be names of one stream.
  assert len(set(numbers)) == len(Stream.__members__) > 20
  # Nor is any the number of a board or of a small counter.
  assert min(numbers) > rules.NUM_BOARDS
  seeds = (0, 1, 2**31, streams.MAX_SEED)
  keys = [streams.key(*each) for each in itertools.product(seeds, Stream)]
  data = np.array([jax.random.key_data(key) for key in keys])
  assert len(np.unique(data, axis=0)) == len(keys)
  draws = {
    streams.generator(*each).bit_generator.random_raw()
    for each in itertools.product(seeds, Stream)
  }
  assert len(draws) == len(keys)


def test_a_stream_is_the_same_for_a_seed():
  assert Stream.ROW_ORDER.number == 0xD532A2B5
  a, b = (streams.generator(3, Stream.ROW_ORDER, 1) for _ in range(2))
  assert a.integers(2**60) == b.integers(2**60)


def test_counters_tell_draws_apart():
  counters = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (streams.MAX_SEED,)]
  data = [
    jax.random.key_data(streams.key(0, Stream.GREEDY, *each)).tolist()
    for each in counters
  ]
  draws = [
    streams.generator(0, Stream.GREEDY, *each).bit_generator.random_raw()
    for each in counters
  ]
  assert len(set(map(tuple, data))) == len(set(draws)) == len(counters)


def test_keys_are_those_of_each_number():
  numbers = jnp.array([5, 0, 7])
  several = streams.keys(2, Stream.MATCH_TOKENS, 1, last=numbers)
  single = [streams.key(2, Stream.MATCH_TOKENS, 1, n) for n in (5, 0, 7)]
  np.testing.assert_array_equal(
    jax.random.key_data(several), [jax.random.key_data(k) for k in single]
  )
  traced = jax.jit(streams.key, static_argnums=1)
  np.testing.assert_array_equal(
    jax.random.key_data(traced(np.uint32(2), Stream.MATCH_TOKENS, 1, 7)),
    jax.random.key_data(single[2]),
  )


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63])
def test_seeds_that_jax_cannot_tell_apart_are_refused(seed):
  message = f"must be from 0 to 4294967295, found {seed}"
  for make in (streams.key, streams.generator):
    with pytest.raises(errors.UserError, match=message):
      make(seed, Stream.ROW_ORDER)
  with pytest.raises(argparse.ArgumentTypeError, match=message):
    cli.seed(str(seed))
  assert cli.seed(str(streams.MAX_SEED)) == streams.MAX_SEED
