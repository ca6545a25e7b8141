"""A crew answers in the order of the jobs, whoever did them; an error ends the run."""

import os
import signal
import time
from functools import partial

import pytest

from tsf_llm.common.crew import Crew


@pytest.fixture(scope="module")
def two():
    with Crew(2) as crew:
        yield crew


def test_answers_come_in_the_order_of_the_jobs(two):
    told = []
    answers = two.run((partial(pow, number, 2) for number in range(50)), told.append)
    assert answers == sorted(told) == [number**2 for number in range(50)]
    assert Crew().run([os.getpid]) == [os.getpid()]


def test_the_others_work_too(two):
    answers = two.run([os.getpid, *[partial(time.sleep, 0.05)] * 2] * 20)
    assert len({*answers}) == 3  # two processes, and None of those who slept


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_ends_the_run(processes, two):
    crew = two if processes == 2 else Crew()
    begun = []

    def jobs():
        for number in range(1000):
            begun.append(number)
            yield partial(int, "bad" if number == 3 else number)

    with pytest.raises(ValueError, match="bad"):
        crew.run(jobs())
    assert len(begun) < 1000
    assert crew.run([partial(int, "7")]) == [7]


def test_a_killed_process_is_told():
    with Crew(2) as crew:
        [other] = {*crew.run([os.getpid, partial(time.sleep, 0.05)] * 20)} - {None, os.getpid()}
        with pytest.raises(ValueError, match="a process was killed"):
            crew.run([partial(os.kill, other, signal.SIGKILL)] + [partial(time.sleep, 0.05)] * 100)


def test_so_does_one_of_whoever_makes_the_jobs(two):
    def jobs():
        yield partial(int, "1")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        two.run(jobs())
