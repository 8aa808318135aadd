"""Puts deliberate bugs into a copy of the project: do fast tests find them?

python tests/mutate.py            each bug, and the test that should fail
python tests/mutate.py --all      each bug, and the whole fast suite
python tests/mutate.py NAME ...   some of them
"""

import argparse
import dataclasses
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
COPIED = (
  "configs",
  "docs",
  "evalsets",
  "training",
  "tests",
  "tunix_ttt",
  "pyproject.toml",
)


@dataclasses.dataclass(frozen=True)
class Mutation:
  """A deliberate bug.

  Attributes:
    name: Name of the bug.
    path: File that it is put into.
    old: Text that it replaces, which is there once.
    new: Text that it puts there.
    test: Fast test that fails.
  """

  name: str
  path: str
  old: str
  new: str
  test: str


MUTATIONS = (
  Mutation(
    "the last answer of a row may be cut off",
    "tunix_ttt/train/row_checks.py",
    "continues = np.zeros_like(predicted)",
    "continues = np.ones_like(predicted)",
    "tests/test_row_checks.py::test_mistakes_in_rows_are_named",
  ),
  Mutation(
    "a model that loses in one seat never loses",
    "tunix_ttt/report/result_tables.py",
    "if len(safe) == len(lost):",
    "if safe:",
    "tests/test_result_tables.py::test_the_sentence",
  ),
  Mutation(
    "the winner's board is still played on",
    "tunix_ttt/games/tictactoe/rules.py",
    "np.where(winners() == NO_WINNER, empty, 0)",
    "np.where(winners() >= 0, empty, 0)",
    "tests/test_rules.py::test_counts_known_from_the_literature",
  ),
  Mutation(
    "a draw that gives a win away counts as kept",
    "tunix_ttt/games/tictactoe/thought_claims.py",
    "move_values[board, cell] == value == solver.DRAW",
    "move_values[board, cell] == solver.DRAW >= -value",
    "tests/test_thought_claims.py::test_every_claim_about_every_legal_move",
  ),
  Mutation(
    "text after an answer is overlooked",
    "tunix_ttt/games/tictactoe/text_formats.py",
    "_ANSWER.fullmatch(text)",
    "_ANSWER.match(text)",
    "tests/test_prompts.py::test_rejected",
  ),
  Mutation(
    "log-probabilities are not at the sampling temperature",
    "tunix_ttt/rollout/sampling.py",
    "log_probs = jax.nn.log_softmax(logits)",
    "log_probs = jax.nn.log_softmax(logits * settings.temperature)",
    "tests/test_sampling.py::test_temperature",
  ),
  Mutation(
    "games to a state count as often as it is played from",
    "tunix_ttt/evaluate/exact_play.py",
    "flow = reach[rows, None] * weights[rows]",
    "flow = weights[rows]",
    "tests/test_policy_judge.py::test_tictactoe_is_the_enumeration_of_all_games",
  ),
  Mutation(
    "top_p leaves out the token that reaches it",
    "tunix_ttt/rollout/sampling.py",
    "jnp.cumsum(probs, axis=-1) - probs < settings.top_p",
    "jnp.cumsum(probs, axis=-1) < settings.top_p",
    "tests/test_sampling.py::test_what_is_cut_off",
  ),
  Mutation(
    "games without a turn left are played on to fill a batch",
    "tunix_ttt/rollout/schedule.py",
    "play(turn_keys, chosen, active)",
    "play(turn_keys, chosen, jnp.ones_like(active))",
    "tests/test_schedule.py::test_games_do_not_depend_on_those_beside_them",
  ),
  Mutation(
    "a judge that goes on asks for everything again",
    "tunix_ttt/evaluate/endpoint.py",
    "if self.cached(each) is None]",
    "if True]",
    "tests/test_endpoint.py::test_a_dead_server_costs_no_answer",
  ),
  Mutation(
    "rejection sampling meets the opponents of training",
    "tunix_ttt/streams.py",
    '"opponents of games trained on"',
    '"opponents of games for rejection sampling"',
    "tests/test_streams.py::test_no_two_streams_are_the_same",
  ),
  Mutation(
    "a held-out text is trained on, too",
    "tunix_ttt/data/datasets.py",
    "keys = list(map(_key_by_text, samples))",
    "keys = [*range(len(samples))]",
    "tests/test_held_out.py::test_a_text_is_on_one_side",
  ),
  Mutation(
    "a packed token is its row's, not its sequence's",
    "tunix_ttt/data/batches.py",
    "segment_ids[i, span] = n + 1",
    "segment_ids[i, span] = i + 1",
    "tests/test_packing.py::test_a_batch_is_its_sequences",
  ),
  Mutation(
    "packed sequences attend to each other",
    "tunix_ttt/algorithms/losses.py",
    "same & (index[:, None] >= index)",
    "index[:, None] >= index",
    "tests/test_packing.py::test_positions_start_anew_and_attention_stays_within",
  ),
  Mutation(
    "the tokens to predict are one earlier",
    "tunix_ttt/data/batches.py",
    "(start + 1 + after)",
    "(start + after)",
    "tests/test_packing.py::test_a_batch_is_its_sequences",
  ),
  Mutation(
    "the loss is divided by the padded length",
    "tunix_ttt/algorithms/losses.py",
    "-scores.log_probs.sum() / denominator",
    "-scores.log_probs.sum() / places.size",
    "tests/test_losses.py::test_hand_arithmetic",
  ),
  Mutation(
    "DPO adds the reference",
    "tunix_ttt/algorithms/losses.py",
    "beta * (sums - reference)",
    "beta * (sums + reference)",
    "tests/test_preference_loss.py::test_the_loss_of_a_pair_by_hand",
  ),
  Mutation(
    "the policy is driven from its reference",
    "tunix_ttt/algorithms/grpo_loss.py",
    "loss += config.beta * average(kls, trained, config)",
    "loss -= config.beta * average(kls, trained, config)",
    "tests/test_policy_loss.py::test_it_is_tunixs_where_the_pad_token_is_nowhere_else",
  ),
  Mutation(
    "the ratio is clipped the wrong way",
    "tunix_ttt/algorithms/grpo_loss.py",
    "losses = jnp.maximum(free, clipped)",
    "losses = jnp.minimum(free, clipped)",
    "tests/test_policy_loss.py::test_it_is_tunixs_where_the_pad_token_is_nowhere_else",
  ),
  Mutation(
    "advantages have the standard deviation of a whole population",
    "tunix_ttt/algorithms/advantages.py",
    "np.sqrt(squares.sum(axis=-2) / np.maximum(count - 1, 1))",
    "np.sqrt(squares.sum(axis=-2) / np.maximum(count, 1))",
    "tests/test_rewards.py::test_advantages_of_turns_on_one_board",
  ),
  Mutation(
    "a turn is compared with turns on other boards",
    "tunix_ttt/algorithms/advantages.py",
    "np.where(has_equal_peers, is_equal, in_group)",
    "np.where(has_equal_peers, in_group, in_group)",
    "tests/test_rewards.py::test_a_turn_is_compared_with_others_like_it",
  ),
  Mutation(
    "a mistake that is always made is never trained",
    "tunix_ttt/algorithms/advantages.py",
    "_where(is_same & is_worse, every_turn, statistics)",
    "_where(is_same & is_worse, equal, statistics)",
    "tests/test_rewards.py::test_a_turn_is_compared_with_all_on_its_board",
  ),
  Mutation(
    "groups start on the other seat's mistakes",
    "tunix_ttt/train/mistake_starts.py",
    "np.flatnonzero(self._seats == seat)",
    "np.flatnonzero(self._seats != seat)",
    "tests/test_grpo_starts.py::test_groups_start_on_the_mistakes_of_their_seat",
  ),
  Mutation(
    "the policy loss is divided by its rows' padded length",
    "tunix_ttt/algorithms/grpo_loss.py",
    'norm["norm"] = config.max_sequence_tokens',
    'norm["norm"] = trained.shape[1]',
    "tests/test_policy_loss.py::test_neither_chunks_nor_padding_change_the_loss",
  ),
  Mutation(
    "regret has the opponent's sign",
    "tunix_ttt/games/tictactoe/tictactoe_definition.py",
    "lost = value[boards] + value[np.maximum(after, 0)]",
    "lost = value[boards] - value[np.maximum(after, 0)]",
    "tests/test_rewards.py::test_regret_is_what_a_move_gives_away",
  ),
  Mutation(
    "the learning rate decays a step too long",
    "tunix_ttt/train/optimizers.py",
    "decay_steps=config.max_steps,",
    "decay_steps=config.max_steps + 1,",
    "tests/test_optimizers.py::test_the_learning_rate_of_grpo_is_counted_in_updates",
  ),
  Mutation(
    "GRPO resumes without its optimizer's state",
    "tunix_ttt/train/trainer.py",
    "      self.optimizer,\n      save_only_lora_params=",
    "      None,\n      save_only_lora_params=",
    "tests/test_grpo.py::test_going_on_from_a_checkpoint",
  ),
  Mutation(
    "a resumed run keeps the metrics of later steps",
    "tunix_ttt/train/resume_checks.py",
    'rows = (run / name).read_bytes()[:size] if size else b""',
    'rows = (run / name).read_bytes() if size else b""',
    "tests/test_sft.py::test_resuming_from_an_earlier_step_ends_the_same",
  ),
  Mutation(
    "a run goes on from a damaged checkpoint",
    "tunix_ttt/train/resume_checks.py",
    "    fault = integrity.damage(root / str(step))",
    "    fault = None",
    "tests/test_damage.py::test_any_damage_to_a_checkpoint_is_noticed",
  ),
  Mutation(
    "a model's damaged files are read",
    "tunix_ttt/models/checkpoints.py",
    "(fault := integrity.damage(directory))",
    '(fault := "")',
    "tests/test_checkpoints.py::test_damage_of_any_file_is_found",
  ),
  Mutation(
    "another model's weights are loaded",
    "tunix_ttt/models/checkpoints.py",
    "if revision(params) != description.params:",
    "if revision(params) is None:",
    "tests/test_checkpoints.py::test_other_values_are_refused",
  ),
  Mutation(
    "exported heads are transposed the wrong way",
    "tunix_ttt/models/families/family.py",
    "back = np.argsort(self.order)",
    "back = self.order",
    "tests/test_hugging_face.py::test_names_lead_from_tensors_to_parameters_and_back",
  ),
  Mutation(
    "a token has the log-probability of the one before it",
    "tunix_ttt/models/token_log_probs.py",
    "targets = tokens[:, first:]",
    "targets = tokens[:, first - 1 : -1]",
    "tests/test_token_log_probs.py::test_values_and_gradients",
  ),
  Mutation(
    "a bad answer in self-play pays its own seat",
    "tunix_ttt/rollout/self_play.py",
    "is_fault & (last_seat != seat)",
    "is_fault & (last_seat == seat)",
    "tests/test_self_play.py::test_a_bad_answer_loses_for_its_seat_and_wins_for_the_other",
  ),
  Mutation(
    "past weights are the present ones",
    "tunix_ttt/rollout/sampler.py",
    "self._turn, past.params, tables",
    "self._turn, params, tables",
    "tests/test_past_weights.py::test_each_seat_is_played_by_its_own_weights",
  ),
  Mutation(
    "self-play forgets the last token of a conversation that waits",
    "tunix_ttt/rollout/self_play.py",
    "jnp.where(active, after.is_pending, before.is_pending)",
    "after.is_pending",
    "tests/test_self_play.py::test_each_seat_has_a_conversation_of_its_own",
  ),
)


def copy(target: pathlib.Path) -> None:
  """Copies what tests need, and lends the copy the compiled programs."""
  for name in COPIED:
    source = ROOT / name
    if source.is_dir():
      ignored = shutil.ignore_patterns("__pycache__", "_build")
      shutil.copytree(source, target / name, ignore=ignored)
    else:
      shutil.copy(source, target / name)
  (ROOT / ".jax_cache").mkdir(exist_ok=True)
  (target / ".jax_cache").symlink_to(ROOT / ".jax_cache")


def is_caught(mutation: Mutation, root: pathlib.Path, whole: bool) -> bool:
  """Runs the tests of a copy that has a bug; returns whether one fails."""
  path = root / mutation.path
  before = path.read_text()
  assert before.count(mutation.old) == 1, mutation.name
  path.write_text(before.replace(mutation.old, mutation.new))
  file, _, name = mutation.test.partition("::")
  tests = [] if whole else [file, "-k", name]
  try:
    result = subprocess.run(
      [sys.executable, "-m", "pytest", "-q", "-x", *tests],
      cwd=root,
      capture_output=True,
      text=True,
    )
  finally:
    path.write_text(before)
  # Anything else is no test that failed, but tests that did not run.
  if result.returncode not in (0, 1):
    raise SystemExit(f"{mutation.name}:\n{result.stdout}{result.stderr}")
  return result.returncode == 1


def main() -> None:
  """Prints a line for each bug; exits with 1 if one was not caught."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("names", nargs="*", help="bugs to try (default: all)")
  parser.add_argument("--all", action="store_true", help="run the fast suite")
  flags = parser.parse_args()
  chosen = [
    mutation
    for mutation in MUTATIONS
    if not flags.names or mutation.name in flags.names
  ]
  caught = 0
  with tempfile.TemporaryDirectory() as directory:
    root = pathlib.Path(directory)
    copy(root)
    for mutation in chosen:
      found = is_caught(mutation, root, flags.all)
      caught += found
      told = "caught" if found else "NOT CAUGHT"
      print(f"{told:10s}  {mutation.name}  ({mutation.test})", flush=True)
  print(f"{caught} of {len(chosen)} bugs were caught")
  raise SystemExit(caught < len(chosen))


if __name__ == "__main__":
  main()
