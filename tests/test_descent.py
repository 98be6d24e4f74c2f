"""The loop of every training: what ends it, and which weights it gives back."""

import math

import pytest
import torch
from torch import nn

from anomaly.descent import Budget, descend
from anomaly.errors import UsageError


class Counter(nn.Module):
    """Its one weight is the number of updates it has had."""

    def __init__(self):
        super().__init__()
        self.updates = nn.Parameter(torch.zeros(()), requires_grad=False)


def run(losses, *, epochs=5, steps=3, minutes=None, patience=99, stop_after=math.inf):
    """(weights given back, lines of the curve, spent shares, which line was said to be the last)."""
    network, told, spent, last = Counter(), [], [], []
    losses = iter(losses)

    def step(number, share):
        network.updates += 1
        spent.append(share)
        return float(number), 0.5

    def tell(line, is_last):
        told.append(line)
        last.append(is_last)

    best = descend(
        Budget(epochs, steps, minutes, patience),
        network,
        step,
        lambda: next(losses),
        told=tell,
        progress=lambda stage, done, total: done >= stop_after,
    )
    return int(best.updates), told, spent, last


def test_the_weights_are_those_of_the_best_held_out_loss():
    assert run([4, 2, 3, 5, 2])[0] == 6  # after the second epoch of 3 steps; a later equal one is not better
    assert run([4, 2, 3, 5, 1])[0] == 15


def test_the_curve_holds_means_of_the_steps():
    _, told, _, last = run([4, 2, 3, 5, 2])
    assert [line["epoch"] for line in told] == [1, 2, 3, 4, 5]
    assert [line["train_loss"] for line in told[:2]] == [1.0, 4.0]  # of 0, 1, 2 and of 3, 4, 5
    assert [line["held_out_loss"] for line in told] == [4, 2, 3, 5, 2]
    assert last == [False] * 4 + [True]


def test_patience_counts_epochs_since_the_best_one():
    updates, told, _, last = run([4, 2, 3, 5, 6, 1], epochs=9, patience=3)
    assert (len(told), updates, last[-1]) == (5, 6, True)


def test_time_ends_it_after_the_epoch_and_counts_as_spent():
    _, told, spent, _ = run([1, 1, 1], minutes=1e-9)
    assert len(told) == 1 and spent[-1] == 1.0


def test_without_a_limit_of_time_the_share_is_that_of_the_steps():
    assert run([1] * 5)[2] == pytest.approx([i / 15 for i in range(15)])


def test_whoever_looks_on_can_end_it_and_what_is_learned_is_kept():
    updates, told, _, last = run([7, 8], stop_after=4)
    assert (len(told), last) == (2, [False, True])
    assert told[1]["train_loss"] == 3.0  # of the one step that the second epoch had
    assert updates == 3


def test_a_training_that_diverged_is_refused_with_the_remedy():
    with pytest.raises(UsageError, match="diverged.*not a number. Use a lower rate"):
        run([math.nan] * 5)
