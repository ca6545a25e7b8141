"""What a client may send: pydantic models with a bound for everything, JSON read strictly.

Design choices:
* A cell of bars is a finite number, a short text or null; what it means is the processor's to read or refuse.
* Unknown fields are refused. Nothing that a client sends is a path, a name on a hub, or opened as code.
* `StrictRoute` reads JSON without NaN, without depth, and only where the content type says that it is JSON.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

from fastapi import Request, Response, UploadFile
from fastapi.routing import APIRoute
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetPydanticSchema,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core import core_schema, from_json
from starlette.routing import Match
from starlette.types import Scope

from .errors import Refusal

MAX_BARS = 100_000
MAX_COLUMNS = 64
MAX_TEXT = 64  # characters
MAX_HORIZON = 720
MAX_SAMPLES = 4096
MAX_LEVELS = 99
MAX_BATCH = 64
CELL = f"give a finite number, a text of at most {MAX_TEXT} characters, or null"
EXAMPLE: dict[str, Any] = {
    "bars": {
        "timestamp": ["2024-01-02", "2024-01-03"],
        "open": [187.2, 184.2],
        "high": [188.4, 185.9],
        "low": [183.9, 183.4],
        "close": [185.6, 184.3],
        "volume": [82488700, 58414500],
    },
    "horizon": 5,
}
BARS = "give a list of records, as [{...}, ...], or lists by column, as {...: [...], ...}"


def _cell(source: Any, handler: Any) -> core_schema.CoreSchema:
    """A union that says in one line what it takes."""
    number = core_schema.float_schema(strict=True, allow_inf_nan=False)
    text = core_schema.str_schema(strict=True, max_length=MAX_TEXT)
    whole = core_schema.int_schema(strict=True, ge=-(2**63), lt=2**63)
    return core_schema.union_schema(
        [whole, number, text, core_schema.none_schema()],
        mode="left_to_right",
        custom_error_type="cell",
        custom_error_message=CELL,
    )


Cell = Annotated[Any, GetPydanticSchema(_cell)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Record = Annotated[dict[Name, Cell], Field(max_length=MAX_COLUMNS)]
Records = Annotated[list[Record], Field(min_length=1, max_length=MAX_BARS)]
Column = Annotated[list[Cell], Field(max_length=MAX_BARS)]
Columns = Annotated[dict[Name, Column], Field(min_length=1, max_length=MAX_COLUMNS)]


def _shape(bars: Any) -> str | None:
    return "records" if isinstance(bars, list) else "columns" if isinstance(bars, dict) else None


Bars = Annotated[
    Annotated[Records, Tag("records")] | Annotated[Columns, Tag("columns")],
    Discriminator(_shape, custom_error_type="bars", custom_error_message=BARS),
]
Level = Annotated[float, Field(gt=0, lt=1)]


class Hints(BaseModel):
    """How bars are read."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    id: Name | None = Field(None, description="Column of tickers, if its name is unusual.")
    time: Name | None = Field(None, description="Column of times, if its name is unusual.")
    value: Name | None = Field(None, description="Plain series: column to forecast.")
    dates: Literal["dmy", "mdy", "ymd"] | None = Field(None, description="Order of numeric dates, if ambiguous.")
    decimal: Literal["point", "comma"] | None = Field(None, description="Decimal mark of numbers sent as text.")
    resample: Name | None = Field(None, description="Plain series: even rows by this rule, as 1h:mean or 1d:sum.")
    strict: bool = Field(False, description="Refuse bars of which one ticker cannot be used.")


class Tables(Hints):
    """Bars in JSON."""

    model_config = ConfigDict(strict=True)

    bars: Bars = Field(description="timestamp, [ticker,] open, high, low, close, volume; or a plain series.")
    market: Bars | None = Field(None, description="Bars of an index, of a universe or of VIX, which features read.")
    static: Bars | None = Field(None, description="Plain series: what never changes of each, one row per series.")

    @model_validator(mode="after")
    def _columns_are_one_table(self) -> "Tables":
        for name, bars in (("bars", self.bars), ("market", self.market), ("static", self.static)):
            if isinstance(bars, dict) and len({len(column) for column in bars.values()}) > 1:
                raise ValueError(f"the columns of {name} differ in length: give one value per row in each")
            if isinstance(bars, dict) and not next(iter(bars.values())):
                raise ValueError(f"{name} has no rows: load some bars first")
        return self


class Asked(BaseModel):
    """What a forecast is asked with, beside its bars."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    horizon: int | None = Field(None, ge=1, le=MAX_HORIZON, description="Bars ahead; by default the model's own.")
    quantile_levels: list[Level] | None = Field(
        None, min_length=1, max_length=MAX_LEVELS, description="Distinct, between 0 and 1; by default seven."
    )
    as_of: str | None = Field(
        None, max_length=MAX_TEXT, description="Forecast as if nothing after this were known: a date, or a time."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Of the sampled paths.")
    samples: int = Field(256, ge=2, le=MAX_SAMPLES, description="Paths, for steps beyond the model's last horizon.")
    calibration: Literal["auto", "on", "off"] = "auto"
    calendar: str | None = Field(None, max_length=MAX_TEXT, description="Exchange that dates the steps, as XNYS.")
    adapter: Name | None = Field(None, description="Of /v1/adapters, or by_ticker: each ticker's own, if it has one.")

    def of_pipeline(self) -> dict[str, Any]:
        """As arguments of the pipeline."""
        names = ("horizon", "quantile_levels", "as_of", "seed", "samples", "calibration", "calendar", "strict")
        given = {name: getattr(self, name) for name in (*names, "adapter")}
        return {name: value for name, value in given.items() if value is not None}


class ForecastRequest(Asked, Tables):
    """Bars, and what to forecast of them."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})


class UploadRequest(Asked, Hints):
    """A file of prices or of plain series, and what to forecast of it, as fields of a form."""

    file: UploadFile = Field(description="csv, csv.gz or parquet")
    market: UploadFile | None = Field(None, description="A file of an index, of a universe or of VIX.")
    static: UploadFile | None = Field(None, description="Plain series: a file of what never changes of each.")

    @field_validator("quantile_levels", mode="before")
    @classmethod
    def _with_commas(cls, levels: Any) -> Any:
        """`0.1,0.9` in one field, or a field each."""
        return levels[0].split(",") if isinstance(levels, list) and len(levels) == 1 else levels


class BatchRequest(BaseModel):
    """Several forecasts; each is answered, or refused, by itself."""

    model_config = ConfigDict(extra="forbid", strict=True)
    requests: list[ForecastRequest] = Field(min_length=1, max_length=MAX_BATCH)


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise Refusal(400, "bad_json", f"the body is no JSON: {error}") from None


class StrictRoute(APIRoute):
    """A route whose body is strict JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def strict(request: Request) -> Response:
            if self.body_field is not None and not is_json(request):
                raise Refusal(415, "content_type", "send JSON, with Content-Type: application/json")
            return await answer(_StrictRequest(request.scope, request.receive))

        return strict


class UploadRoute(APIRoute):
    """A route of forms with files, beside one of JSON at the same path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        is_form = scope["type"] == "http" and content_type(Request(scope)) == "multipart/form-data"
        return super().matches(scope) if is_form else (Match.NONE, {})


def content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(request: Request) -> bool:
    return content_type(request) == "application/json"
