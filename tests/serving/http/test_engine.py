import asyncio
import threading

import pandas as pd
import pytest

from tsf_llm.data_prep.sources import read_bars
from tsf_llm.serving.http.answers import as_records
from tsf_llm.serving.http.engine import Engine
from tsf_llm.serving.http.metrics import Metrics
from tsf_llm.serving.http.settings import Settings


@pytest.fixture(scope="module")
def parts():
    """Twelve tables of 300 bars, one of 60, and one of two tickers."""
    sample = read_bars("sample", ["AAPL", "MSFT", "IBM"])
    each = [part for _, part in sample.groupby("ticker", sort=False)]
    tables = [part.iloc[end - 300 : end] for part in each for end in (1000, 1500, 2000, 2500)]
    return [*tables, each[0].tail(60), pd.concat([each[1].tail(300), each[2].tail(300)])]


def answers(pipe, parts, horizons, **settings):
    """Of all parts at one time: records, and the sizes of their passes, which begin when all wait but the first."""
    engine, begin, came = Engine(pipe, Settings(window=0, **settings), Metrics()), threading.Event(), []
    shared = engine._shared

    async def counted(*asked):
        came.append(asked)
        return await shared(*asked)

    async def all_of_them():
        engine._shared = counted
        engine._model.submit(begin.wait)
        tasks = []
        for part, horizon in zip(parts, horizons, strict=True):
            forecast = engine.forecast(lambda part=part: {"bars": part}, horizon=horizon)
            tasks.append(asyncio.create_task(forecast))
            while not came or (len(tasks) == 1 and engine._waiting):  # the first has a pass of its own
                await asyncio.sleep(0.01)
        while len(came) < len(parts):
            await asyncio.sleep(0.01)
        begin.set()
        return await asyncio.gather(*tasks)

    done = asyncio.run(asyncio.wait_for(all_of_them(), 300))
    return [as_records(one.frame) for one in done], [one.rows for one in done]


def test_company_changes_no_digit(pipe, parts):
    horizons = [1, 5, 20, 7, 2, 20, 5, 1, 3, 20, 19, 5, 20, 5]
    together, sizes = answers(pipe, parts, horizons)
    alone = [answers(pipe, [part], [horizon])[0][0] for part, horizon in zip(parts, horizons, strict=True)]
    assert together == alone
    assert max(sizes) >= 12


def test_the_answer_is_that_of_the_pipeline(pipe, parts):
    (answer,), _ = answers(pipe, parts[:1], [5])
    assert answer == as_records(pipe(parts[0], horizon=5))


def test_passes_are_bounded(pipe, parts):
    _, sizes = answers(pipe, parts[:6], [5] * 6, batch_rows=2)
    assert set(sizes) <= {1, 2}


def test_one_bad_request_spoils_no_other(pipe, parts, monkeypatch):
    laws = type(pipe).laws

    def poisoned(self, batch, horizon):
        if "IBM" in batch["ticker"]:
            raise RuntimeError("poisoned")
        return laws(self, batch, horizon)

    monkeypatch.setattr(type(pipe), "laws", poisoned)
    engine = Engine(pipe, Settings(window=0.5), Metrics())

    async def both():
        tasks = [engine.forecast(lambda part=part: {"bars": part}, horizon=5) for part in (parts[0], parts[4])]
        return await asyncio.gather(*tasks, return_exceptions=True)

    answer, error = asyncio.run(both())
    assert len(answer.frame) == 5
    assert str(error) == "poisoned"


def test_work_that_nobody_waits_for_ends(pipe, parts):
    engine, steps = Engine(pipe, Settings(), Metrics()), []
    counted = pipe.model.register_forward_hook(lambda *_: steps.append(1))

    async def cancelled():
        task = asyncio.create_task(engine.forecast(lambda: {"bars": parts[0]}, horizon=200, samples=8))
        while len(steps) < 3 and not task.done():
            await asyncio.sleep(0.01)
        task.cancel()
        done = len(steps)
        await engine.in_long_thread(lambda: None)  # waits until the thread is free
        return len(steps) - done

    try:
        assert asyncio.run(cancelled()) <= 2
    finally:
        counted.remove()


def test_paths_hold_up_no_laws(pipe, parts):
    engine = Engine(pipe, Settings(), Metrics())

    async def both():
        paths = asyncio.create_task(engine.forecast(lambda: {"bars": parts[0]}, horizon=100, samples=64))
        await asyncio.sleep(0.2)
        await engine.forecast(lambda: {"bars": parts[1]}, horizon=5)
        was_first = not paths.done()
        await paths
        return was_first

    assert asyncio.run(both())
