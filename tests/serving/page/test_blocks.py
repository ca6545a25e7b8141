"""blocks.py: what each event answers, without a browser, and the page itself in one."""

import base64
import re
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

gr = pytest.importorskip("gradio", reason="gradio is not installed")

from tsf_llm.serving.page import answers, blocks  # noqa: E402
from tsf_llm.serving.page.words import say  # noqa: E402

PATIENCE = 20_000  # milliseconds


@pytest.fixture(scope="module")
def page(pipe):
    return blocks.Page(lambda: pipe, symbols=None, gpu=lambda work: work)


def sample_question(language="en", **changed):
    asked = {"prices": None, "ticker": "AAPL", "horizon": 5, "as_of": "2013-01-31", "levels": ""} | changed
    return [language, *asked.values()]


# --- without a browser ---------------------------------------------------------------------------------------------


def test_the_model_opens_with_the_first_answer(pipe):
    opened = []
    page = blocks.Page(lambda: opened.append(1) or pipe, symbols=None, gpu=lambda work: work)
    assert opened == []
    page._show(*sample_question())
    page._show(*sample_question())
    assert opened == [1]


def test_a_refusal_leaves_nothing_of_another_question(page):
    shown = page._show(*sample_question(as_of="tomorrow"))
    assert "no date" in shown[page.message]
    assert shown[page.head] == shown[page.below] == shown[page.verdict_html] == ""


def test_our_own_errors_are_one_kind_sentence(page, monkeypatch, caplog):
    monkeypatch.setattr(page, "forecast", lambda *_, **__: 1 / 0)
    shown = page._show(*sample_question("zh"))
    assert say("zh", "bad_ours") in shown[page.message]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("horizon", [None, -3, 0, 5.0, 1e9, "7"])
def test_any_horizon_is_within_the_bounds(horizon):
    assert 1 <= blocks.ahead(horizon) <= answers.MOST_AHEAD


def test_the_first_language_is_that_of_the_browser(page):
    for query, header, language in (({}, "zh-CN", "zh"), ({"lang": "en"}, "zh-CN", "en"), ({"lang": "x"}, "de", "en")):
        request = SimpleNamespace(query_params=query, headers={"accept-language": header})
        first = page._first(request, *sample_question()[1:])
        assert first[page.language] == language
        assert say(language, "title") in first[page.brand]


def test_before_the_first_answer_everything_has_its_name(page):
    shown = {part["props"].get("elem_id"): part["props"] for part in page.blocks.get_config_file()["components"]}
    assert (shown["horizon"]["label"], shown["go"]["value"]) == (say("en", "horizon"), say("en", "go"))
    assert shown["source"]["choices"][0][0] == say("en", "source_sample")


def test_a_symbol_is_asked_for_only_where_there_is_a_source(page):
    choices = page._words("en")[page.source]["choices"]
    assert [one for _, one in choices] == ["sample", "file"]


def test_nothing_is_public_and_nothing_is_counted(page):
    assert {function.api_visibility for function in page.blocks.fns.values()} == {"private"}
    assert not page.blocks.analytics_enabled
    assert page.blocks.delete_cache == (blocks.CLEAN, blocks.CLEAN)


def test_it_mounts_beside_other_routes(pipe):
    fastapi = pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    app = fastapi.FastAPI()
    app.get("/health")(lambda: {"status": "ok"})
    with TestClient(blocks.mount(app, pipe)) as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert "TSF-LLM" in client.get("/").text


# --- in a browser --------------------------------------------------------------------------------------------------


class Visit:
    """One tab: what it asked for elsewhere, what went wrong in it, and what it can do."""

    def __init__(self, browser, address, **options):
        self.foreign, self.errors, self.address = [], [], address
        usual = {"viewport": {"width": 1280, "height": 900}, "locale": "en-US"}
        self.context = browser.new_context(**usual | options)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(PATIENCE)
        self.tab.on("request", self._asked)
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))

    def _asked(self, request):
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.foreign.append(request.url)

    def open(self, path="/"):
        self.tab.goto(self.address + path)
        self.tab.wait_for_selector("#chart .main-svg")
        self.tab.wait_for_selector("#verdict .tsf-lead")
        return self

    def about(self, text):
        self.tab.wait_for_function("text => document.querySelector('.tsf-about')?.innerText.includes(text)", arg=text)

    def message(self, text):
        self.tab.wait_for_function(
            "text => document.querySelector('#message')?.innerText.includes(text)", arg=text, timeout=PATIENCE
        )

    def give(self, name, content):
        self.tab.set_input_files(
            "input[type=file]", {"name": name, "mimeType": "application/octet-stream", "buffer": content}
        )


@pytest.fixture
def visit(browser, server):
    made = []

    def start(path="/", **options):
        made.append(Visit(browser, server[0], **options))
        return made[-1].open(path)

    yield start
    for one in made:
        one.context.close()
        assert one.foreign == []
        assert one.errors == []


def test_the_first_picture_is_there_at_once(visit):
    started = time.monotonic()
    tab = visit().tab
    assert time.monotonic() - started < PATIENCE / 1000
    assert "AAPL" in tab.inner_text(".tsf-about")
    assert "What happened" in tab.inner_text(".tsf-tiles")
    assert "No advice" in tab.inner_text("#honest")
    assert "Random walk" in tab.inner_text("#verdict")
    link = tab.get_attribute("#csv a[download]", "href")
    assert base64.b64decode(link.partition("base64,")[2]).startswith(b"ticker,origin,step")


def test_a_visitor_asks(visit):
    """Another ticker, another date, price levels, several together, why, and the report."""
    one = visit()
    tab = one.tab
    tab.fill("#as_of textarea, #as_of input", "2012-06-29")
    tab.fill("#levels textarea, #levels input", "10, 90")
    tab.click("#go")
    one.about("2012-06-29")
    assert "90" in tab.inner_text("#below .tsf-touch")
    tab.fill("#as_of textarea, #as_of input", "nonsense")
    tab.click("#go")
    one.message("no date")
    tab.fill("#as_of textarea, #as_of input", "")
    tab.click("#go")
    one.about("2013-03-01 to")
    tab.get_by_role("tab", name="Together").click()
    tab.click("#joint_go")
    tab.wait_for_selector("#joint table")
    assert "equal weights" in tab.inner_text("#joint")
    tab.get_by_role("tab", name="Why?").click()
    tab.click("#why_go")
    tab.wait_for_selector("#why table")
    with tab.expect_download() as download:
        tab.click("#report_go")
    assert download.value.suggested_filename.endswith(".html")


def test_uploads_good_and_bad(visit, server, prices, csv):
    one = visit()
    tab = one.tab
    tab.get_by_text("My file", exact=True).click()
    tab.wait_for_selector("#upload", state="visible")
    one.give("mine.csv", csv(prices(200, tickers=("ONE", "TWO"))))
    one.about("ONE: 5 bars ahead")
    one.message("mine.csv")
    bad = {"people.csv": b"name,age\nAda,36\n", "x.pdf": b"%PDF-1.7", "y.csv": bytes(range(256)) * 9, "z.csv": b""}
    for name, content in bad.items():
        one.give(name, content)
        one.message(name)
        assert not re.search(r"Traceback|/tmp|Error:", tab.inner_text("body"))
        assert "ONE" in tab.inner_text(".tsf-about")  # the page goes on
    one.give("two.csv", csv(prices(12).assign(Date=[f"{day:02d}/12/2020" for day in range(1, 13)])))
    one.message("two ways")
    tab.locator("#dates").get_by_text("day / month / year").click()
    one.message("too short")
    assert [path for path in server[1].rglob("*") if path.is_file() and path.stat().st_size] == []


def test_symbols(visit):
    one = visit()
    tab = one.tab
    tab.get_by_text("Symbol", exact=True).click()
    for given, said in (("NONE", "No bars were found"), ("BUSY", "did not answer"), ("KNOWN", "may be old")):
        tab.fill("#symbol textarea, #symbol input", given)
        tab.click("#fetch")
        one.message(said)
    one.about("KNOWN")


def test_chinese(visit):
    one = visit(locale="zh-CN")
    tab = one.tab
    text = tab.inner_text("body")  # with Gradio's own word for screen readers, which it has not translated
    assert "价格接下来可能怎么走" in text
    names = r"common\.complete|TSF-LLM|English|AAPL|CSV|HTML|HAR|GARCH\(1,1\)-t|CRPS|K 线|GOOG|IBM|MSFT"
    assert re.findall(r"[A-Za-z]{3,}", re.sub(names, "", text)) == []
    tab.get_by_text("English", exact=True).click()
    one.about("20 bars ahead")


def test_a_phone(visit):
    one = visit("/?__theme=dark", viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    tab = one.tab
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    box = tab.locator("#chart .main-svg").first.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    for target in ("#go", "#report_go", "#joint_go", "#language label", "#as_of input, #as_of textarea"):
        found = tab.locator(target).first
        if found.is_visible():
            assert found.bounding_box()["height"] >= 40
    assert tab.locator("[role=tab]:visible").count() == 3


# --- plain series --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(shop_pipe):
    """A page of a model of plain series."""
    return blocks.Page(shop_pipe(), symbols=object(), gpu=lambda work: work)


@pytest.fixture
def sent(tmp_path):
    """`sent(frame)` -> an upload as Gradio hands it over."""

    def write(frame):
        (tmp_path / "upload").mkdir(exist_ok=True)  # it goes with what it holds
        path = tmp_path / "upload" / "sales.csv"
        frame.to_csv(path, index=False)
        return {"path": str(path), "orig_name": "sales.csv"}

    return write


def test_a_page_of_plain_series_asks_for_a_file(shop):
    request = SimpleNamespace(query_params={"lang": "en"}, headers={})
    first = shop._first(request, *sample_question()[1:])
    assert say("en", "title", plain=True) in first[shop.brand]
    assert first[shop.source]["choices"] == [("My file", "file")]
    assert first[shop.head] == ""
    assert first[shop.horizon]["maximum"] == first[shop.horizon]["value"] == 6
    assert not first[shop.tab_joint]["visible"]
    assert "promo" in first[shop.hint]["value"]
    assert "town" in first[shop.hint]["value"]
    assert shop._judge("en", None, "", 6, "") == ""
    assert shop._explain("en", None, "", "") == ""
    assert shop._report("en", None, "", 6, "", "") is None


def test_a_page_of_plain_series_opens_in_the_language_of_the_browser(shop):
    request = SimpleNamespace(query_params={}, headers={"accept-language": "zh-CN"})
    first = shop._first(request, *sample_question()[1:])
    for part, key in ((shop.horizon, "horizon"), (shop.as_of, "as_of"), (shop.column, "column"), (shop.rule, "rule")):
        assert first[part]["label"] == say("zh", key, plain=True)
    assert first[shop.upload] == gr.update(label=say("zh", "upload", limit=blocks.MEGABYTES), visible=True)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_file_of_plain_series_is_forecast_to_the_reach_of_the_head(shop, sales, sent, language):
    shown = shop._take(sent(sales), language)
    assert shown[shop.ticker]["choices"] == ["shop 0", "shop 1", "shop 2"]
    assert shown[shop.horizon] == 6
    for word in ("total", "p_up", "p_zero", "band"):
        assert (
            say(language, word, plain=True, bars=say(language, "many_bars", plain=True, count=6)) in shown[shop.head]
        )
    [line] = [one for one in shown[shop.chart]["value"].data if one.name == say(language, "bars", plain=True)]
    assert line.y[-1] == sales["value"].iloc[199]
    asked = [language, shown[shop.prices], "shop 0", 6]
    past = shop._show(*asked, "2023-07-01", "")
    assert say(language, "happened_tile") in past[shop.head]
    assert say(language, "error", plain=True) in shop._judge(*asked, "")
    assert say(language, "group") in shop._explain(language, shown[shop.prices], "shop 0", "")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda frame: frame[frame["value"].notna()], "bad_known"),
        (lambda frame: frame.drop(columns="town"), "bad_static"),
        (lambda frame: frame.drop(columns="promo"), "bad_columns"),
        (lambda frame: frame.drop(columns="series_id"), "bad_order"),
        (lambda frame: frame.drop(columns="series_id").assign(kind=frame["series_id"]), "bad_id"),
        (lambda frame: frame.drop(columns="timestamp"), "bad_columns"),
        (lambda frame: frame.rename(columns={"value": "units"}).assign(other=frame["value"]), "bad_value"),
    ],
)
def test_what_a_file_of_plain_series_lacks_is_one_sentence(shop, sales, sent, change, key):
    shown = shop._take(sent(change(sales)), "en")
    start = say("en", key, plain=True, **dict.fromkeys(("name", "column", "columns", "count", "missing"), "{}"))
    words = max(re.split(r"\{\}", start), key=len)
    assert words.strip() in shown[shop.message].replace("&#39;", "'")
    assert (shown[shop.pending] is not None) == (key in ("bad_value", "bad_static"))  # what a word or a table mends


def test_a_table_of_the_series_may_lie_beside(shop, sales, sent):
    expected, bare = shop._take(sent(sales), "en"), sales.drop(columns="town")
    towns = sales.groupby("series_id", as_index=False)["town"].first()
    waits = shop._take(sent(bare), "en")[shop.pending]
    shown = shop._tabled(sent(towns), "en", waits)
    assert shown[shop.head] == expected[shop.head]
    assert shown[shop.beside] is None
    first = shop._tabled(sent(towns), "en", None)
    assert "sales.csv goes with the next file." in first[shop.message]
    assert shop._take(sent(bare), "en", "", "", first[shop.beside])[shop.head] == expected[shop.head]
    twice = shop._tabled(sent(pd.concat([towns, towns])), "en", waits)
    assert "the static table has two rows for shop 0; keep one" in twice[shop.message]
    assert twice[shop.pending] is waits
    broken = shop._tabled({**sent(towns), "orig_name": "towns.xlsx"}, "en", waits)
    assert say("en", "bad_type", name="towns.xlsx") in broken[shop.message]
    assert broken[shop.pending] is waits
    assert shop._tabled(None, "en", waits) == {shop.message: ""}


def test_uneven_rows_are_made_even_by_a_rule(shop, sales, sent, tmp_path):
    odd = np.random.default_rng(0).integers(0, 20 * 3600, len(sales))
    uneven = sales.assign(timestamp=sales["timestamp"] + pd.to_timedelta(odd, "s"))
    refused = shop._take(sent(uneven), "en")
    assert "uneven times. Write above a rule that makes them even, such as 1d:" in refused[shop.message]
    shown = shop._named("", "en", refused[shop.pending], "1d:sum")
    assert shown[shop.ticker]["choices"] == ["shop 0", "shop 1", "shop 2"]
    assert shown[shop.head] == shop._take(sent(uneven), "en", "", "1d:sum")[shop.head] != ""
    wrong = shop._named("", "en", refused[shop.pending], "often")
    assert say("en", "bad_rule") in wrong[shop.message]
    assert wrong[shop.pending] is refused[shop.pending]


def test_the_column_to_forecast_may_be_named(shop, sales, sent):
    frame = sales.rename(columns={"value": "units"}).assign(other=1.5 * sales["value"])
    refused = shop._take(sent(frame), "en")
    shown = shop._named("units", "en", refused[shop.pending])
    expected = shop._take(sent(sales), "en")
    assert shown[shop.head] == expected[shop.head]
    assert shop._take(sent(frame), "en", "units")[shop.head] == expected[shop.head]
    assert shop._named("units", "en", None) == {shop.message: ""}
