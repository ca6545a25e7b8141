"""Return tokens: standardised returns <-> bins.

A token is the bin of `log(close[t] / close[t-1]) / sigma[t-1]`: what is left of a return once the volatility known
before it is divided out. The cumulative return to a horizon beyond the next bar has bins of its own, as many.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers.tokenization_utils import PreTrainedTokenizer

from .laws_tsf_llm import check_edges


class TsfLlmTokenizer(PreTrainedTokenizer):
    """Standardised returns <-> bins `0..n_bins-1`; then come `<pad>` and `<bar>`.

    Args:
        n_bins: number of bins, tails included; even, so that zero can be an edge.
        bin_edges: fitted state, `n_bins + 1` increasing numbers; `fit` sets them.
        law_edges: fitted state, as many for each horizon beyond 1; `fit_laws` sets them.

    No token ends a path. `eos_token` is `<pad>`, for trl wants one; models never generate it.
    """

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 (declared by the base class)
    vocab_files_names: dict[str, str] = {}  # noqa: RUF012
    TAIL_SHARE = 0.005  # of the data, beyond which bins are as wide as the tail needs
    TAIL_BINS = 8  # on each side
    TAIL_REACH = 10  # times as far as the body at most: real crashes lie within, a split beyond it
    MOST_BINS = 1_000_000

    def __init__(
        self,
        n_bins: int = 256,
        bin_edges: Sequence[float] | None = None,
        law_edges: dict[str, list[float]] | None = None,
        **kwargs: Any,
    ):
        if not isinstance(n_bins, int) or not 4 * self.TAIL_BINS <= n_bins <= self.MOST_BINS or n_bins % 2:
            raise ValueError(
                f"n_bins={n_bins!r}: use an even number of at least {4 * self.TAIL_BINS}, at most {self.MOST_BINS}"
            )
        if bin_edges is not None and not _are_increasing(bin_edges, n_bins + 1):
            raise ValueError(f"bin_edges must be {n_bins + 1} increasing numbers, got {bin_edges!s:.99}: fit it again")
        check_edges(law_edges, n_bins + 1, _are_increasing)
        self.n_bins = n_bins
        ordered = sorted((law_edges or {}).items(), key=lambda item: int(item[0]))  # JSON sorts them as texts
        self.law_edges = {h: [float(edge) for edge in edges] for h, edges in ordered}
        self.bin_edges = None if bin_edges is None else [float(edge) for edge in bin_edges]
        self._names = [f"r{i}" for i in range(n_bins)] + ["<pad>", "<bar>"]
        self._ids = {token: i for i, token in enumerate(self._names)}
        special = {"pad_token": "<pad>", "eos_token": "<pad>", "extra_special_tokens": ["<bar>"]}
        kwargs = {**special, "padding_side": "left", **kwargs}
        super().__init__(n_bins=n_bins, bin_edges=self.bin_edges, law_edges=self.law_edges, **kwargs)

    def fit(self, standard_returns: np.ndarray) -> "TsfLlmTokenizer":
        """Edges from the data: equal shares in the body, geometric widths in both tails, and an edge at zero.

        The outer edges are the farthest returns, but for those that are no tail: a jump of a hundred deviations falls
        into the outer bin, and does not widen it.

        Raises:
            ValueError: for too few returns to place the edges.
        """
        self.bin_edges = self.init_kwargs["bin_edges"] = self._edges_of(standard_returns, "returns")
        return self

    def fit_laws(self, returns_NH: np.ndarray, horizons: Sequence[int]) -> "TsfLlmTokenizer":
        """Edges of each far horizon, from the `horizon_returns` to it.

        Raises:
            ValueError: as `fit`.
        """
        found = {str(h): self._edges_of(returns_NH[:, i], f"returns over {h} bars") for i, h in enumerate(horizons)}
        self.law_edges = self.init_kwargs["law_edges"] = found
        return self

    def _edges_of(self, returns: np.ndarray, what: str) -> list[float]:
        z = np.sort(returns[np.isfinite(returns)])
        if len(z) < self.n_bins:
            raise ValueError(
                f"{len(z)} {what} for {self.n_bins} bins: fit on more bars, or use fewer bins or shorter horizons"
            )
        body = np.quantile(z, np.linspace(self.TAIL_SHARE, 1 - self.TAIL_SHARE, self.n_bins - 2 * self.TAIL_BINS + 1))
        reach = self.TAIL_REACH * np.abs(body[[0, -1]]).max() or np.inf
        low, high = np.clip(z[[0, -1]], -reach, reach)
        low, high = min(low, -1e-6), max(high, 1e-6)  # zero lies inside, even for prices that only rise
        left = body[0] - _tail(body[0] - low, self.TAIL_BINS)[::-1]
        right = body[-1] + _tail(high - body[-1], self.TAIL_BINS)
        edges = np.concatenate((left, body, right))
        inner = slice(1, -1)
        edges[inner][np.abs(edges[inner]).argmin()] = 0.0
        edges = np.maximum.accumulate(edges)
        edges += 1e-9 * (np.arange(len(edges)) - np.flatnonzero(edges == 0)[0])  # ties would give bins without width
        return edges.tolist()

    @property
    def fitted_edges(self) -> np.ndarray:
        """`bin_edges`, or a `ValueError` before `fit`."""
        if self.bin_edges is None:
            raise ValueError("the return bins are not fitted: call processor.fit(bars, through=...) first")
        return np.asarray(self.bin_edges)

    @property
    def bin_centers(self) -> np.ndarray:
        """Middles of the bins, `[n_bins]`."""
        edges = self.fitted_edges
        return (edges[1:] + edges[:-1]) / 2

    @property
    def horizons(self) -> list[int]:
        """Bars ahead that have bins."""
        return [1, *map(int, self.law_edges)]

    def edges_of(self, horizon: int) -> np.ndarray:
        """Those of a horizon, `[n_bins + 1]`, or a `ValueError` where it was not fitted."""
        if horizon > 1 and str(horizon) not in self.law_edges:
            raise ValueError(
                f"the bins of {horizon} bars ahead are not fitted, but those of {self.horizons}: "
                "load model and processor from one folder"
            )
        return self.fitted_edges if horizon == 1 else np.asarray(self.law_edges[str(horizon)])

    def encode_returns(self, standard_returns: np.ndarray, unknown: int = -100, horizon: int = 1) -> np.ndarray:
        """Bin of every standardised return, int64; `unknown` for NaN. Beyond the outer edges the outer bin."""
        bins = np.searchsorted(self.edges_of(horizon)[1:-1], np.nan_to_num(standard_returns), side="right")
        return np.where(np.isnan(standard_returns), unknown, bins)

    def decode_returns(self, ids: np.ndarray) -> np.ndarray:
        """Bin centers of the ids, NaN for special tokens and for -100."""
        return np.append(self.bin_centers, [np.nan, np.nan])[np.maximum(ids, -1)]

    @property
    def bar_token_id(self) -> int:
        return self.n_bins + 1

    @property
    def vocab_size(self) -> int:
        return len(self._names)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._ids)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return text.split()

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, self._ids["<pad>"])

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        return ()  # the edges are part of tokenizer_config.json


def _are_increasing(edges: Any, count: int) -> bool:
    if not isinstance(edges, list | tuple | np.ndarray) or len(edges) != count:
        return False
    numbers = all(isinstance(edge, int | float | np.number) for edge in edges)
    return numbers and bool(np.isfinite(edges).all() and (np.diff(edges) > 0).all())


def _tail(width: float, bins: int) -> np.ndarray:
    """Distances of `bins` outer edges from the body, growing to `width`; at least a little where the tail is empty."""
    return max(width, 1e-6) * np.geomspace(1 / 2**bins, 1, bins)


TsfLlmTokenizer.register_for_auto_class()

__all__ = ["TsfLlmTokenizer"]
