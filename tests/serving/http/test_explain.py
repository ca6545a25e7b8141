"""explain.py: an explanation of a few windows, one at a time, with a bound for everything."""

import threading

import pytest

from tsf_llm.serving.http import explain


@pytest.fixture(scope="module")
def asked(body):
    return {name: cells for name, cells in body.items() if name != "horizon"}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(explain, "WINDOWS", {True: 10, False: 4})
    monkeypatch.setattr(explain, "FEWEST_DATES", 5)


def test_an_explanation(client, asked):
    found = client.post("/v1/explain", json=asked).json()
    assert found["model"] == "mini"
    assert (found["windows"], found["dates"], found["tickers"]) == (10, 10, ["AAPL"])
    assert {"bar", "market"} <= {group["name"] for group in found["groups"]}
    assert [block["first"] for block in found["past_bars"]][:3] == [1, 2, 3]
    assert found["last_bars"][0]["without"] is None
    assert found["experts"]["layers"]
    assert "features" not in found
    assert found == client.post("/v1/explain", json=asked).json()


def test_forecasts_stay_the_same_beside_it(client, body, asked):
    before = client.post("/v1/forecast", json=body).json()
    client.post("/v1/explain", json=asked)
    assert client.post("/v1/forecast", json=body).json() == before


def test_one_at_a_time(client_of, asked, monkeypatch):
    begun, go_on, answers = threading.Event(), threading.Event(), []

    def found(engine, asked):
        begun.set()
        go_on.wait(30)
        return {"done": True}

    monkeypatch.setattr(explain, "found", found)
    with client_of() as client:
        thread = threading.Thread(target=lambda: answers.append(client.post("/v1/explain", json=asked)))
        thread.start()
        assert begun.wait(30)
        second = client.post("/v1/explain", json=asked)
        go_on.set()
        thread.join()
        assert (second.status_code, second.headers["retry-after"]) == (429, "5")
        assert second.json()["error"]["message"] == "another explanation is made: try again in some seconds"
        assert [answer.json() for answer in answers] == [{"done": True}]
        assert client.post("/v1/explain", json=asked).json() == {"done": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bars": [{"close": 1.0}]}, "missing"),
        ({"bars": []}, "bars"),
        ({"horizon": 5}, "horizon"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(client, asked, change, message):
    answer = client.post("/v1/explain", json={**asked, **change})
    assert answer.status_code == 422
    assert message in answer.json()["error"]["message"]
    assert "\n" not in answer.json()["error"]["message"]


def test_it_is_bounded(client, asked, bars, monkeypatch):
    many = {name: [*cells] * 3 for name, cells in asked["bars"].items()}
    many["ticker"] = [name for name in "ABC" for _ in range(len(bars))]
    answer = client.post("/v1/explain", json={"bars": many})
    assert answer.json()["error"]["message"] == "3 tickers: this model explains 2 at once; send fewer"
    monkeypatch.setattr(explain, "MOST_BARS", 100)
    answer = client.post("/v1/explain", json=asked)
    assert answer.json()["error"]["message"] == "300 bars: an explanation takes 100 at most; send the last ones"
