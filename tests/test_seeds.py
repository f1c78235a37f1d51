"""The tool that runs chapters under other seeds finds the check that holds for one seed only."""

import pytest
from tests.test_chapters import TEXT, text  # noqa: F401
from tools import seeds

CELL = """
```{code-cell} ipython3
import torch
from gmbook.notebook import check

torch.manual_seed(0)
lucky = torch.rand(())
torch.manual_seed(0)
check("the same draw", torch.rand(()) - lucky, equals=0.0)
check("this very draw", lucky, between=(0.4962, 0.4963))
check("a number in [0, 1)", lucky, between=(0, 1))
```

```{code-cell} ipython3
assert torch.initial_seed() < 2, "another shift"
```
"""


@pytest.mark.parametrize(
    ("shift", "missed"),
    [(0, []), (1, ["this very draw"]), (2, ["this very draw", "AssertionError: another shift"])],
)
def test_a_check_that_holds_for_one_seed_only_is_counted_and_the_others_go_on(text, shift, missed):  # noqa: F811
    text.write_text(TEXT.split("```{code-cell}")[0] + CELL)
    verdict = seeds.under(text, shift)
    assert (verdict.shift, verdict.checks) == (shift, 3)
    assert [miss.split(": got ")[0] for miss in verdict.missed] == missed


def test_a_claim_that_is_missed_twice_under_one_shift_is_one_claim():
    twice = seeds.Verdict("x", 1, 3, ["near 0: got 3, not below 1", "near 0: got 4, not below 1", "stopped"], 2.0)
    assert twice.claims() == {"near 0", "stopped"}


def test_shifts():
    assert list(seeds.shifts("3-5")) == [3, 4, 5] and list(seeds.shifts("7")) == [7]
