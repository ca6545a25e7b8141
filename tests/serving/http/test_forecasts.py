import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from tsf_llm.data_prep.columns import Columns
from tsf_llm.data_prep.sources import read_for
from tsf_llm.serving.http.app import create_app
from tsf_llm.serving.http.settings import Settings

BAD = [b"", b"{", b'{"bars":[]}', b'{"bars":"x"}', b'{"bars":[{"close":1}],"horizon":-1}', b"a" * 200_000]


def test_a_forecast(client, pipe, bars, body):
    answer = client.post("/v1/forecast", json=body).json()
    assert answer["model"] == "mini"
    assert answer["skipped"] == {}
    assert [row["step"] for row in answer["forecast"]] == [1, 2, 3, 4, 5]
    frame = pipe(bars, horizon=5)
    assert [row["q50"] for row in answer["forecast"]] == pytest.approx(frame["q50"].tolist(), rel=1e-7)


def test_other_names_levels_and_dates(client, body, bars):
    renamed = {{"timestamp": "when", "ticker": "share"}.get(name, name): cells for name, cells in body["bars"].items()}
    asked = {"time": "when", "id": "share", "quantile_levels": [0.2, 0.8], "as_of": str(bars["timestamp"].iloc[-10])}
    answer = client.post("/v1/forecast", json={**body, "bars": renamed, **asked}).json()["forecast"]
    assert list(answer[0]) == ["ticker", "origin", "step", "timestamp", "mean", "q20", "q80", "p_up"]
    assert answer[0]["origin"] == bars["timestamp"].iloc[-10].isoformat()


def test_paths_depend_on_the_seed_alone(client, body):
    first, again, other = (
        client.post("/v1/forecast", json={**body, "horizon": 22, "samples": 8, "seed": seed}).json()
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first["forecast"][:20] == other["forecast"][:20]  # of a law
    assert first["forecast"][21] != other["forecast"][21]


def test_csv(client, body):
    response = client.post("/v1/forecast", json=body, headers={"Accept": "text/csv"})
    assert response.headers["content-type"].startswith("text/csv")
    assert len(response.text.splitlines()) == 6


def test_a_batch_answers_each_by_itself(client, body):
    bad = {"bars": [{"close": 1}]}
    first, second, third = client.post("/v1/forecast/batch", json={"requests": [body, bad, body]}).json()["answers"]
    assert first == third == client.post("/v1/forecast", json=body).json()
    assert second["error"]["code"] == "refused"


@pytest.mark.parametrize("content", BAD)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", None])
def test_bad_bodies(client, content, kind):
    response = client.post("/v1/forecast", content=content, headers={} if kind is None else {"Content-Type": kind})
    assert 400 <= response.status_code < 500
    message = response.json()["error"]["message"]
    assert 0 < len(message) < 300
    assert "Traceback" not in message


@pytest.mark.parametrize("content", BAD)
def test_a_real_server_stands(server, content):
    httpx = pytest.importorskip("httpx")
    response = httpx.post(f"{server}/v1/forecast", content=content, headers={"Content-Type": "application/json"})
    assert 400 <= response.status_code < 500
    assert "Traceback" not in response.text
    assert httpx.get(f"{server}/health").status_code == 200


def test_an_upload_is_answered_as_json_is(client, body, bars):
    file = bars.drop(columns="ticker").to_csv(index=False)
    fields = {"horizon": "5", "quantile_levels": "0.1,0.9"}
    response = client.post("/v1/forecast", files={"file": ("../AAPL.csv", file)}, data=fields)
    assert response.json() == client.post("/v1/forecast", json={**body, "quantile_levels": [0.1, 0.9]}).json()


@pytest.mark.parametrize(
    ("files", "fields"),
    [
        ({"file": ("a.csv", b"x")}, {"horizon": "-1"}),
        ({"file": ("a.csv", b"x")}, {"path": "/etc/passwd"}),
        ({"file": ("a.csv", b"")}, {}),
        ({"other": ("a.csv", b"x")}, {}),
        ({"file": ("a.pkl", b"\x80\x04.")}, {}),
    ],
)
def test_uploads_that_are_refused(client, files, fields):
    response = client.post("/v1/forecast", files=files, data=fields)
    assert response.status_code == 422
    assert "/tmp" not in response.json()["error"]["message"]


def test_what_is_said_beside_a_forecast(client, body, bars):
    jump = {**body["bars"], "close": [*body["bars"]["close"][:-1], body["bars"]["close"][-1] * 10]}
    jump["high"] = [*body["bars"]["high"][:-1], jump["close"][-1]]
    answer = client.post("/v1/forecast", json={**body, "bars": jump}).json()
    assert answer["out_of_sample"] is False
    usual = client.post("/v1/forecast", json=body).json()["notes"]
    [jumped] = [note for note in answer["notes"] if note not in usual]
    assert jumped.startswith("AAPL")
    assert usual == client.post("/v1/forecast", json=body).json()["notes"]  # whoever asked before
    later = [
        str(stamp.date()) for stamp in bars["timestamp"] + (bars["timestamp"].max() - bars["timestamp"].min()) * 15
    ]
    assert client.post("/v1/forecast", json={**body, "bars": {**body["bars"], "timestamp": later}}).json()[
        "out_of_sample"
    ]


def test_a_market_of_the_request(client, body, bars):
    index = bars.assign(ticker="INDEX", timestamp=bars["timestamp"].astype(str)).to_dict("records")
    plain, with_market = (client.post("/v1/forecast", json={**body, **one}).json() for one in ({}, {"market": index}))
    assert plain["forecast"] != with_market["forecast"]


def test_one_bad_ticker_stops_no_other(client, bars, body):
    short = [{**row, "ticker": "SHORT", "timestamp": str(row["timestamp"])} for row in bars.tail(3).to_dict("records")]
    rows = bars.assign(timestamp=bars["timestamp"].astype(str)).to_dict("records")
    answer = client.post("/v1/forecast", json={"bars": rows + short, "horizon": 5}).json()
    assert answer["forecast"] == client.post("/v1/forecast", json=body).json()["forecast"]
    assert "at least" in answer["skipped"]["SHORT"]


def test_too_many_paths(client_of, body):
    response = client_of(max_steps=1000).post("/v1/forecast", json={**body, "horizon": 30})
    assert response.json()["error"]["code"] == "too_much"


@pytest.fixture(scope="module")
def shop(shop_pipe):
    """A client of a model of plain series, and what its pipeline says by itself."""
    return TestClient(create_app(shop_pipe(), Settings(name="shop")))


@pytest.fixture(scope="module")
def sold(sales):
    """A request of plain series, with the promotions of the days to come and the town of each shop."""
    bars = sales.assign(timestamp=sales["timestamp"].astype(str))
    return {"bars": bars.astype(object).where(bars.notna(), None).to_dict("records")}


def without(asked, *names):
    return {"bars": [{key: cell for key, cell in row.items() if key not in names} for row in asked["bars"]]}


TOWNS = [{"series_id": f"shop {i}", "town": "ab"[i % 2]} for i in range(3)]


def test_plain_series_have_quantiles_of_their_head(shop, sold, sales, shop_pipe):
    answer = shop.post("/v1/forecast", json=sold).json()
    rows, expected = answer["forecast"], shop_pipe()(sales)
    assert [row["step"] for row in rows] == [*range(1, 7)] * 3
    assert answer["out_of_sample"] is True
    for name in ("mean", "q05", "q50", "q95", "p_up", "p_zero"):
        assert [row[name] for row in rows] == pytest.approx(expected[name].tolist(), abs=0.02), name
    assert all(row["q05"] >= 0 for row in rows)
    assert min(row["p_zero"] for row in rows) < max(row["p_zero"] for row in rows)
    short = shop.post("/v1/forecast", json={**sold, "horizon": 2}).json()["forecast"]
    assert short == [row for row in rows if row["step"] <= 2]


def test_a_static_table_beside_plain_series(shop, sold, sales):
    expected = shop.post("/v1/forecast", json=sold).json()
    apart = without(sold, "town")
    assert shop.post("/v1/forecast", json={**apart, "static": TOWNS}).json() == expected
    files = {"file": ("sales.csv", sales.drop(columns="town").to_csv(index=False))}
    files |= {"static": ("towns.csv", pd.DataFrame(TOWNS).to_csv(index=False))}
    assert shop.post("/v1/forecast", files=files).json()["forecast"] == expected["forecast"]
    renamed = {"bars": [{**row, "series_id": None, "shop": row["series_id"]} for row in apart["bars"]]}
    named = [{"shop": row["series_id"], "town": row["town"]} for row in TOWNS]
    asked = {**without(renamed, "series_id"), "static": named, "id": "shop"}
    assert shop.post("/v1/forecast", json=asked).json()["forecast"] == expected["forecast"]

    def split(rows):
        return [{**row, "series_id": None, "chain": "shop", "branch": row["series_id"][-1]} for row in rows]

    asked = without({**apart, "bars": split(apart["bars"])}, "series_id")
    branches = [{name: row[name] for name in ("chain", "branch", "town")} for row in split(TOWNS)]
    told = shop.post("/v1/forecast", json={**asked, "static": branches, "id": "chain,branch"}).json()["forecast"]
    assert [row["ticker"] for row in told] == [row["ticker"].replace(" ", "/") for row in expected["forecast"]]
    assert [row["mean"] for row in told] == [row["mean"] for row in expected["forecast"]]
    two = shop.post("/v1/forecast", json={**apart, "static": TOWNS[:2]}).json()
    assert two["skipped"] == {"shop 2": "shop 2: the static table has no row for it; add one"}
    assert two["forecast"] == expected["forecast"][:12]


@pytest.fixture(scope="module")
def uneven(sales):
    """The same sales by purchase: out of order, at odd times, several in a day."""
    parts = [
        sales.assign(value=sales["value"] / 2, timestamp=sales["timestamp"] + pd.Timedelta(one, "h"))
        for one in (1, 20)
    ]
    return pd.concat(parts).sort_values("value", kind="stable").reset_index(drop=True)


def test_rows_are_made_even_by_a_rule(shop, uneven, shop_pipe, tmp_path):
    uneven.to_csv(tmp_path / "sales.csv", index=False)
    read = read_for(shop_pipe().processor, str(tmp_path / "sales.csv"), columns=Columns(resample="1d:sum"))
    expected = shop_pipe()(read)
    bars = uneven.assign(timestamp=uneven["timestamp"].astype(str)).astype(object)
    asked = {"bars": bars.where(bars.notna(), None).to_dict("list"), "resample": "1d:sum"}
    told = shop.post("/v1/forecast", json=asked).json()
    np.testing.assert_allclose([row["mean"] for row in told["forecast"]], expected["mean"], rtol=1e-5)
    assert [row["timestamp"][:10] for row in told["forecast"]] == [str(day.date()) for day in expected["timestamp"]]
    files = {"file": ("sales.csv", (tmp_path / "sales.csv").read_bytes())}
    sent = shop.post("/v1/forecast", files=files, data={"resample": "1d:sum"}).json()
    assert sent["forecast"] == told["forecast"]
    plain = {name: cells for name, cells in asked["bars"].items() if name != "town"}
    beside = shop.post("/v1/forecast", json={"bars": plain, "static": TOWNS, "resample": "1d:sum"}).json()
    assert beside["forecast"] == told["forecast"]
    message = shop.post("/v1/forecast", json={**asked, "resample": "1min:sum"}).json()["error"]["message"]
    assert message.endswith("rows after resample: give at most 100,000, or a longer step")
    message = shop.post("/v1/forecast", json={**asked, "resample": "often"}).json()["error"]["message"]
    assert message.startswith("the field resample 'often': write sum, mean, last or nearest")
    message = shop.post("/v1/forecast", files=files).json()["error"]["message"]
    assert "add the field resample 1d:" in message
    assert "--" not in message


def test_a_model_of_prices_takes_no_rule(client, body):
    message = client.post("/v1/forecast", json={**body, "resample": "sum"}).json()["error"]["message"]
    assert message.startswith("the field resample sum is for plain series, and these are market bars: leave it out")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda asked: {**asked, "horizon": 7}, "horizon=7, but this model was trained for 6 step(s)"),
        (lambda asked: {"bars": [row for row in asked["bars"] if row["value"] is not None]}, "promo must be known 6"),
        (lambda asked: without(asked, "promo"), "column(s) ['promo'] missing"),
        (lambda asked: without(asked, "town"), "no one column 'town', a static covariate of this model: add it"),
        (lambda asked: {**without(asked, "town"), "static": TOWNS[:1], "strict": True}, "no row for it; add one"),
        (lambda asked: {**without(asked, "town"), "static": [{"town": "a"}]}, "static table has no column series_id"),
        (lambda asked: {**without(asked, "town"), "static": TOWNS + TOWNS[:1]}, "two rows for shop 0; keep one"),
        (lambda asked: {**without(asked, "series_id"), "static": TOWNS}, "add a column series_id"),
        (
            lambda asked: {"bars": {"value": [1, 2]}, "static": {"town": ["a"], "x": []}},
            "the columns of static differ",
        ),
    ],
)
def test_what_plain_series_lack_is_one_line(shop, sold, change, said):
    response = shop.post("/v1/forecast", json=change(sold))
    message = response.json()["error"]["message"]
    assert response.status_code == 422
    assert said in message
    assert "--" not in message
    assert "\n" not in message


def test_a_model_of_prices_reads_no_static_table(client, body):
    message = client.post("/v1/forecast", json={**body, "static": TOWNS}).json()["error"]["message"]
    assert message == "static: the model of this server reads no static covariates; leave it out"


def test_what_the_model_wants_is_told(shop):
    [told] = shop.get("/v1/models").json()["models"]
    expected = {"kind": "univariate", "head": "quantile", "horizon": 6, "law_reach": 0}
    assert told.items() >= {**expected, "known_covariates": ["promo"], "static_covariates": ["town"]}.items()
