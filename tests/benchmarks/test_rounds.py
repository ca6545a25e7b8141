"""Turns, workers and counting; how long anything takes is never asserted."""

import os

import pytest
import torch
from torch import nn

from tsf_llm.benchmarks import rounds
from tsf_llm.benchmarks.rounds import Took


def test_tasks_take_turns_in_alternating_order():
    order = []

    def task(name):
        return lambda: order.append(name) or Took(len(order), 0.0)

    times = rounds.in_turns({"a": task("a"), "b": task("b")}, range(2))
    assert "".join(order) == "ab" + "ab" + "ba"
    assert [one.cpu for one in times["a"]] == [3, 6]


def test_a_ratio_is_the_median_of_single_rounds():
    own, other = ([Took(seconds, 0.0) for seconds in each] for each in ((1.0, 10.0, 4.0), (2.0, 30.0, 6.0)))
    assert rounds.ratio(own, other) == 2.0


def test_what_is_typical_is_the_median_and_a_device_goes_by_the_clock():
    assert rounds.typical([Took(1.0, 5.0), Took(3.0, 4.0), Took(2.0, 9.0)]) == {"cpu": 2.0, "wall": 5.0, "counts": 2.0}
    assert Took(1.0, 5.0, on_device=True).times(2).counts() == 10.0


def test_took_measures_both_clocks():
    once = rounds.took(lambda: sum(range(10_000)))
    assert once.cpu > 0
    assert once.wall > 0


def test_a_worker_is_one_process_with_its_own_memory_and_threads():
    with rounds.Worker(2) as worker:
        first, again = worker.do(os.getpid), worker.do(os.getpid)
        assert first == again != os.getpid()
        assert worker.do(torch.get_num_threads) == 2
        small = worker.do(rounds.peak_mb)
        worker.do(eval, "len(bytearray(200 << 20))")
        assert 150 < worker.do(rounds.peak_mb) - small < 300
        with pytest.raises(ValueError, match="no number"):
            worker.do(int, "no number")


def test_products_and_attention_are_counted_forward_and_backward():
    left, right = torch.randn(6, 8), torch.randn(8, 10)
    assert rounds.operations(lambda: left @ right) == 2 * 6 * 8 * 10
    whole = left.to(torch.int8), right.to(torch.int8)
    assert rounds.operations(lambda: torch._int_mm(*whole)) == 2 * 6 * 8 * 10
    experts, ends = torch.randn(3, 8, 12, requires_grad=True), torch.tensor([2, 4, 6], dtype=torch.int32)
    grouped = rounds.operations(lambda: nn.functional.grouped_mm(left, experts, offs=ends))
    assert grouped == 2 * 6 * 8 * 12
    q = torch.randn(1, 2, 16, 8, requires_grad=True)
    forward = rounds.operations(lambda: nn.functional.scaled_dot_product_attention(q, q, q))
    assert forward == 2 * 2 * 2 * 16 * 16 * 8
    both = rounds.operations(lambda: nn.functional.scaled_dot_product_attention(q, q, q).sum().backward())
    assert both == (1 + rounds.BACKWARD) * forward
