"""Private names of other packages are there as this library relies on them."""

from tunix_ttt.models import tunix_private


def test_all_private_names_are_there():
  assert tunix_private.missing() == []


def test_a_missing_name_is_named(monkeypatch):
  names = (
    tunix_private.Private("tunix.rl.common:no_such", None, "grpo_loss"),
    tunix_private.Private("tunix.rl.algo_core:masked_mean", "x", "grpo_loss"),
  )
  monkeypatch.setattr(tunix_private, "NAMES", names)
  monkeypatch.setattr(tunix_private, "ATTRIBUTES", ((_OF, "_none", "trainer"),))
  first, second, third = tunix_private.missing()
  assert first.startswith("tunix.rl.common:no_such: missing; grpo_loss relies")
  assert second.startswith("tunix.rl.algo_core:masked_mean: takes (x mask")
  assert third.endswith("PeftTrainer._none: missing; trainer relies on it")


_OF = "tunix.sft.peft_trainer:PeftTrainer"
