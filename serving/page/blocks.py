"""The page itself: `build(pipe)` makes it, `mount(app, pipe)` puts it into a FastAPI application.

Design choices:
* The first picture is there at once: a forecast of the embedded sample from a date whose outcome is known. A model of
  plain series knows none of it: its page asks for a file, and says which columns.
* The language is a choice of the visitor; at first it is that of the browser, or `?lang=zh`. All texts change with it.
* What cannot be answered is one sentence with the remedy, and the page goes on. Errors of ours go to the log alone.
* A visitor's prices live in the memory of the session; after an hour, or with the visit, they are gone.
* Work waits in one queue; some forecasts run at once, whoever asks.
"""

import logging
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import gradio as gr

from ...bars_tsf_llm import UNIVARIATE
from ...pipeline_tsf_llm import TsfLlmPipeline
from . import answers, charts, look, panels
from .answers import MOST_AHEAD, MOST_TOGETHER, SAMPLE_AS_OF, SAMPLE_TOGETHER, Prices, sample
from .reading import MEGABYTES, Refusal, Upload
from .words import LANGUAGES, language_of, say

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger(__name__)
AT_ONCE = 2  # answers computed together
WAITING = 64  # visitors in the queue
FORGET = 3600  # seconds after which prices of a session are dropped
CLEAN = 600  # seconds: how often leftovers of broken uploads are looked for, and how old these are
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": AT_ONCE, "api_visibility": "private"}
LIGHT: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
SAVE = """made => {
    if (!made || !made.html) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([made.html], {type: "text/html"}));
    link.download = made.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}"""  # what was made goes from memory to the visitor: no file lies on the server
TO_THE_ANSWER = """() => {
    if (innerWidth <= 720 && document.querySelector("#head .tsf-about") && !document.querySelector(".tsf-warn"))
        document.querySelector("#head").scrollIntoView({behavior: "smooth"});
}"""  # on a phone it stands above the questions
AGAIN = ("bad_value", "bad_static", "bad_table", "bad_uneven", "bad_rule")  # what a word or a table can mend
Opened = TsfLlmPipeline | Callable[[], TsfLlmPipeline]
Updates = dict[Any, Any]


def build(pipe: Opened, *, symbols: Any = None, gpu: Callable[[Any], Any] = lambda work: work) -> gr.Blocks:
    """The page of a model.

    Args:
        pipe: a pipeline, or what opens it when it is first needed.
        symbols: a source with network, as `serving.symbols.Symbols`; without it no symbol can be asked for.
        gpu: decorates what computes, as `spaces.GPU`.
    """
    return Page(pipe, symbols=symbols, gpu=gpu).blocks


def mount(app: "FastAPI", pipe: Opened, *, path: str = "/", symbols: Any = None) -> "FastAPI":
    """The application with the page at `path`; its own routes must be there before, for `/` takes all others."""
    return gr.mount_gradio_app(app, build(pipe, symbols=symbols), path, **look.options())


class Page:
    """Parts, events and what they answer."""

    def __init__(self, pipe: Opened, *, symbols: Any, gpu: Callable[[Any], Any]) -> None:
        self.pipe, self.symbols, self.lock = pipe, symbols, Lock()
        works = (answers.forecast, answers.verdict, answers.why, answers.together, answers.report_of)
        self.forecast, self.verdict, self.why, self.together, self.report = (
            gpu(self._with_model(work)) for work in works
        )
        self.blocks = gr.Blocks(title="TSF-LLM", analytics_enabled=False, delete_cache=(CLEAN, CLEAN))
        with self.blocks:
            self._draw()
            self._say_at_first()
            self._wire()
        self.blocks.queue(max_size=WAITING, default_concurrency_limit=8)

    def _with_model(self, work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def computed(*args: Any, **options: Any) -> Any:
            return work(self._opened(), *args, **options)

        return computed

    def _opened(self) -> TsfLlmPipeline:
        with self.lock:
            if not isinstance(self.pipe, TsfLlmPipeline):
                self.pipe = self.pipe()
            return self.pipe

    @property
    def plain(self) -> bool:
        """Whether the model, once it is open, reads plain series."""
        return isinstance(self.pipe, TsfLlmPipeline) and self.pipe.processor.kind is UNIVARIATE

    @property
    def most_ahead(self) -> int:
        """Steps that the slider goes to."""
        if not self.plain:
            return MOST_AHEAD
        pipe = self._opened()
        return max(MOST_AHEAD, pipe.law_reach) if pipe.model.can_generate() else pipe.reach

    # --- parts

    def _draw(self) -> None:
        """Without words, which `_words` has."""
        self.prices, self.pending, self.beside = (gr.State(None, time_to_live=FORGET) for _ in range(3))
        with gr.Row(elem_classes="tsf-top"):
            self.brand = gr.HTML(elem_classes="tsf-plain-html")
            names = [(name, code) for code, name in LANGUAGES.items()]
            self.language = gr.Radio(
                names, value="en", container=False, elem_id="language", elem_classes=["tsf-choice", "tsf-language"]
            )
        with gr.Row(elem_classes="tsf-main"):
            with gr.Column(scale=3, min_width=280, elem_classes="tsf-panel"):
                self._draw_panel()
            with gr.Column(scale=8, min_width=320, elem_classes="tsf-answer"):
                self.head = gr.HTML(elem_id="head", elem_classes="tsf-plain-html")
                self.chart = gr.Plot(show_label=False, container=False, elem_id="chart", elem_classes="tsf-chart")
                self.honest = gr.HTML(elem_id="honest", elem_classes="tsf-plain-html")
                self.below = gr.HTML(elem_id="below", elem_classes="tsf-plain-html")
                with gr.Row(elem_classes="tsf-take"):
                    self.link = gr.HTML(elem_id="csv", elem_classes="tsf-plain-html")
                    self.report_go = gr.Button(elem_id="report_go")
                self.made = gr.JSON(visible=False)
        self._draw_tabs()
        self.foot = gr.HTML(elem_id="foot", elem_classes="tsf-plain-html")

    def _draw_panel(self) -> None:
        self.source = gr.Radio(["sample"], value="sample", elem_id="source", elem_classes="tsf-choice")
        self.upload = gr.UploadButton(visible=False, elem_id="upload")
        self.hint = gr.HTML(visible=False, elem_id="hint", elem_classes="tsf-plain-html")
        self.column = gr.Textbox(visible=False, max_length=64, elem_id="column")
        self.rule = gr.Textbox(visible=False, max_length=64, elem_id="rule")
        self.table = gr.UploadButton(visible=False, elem_id="table")
        self.symbol = gr.Textbox(visible=False, max_length=200, elem_id="symbol")
        self.fetch = gr.Button(visible=False, elem_id="fetch")
        self.message = gr.HTML(elem_id="message", elem_classes="tsf-plain-html")
        self.dates = gr.Radio(["dmy", "mdy"], value=None, visible=False, elem_id="dates", elem_classes="tsf-choice")
        names = sample().tickers
        self.ticker = gr.Dropdown(names, value=names[0], elem_id="ticker")
        self.horizon = gr.Slider(1, MOST_AHEAD, value=MOST_AHEAD, step=1, elem_id="horizon")
        self.as_of = gr.Textbox(value=SAMPLE_AS_OF, placeholder="2024-01-31", max_length=20, elem_id="as_of")
        self.levels = gr.Textbox(max_length=200, elem_id="levels")
        self.go = gr.Button(variant="primary", elem_id="go")

    def _draw_tabs(self) -> None:
        with gr.Tabs(elem_classes="tsf-tabs"):
            with gr.Tab("1", id="verdict") as self.tab_verdict:
                self.verdict_html = gr.HTML(elem_id="verdict", elem_classes="tsf-plain-html")
            with gr.Tab("2", id="joint", visible=not self.plain) as self.tab_joint:
                names = sample().tickers
                chosen = [name for name in SAMPLE_TOGETHER if name in names]
                self.joint_tickers = gr.Dropdown(
                    names, value=chosen, multiselect=True, max_choices=MOST_TOGETHER, elem_id="joint_tickers"
                )
                self.joint_go = gr.Button(elem_id="joint_go")
                self.joint_html = gr.HTML(elem_id="joint", elem_classes="tsf-plain-html")
            with gr.Tab("3", id="why") as self.tab_why:
                self.why_go = gr.Button(elem_id="why_go")
                self.why_html = gr.HTML(elem_id="why", elem_classes="tsf-plain-html")

    def _words(self, language: str) -> Updates:
        """Every text that does not depend on an answer."""
        word = partial(say, plain=self.plain)
        sources = ["file"] if self.plain else ["sample", "file", *(["symbol"] if self.symbols is not None else [])]
        brand = panels.html(
            panels.HERE / "brand.html", title=word(language, "title"), about=word(language, "subtitle")
        )
        words = {
            self.brand: brand,
            self.source: gr.update(
                label=word(language, "source"), choices=[(word(language, f"source_{one}"), one) for one in sources]
            ),
            self.dates: gr.update(
                label=word(language, "dates"),
                choices=[(word(language, f"dates_{one}"), one) for one in ("dmy", "mdy")],
            ),
            self.hint: self._hint(language),
            self.honest: word(language, "no_advice"),
            self.foot: word(language, "footer"),
            self.upload: gr.update(label=word(language, "upload", limit=MEGABYTES)),
            self.table: gr.update(label=word(language, "table")),
            self.joint_tickers: gr.update(label=word(language, "joint_tickers", most=MOST_TOGETHER)),
        }
        labels = {
            self.column: "column",
            self.rule: "rule",
            self.symbol: "symbol",
            self.ticker: "ticker",
            self.horizon: "horizon",
            self.as_of: "as_of",
        }
        labels |= {self.levels: "levels", self.tab_verdict: "tab_verdict", self.tab_joint: "tab_joint"}
        labels |= {self.tab_why: "tab_why"}
        texts = {
            self.go: "go",
            self.fetch: "symbol_go",
            self.report_go: "report",
            self.joint_go: "joint_go",
            self.why_go: "why_go",
        }
        words |= {part: gr.update(label=word(language, key)) for part, key in labels.items()}
        return words | {part: word(language, key) for part, key in texts.items()}

    def _hint(self, language: str) -> str:
        """How a file is to look like; of plain series with the columns that the model reads beside the value."""
        if not self.plain:
            return say(language, "upload_hint")
        extractor, wanted = self._opened().processor.feature_extractor, ""
        for key, names in (
            ("wanted_known", extractor.known_covariates),
            ("wanted_past", extractor.past_covariates),
            ("wanted_static", self._static),
        ):
            wanted += say(language, key, names=", ".join(names)) if names else ""
        return panels.text(say(language, "upload_hint", plain=True, wanted=wanted))

    @property
    def _static(self) -> list[str]:
        """What a table of the series can tell the model."""
        return [name for name in self._opened().processor.feature_extractor.static_covariates if name != UNIVARIATE.id]

    def _say_at_first(self) -> None:
        """English, until the visitor's language is known."""
        for part, words in self._words("en").items():
            for name, told in (words if isinstance(words, dict) else {"value": words}).items():
                if name != "__type__":  # gr.update's own
                    setattr(part, name, told)

    # --- events

    def _wire(self) -> None:
        asked = [self.language, self.prices, self.ticker, self.horizon, self.as_of, self.levels]
        shown = [
            self.message,
            self.head,
            self.chart,
            self.below,
            self.link,
            self.verdict_html,
            self.joint_html,
            self.why_html,
        ]
        worded = list(self._words("en"))
        chosen = [
            self.prices,
            self.pending,
            self.beside,
            self.ticker,
            self.joint_tickers,
            self.as_of,
            self.levels,
            self.dates,
        ]
        places = [self.source, self.upload, self.hint, self.column, self.rule, self.table, self.symbol, self.fetch]
        also = [self.rule, self.beside]  # of how a file is read
        every = list(dict.fromkeys([*shown, *worded, *chosen, *places, self.language]))
        one = {"trigger_mode": "always_last", "show_progress": "minimal", "show_progress_on": [self.chart], **MODEL}
        again = [self.go.click, self.ticker.input, self.horizon.release, self.as_of.submit, self.levels.submit]
        file = {"show_progress": "minimal", "show_progress_on": [self.message], **MODEL}
        events = [
            self.blocks.load(self._first, asked[1:], every, **one),
            self.language.input(self._in_language, asked, every, **one),
            gr.on(again, self._show, asked, shown, **one),
            self.source.input(self._from_source, [self.source, *asked], every, **one),
            self.upload.upload(
                self._take, [self.upload, self.language, self.column, *also], every, preprocess=False, **file
            ),
            self.table.upload(
                self._tabled,
                [self.table, self.language, self.pending, self.column, self.rule],
                every,
                preprocess=False,
                **file,
            ),
            self.dates.input(
                self._dated, [self.dates, self.language, self.pending, self.column, *also], every, **file
            ),
            gr.on(
                [self.column.submit, self.rule.submit],
                self._named,
                [self.column, self.language, self.pending, *also],
                every,
                **file,
            ),
            gr.on([self.fetch.click, self.symbol.submit], self._fetched, [self.symbol, self.language], every, **file),
        ]
        for event in events:
            event.then(self._judge, asked[:-1], self.verdict_html, **LIGHT | MODEL)
        for event in events[1:]:
            event.then(None, js=TO_THE_ANSWER, **LIGHT)
        asked_joint = [self.language, self.prices, self.joint_tickers, self.horizon, self.as_of]
        self.joint_go.click(self._join, asked_joint, self.joint_html, show_progress="minimal", **MODEL)
        made = self.report_go.click(self._report, asked, self.made, show_progress="minimal", **MODEL)
        made.then(None, self.made, js=SAVE, **LIGHT)
        self.why_go.click(self._explain, [*asked[:3], self.as_of], self.why_html, show_progress="minimal", **MODEL)

    def _first(self, request: gr.Request, *asked: Any) -> Updates:
        """The page as it opens."""
        language = request.query_params.get("lang") or language_of(request.headers.get("accept-language", ""))
        language = language if language in LANGUAGES else "en"
        self._opened()
        if self.plain:
            asked = (None, "", self.most_ahead, "", "")
        shown = {self.language: language, **self._in_language(language, *asked)}
        for part, change in self._without_prices(language).items() if self.plain else ():
            before = shown.get(part)
            both = isinstance(before, dict) and isinstance(change, dict)
            shown[part] = {**before, **change} if both else change  # a label and whether it is seen go together
        return shown

    def _without_prices(self, language: str) -> Updates:
        """What a page of plain series has not: a sample, price levels, portfolios; its head tells how far it goes."""
        unseen = {part: gr.update(visible=False) for part in (self.levels, self.tab_joint, self.symbol, self.fetch)}
        seen = {part: gr.update(visible=True) for part in (self.upload, self.column, self.rule)}
        seen[self.table] = gr.update(visible=bool(self._static))
        return {
            **unseen,
            **seen,
            self.source: gr.update(value="file", choices=[(say(language, "source_file"), "file")], visible=False),
            self.hint: gr.update(value=self._hint(language), visible=True),
            self.ticker: gr.update(choices=[], value=None, label=say(language, "ticker", plain=True)),
            self.horizon: gr.update(maximum=self.most_ahead, value=self.most_ahead),
            self.as_of: gr.update(value=""),
        }

    def _in_language(self, language: str, *asked: Any) -> Updates:
        return {**self._words(language), **self._show(language, *asked)}

    def _show(
        self, language: str, prices: Prices | None, ticker: str, horizon: Any, as_of: str, levels: str
    ) -> Updates:
        """A forecast, or why there is none; what was found before is of another question, and goes."""
        gone: Updates = dict.fromkeys((self.verdict_html, self.joint_html, self.why_html), "")
        nothing = {**gone, self.head: "", self.chart: gr.update(value=None, visible=False)}
        nothing |= {self.below: "", self.link: ""}
        if (held := self._held(prices)) is None:
            return {**nothing, self.message: ""}

        def answer() -> Updates:
            found = self.forecast(held, ticker, horizon=self._ahead(horizon), as_of=as_of, levels=levels)
            return {
                **gone,
                self.message: "",
                self.head: panels.head(found, language),
                self.chart: gr.update(value=charts.fan(found, language), visible=True),
                self.below: panels.below(found, held, language),
                self.link: panels.link(found, language),
            }

        return kindly(answer, lambda refusal: {**nothing, self.message: panels.refused(refusal, language)})

    def _held(self, prices: Prices | None) -> Prices | None:
        """What the visitor looks at; before a file of plain series came, nothing."""
        return prices or (None if self.plain else sample())

    def _ahead(self, horizon: Any) -> int:
        return ahead(horizon, self.most_ahead)

    def _from_source(self, source: str, language: str, prices: Prices | None, *asked: Any) -> Updates:
        """Other ways to give prices appear; back to the sample, its first picture."""
        seen = {self.upload: source == "file", self.hint: source == "file", self.symbol: source == "symbol"}
        seen |= {self.fetch: source == "symbol", self.dates: False}
        places: Updates = {part: gr.update(visible=flag) for part, flag in seen.items()}
        if source != "sample":
            return {**places, self.message: "", self.pending: None}
        return {**places, **self._chosen(language, None, sample(), as_of=SAMPLE_AS_OF)}

    def _chosen(
        self, language: str, prices: Prices | None, held: Prices, *, as_of: str = "", told: str = ""
    ) -> Updates:
        """Other prices, and the forecast of their first ticker from the last bar."""
        names = held.tickers
        some = [name for name in SAMPLE_TOGETHER if name in names] if prices is None else names[:4]
        horizon = self.most_ahead if prices is None or self.plain else 5
        shown = self._show(language, prices, names[0], horizon, as_of, "")
        if told and not shown[self.message]:
            shown[self.message] = panels.message(told, "good")
        return {
            **shown,
            self.prices: prices,
            self.pending: None,
            self.beside: None,
            self.dates: gr.update(visible=False, value=None),
            self.ticker: gr.update(choices=names, value=names[0]),
            self.joint_tickers: gr.update(choices=names, value=some),
            self.horizon: horizon,
            self.as_of: as_of,
            self.levels: "",
        }

    def _take(self, file: dict[str, Any] | None, language: str, *told: Any) -> Updates:
        """An upload, which leaves the disk at once; `told` is how to read it, see `_read`."""
        if file is None:
            return {self.message: ""}

        def read() -> Updates:
            return self._read(_taken(file), language, None, *told)

        return {self.upload: gr.update(value=None), **kindly(read, lambda refusal: self._refused(refusal, language))}

    def _tabled(
        self, file: dict[str, Any] | None, language: str, upload: Upload | None, column: str = "", rule: str = ""
    ) -> Updates:
        """A table of what never changes of each series, and the file that waits for it once more."""
        if file is None:
            return {self.message: ""}

        def read() -> Updates:
            table = _taken(file)
            table.check()
            told = panels.message(say(language, "table_taken", name=table.name), "good")
            kept = {self.beside: table, self.message: told}
            return kept if upload is None else {**kept, **self._named(column, language, upload, rule, table)}

        def refused(refusal: Refusal) -> Updates:
            return {**self._refused(refusal, language), self.pending: upload}

        return {self.table: gr.update(value=None), **kindly(read, refused)}

    def _dated(self, dates: str | None, language: str, upload: Upload | None, *told: Any) -> Updates:
        """The same file once more, now that the order of its dates is known."""
        if dates is None or upload is None:
            return {self.message: ""}
        return kindly(
            lambda: self._read(upload, language, dates, *told), lambda refusal: self._refused(refusal, language)
        )

    def _named(self, column: str, language: str, upload: Upload | None, *told: Any) -> Updates:
        """The same file once more, now that the column to forecast, or the rule for its rows, is known."""
        if upload is None:
            return {self.message: ""}
        return kindly(
            lambda: self._read(upload, language, None, column, *told), lambda refusal: self._refused(refusal, language)
        )

    def _read(
        self,
        upload: Upload,
        language: str,
        dates: str | None = None,
        column: str = "",
        rule: str = "",
        table: Upload | None = None,
    ) -> Updates:
        try:
            of_series: dict[str, Any] = {}
            if self.plain:
                of_series = {"column": column.strip(), "rule": rule.strip(), "table": table}
                of_series["processor"] = self._opened().processor
            bars = upload.bars(dates, **of_series)
        except Refusal as refusal:
            if refusal.key in AGAIN:
                return {**self._refused(refusal, language), self.pending: upload}
            if refusal.key != "bad_dates" or dates is not None:
                raise
            return {**self._refused(refusal, language), self.pending: upload, self.dates: gr.update(visible=True)}
        prices = Prices(bars, skipped=bars.attrs["skipped"])
        counts = {"bars": f"{len(bars):,}", "tickers": len(prices.tickers)}
        told = say(language, "loaded", plain=self.plain, name=upload.name, **counts)
        return self._chosen(language, prices, prices, told=told)

    def _fetched(self, given: str, language: str) -> Updates:
        """Bars of symbols, from the source with network."""

        def read() -> Updates:
            try:
                recent = self.symbols.recent(given)
            except ValueError as error:
                raise Refusal("bad_symbol", given=given[:40]) from error
            except OSError as error:
                raise Refusal("bad_network") from error
            told = say(language, "symbol_as_of", names=", ".join(recent.symbols))
            told += " " + say(language, "stale") if any("stale" in one for one in recent.symbols.values()) else ""
            skipped = {name: Refusal("bad_symbol", given=name) for name in recent.skipped}
            prices = Prices(recent.bars, skipped=skipped)
            return self._chosen(language, prices, prices, told=told)

        return kindly(read, lambda refusal: self._refused(refusal, language))

    def _refused(self, refusal: Refusal, language: str) -> Updates:
        """What is shown stays, for nothing else was chosen."""
        hidden = gr.update(visible=False, value=None)
        return {self.message: panels.refused(refusal, language), self.pending: None, self.dates: hidden}

    def _judge(self, language: str, prices: Prices | None, ticker: str, horizon: Any, as_of: str) -> str:
        """Of bars that were refused above nothing more is said."""
        if (held := self._held(prices)) is None:
            return ""
        return kindly(
            lambda: panels.of_verdict(
                self.verdict(held, ticker, horizon=self._ahead(horizon), as_of=as_of), language, plain=self.plain
            ),
            lambda refusal: "",
        )

    def _join(self, language: str, prices: Prices | None, tickers: list[str], horizon: Any, as_of: str) -> str:
        return kindly(
            lambda: panels.of_together(
                self.together(prices or sample(), tickers or [], horizon=ahead(horizon), as_of=as_of), language
            ),
            lambda refusal: panels.refused(refusal, language),
        )

    def _report(
        self, language: str, prices: Prices | None, ticker: str, horizon: Any, as_of: str, levels: str
    ) -> dict[str, str] | None:
        """Name and content of the file; none where the page has said already why there is no forecast."""
        if (held := self._held(prices)) is None:
            return None
        told: dict[str, Any] = {"as_of": as_of, "levels": levels, "language": language}
        name = panels.file_name(ticker, as_of.strip() or "latest") + ".html"
        return kindly(
            lambda: {"name": name, "html": self.report(held, ticker, horizon=self._ahead(horizon), **told)},
            lambda refusal: None,
        )

    def _explain(self, language: str, prices: Prices | None, ticker: str, as_of: str) -> str:
        if (held := self._held(prices)) is None:
            return ""
        return kindly(
            lambda: panels.of_why(self.why(held, ticker, as_of=as_of), language, plain=self.plain),
            lambda refusal: panels.refused(refusal, language),
        )


def _taken(file: dict[str, Any]) -> Upload:
    """A file as Gradio hands it over, which leaves the disk."""
    path = Path(file["path"])
    return Upload.take(path, file.get("orig_name") or path.name)


def ahead(horizon: Any, most: int = MOST_AHEAD) -> int:
    """Whatever a client sends, within the bounds of the slider."""
    return min(max(int(horizon or 1), 1), most)


def kindly(work: Callable[[], Any], refused: Callable[[Refusal], Any]) -> Any:
    """What the work answers, or else `refused`; an error that is not the visitor's is logged, and told as ours."""
    try:
        return work()
    except Refusal as refusal:
        return refused(refusal)
    except Exception:
        logger.exception("the page could not answer")
        return refused(Refusal("bad_ours"))
