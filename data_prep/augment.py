"""Augmentation of training windows: random changes of the features that leave every remaining label right.

Design choices:
* A changed row t is made of rows <= t only, and of draws that no feature enters. So what a label is predicted from
  still ends before the label.
* Labels are never changed. Where a change makes a bar's label wrong for what is seen, the label is dropped. In series
  form alone `mixup` and `scale` change labels too, together with the past and the seasons that they are in units of:
  there mixup takes the window of another series at the same time (TSMixup, Ansari et al. 2024), so nothing mixed in is
  later than what it is mixed into.
* Of plain series the time of a row and what is known in advance are never changed.
* One window and one generator at a time: what a window becomes depends on no other row of the batch.
* Context dropout hides the market of a whole window, as it is hidden from a forecast that is given none.
* The order is that of `AUGMENTATIONS`, and each has draws of its own: switching one on changes no other.

Shapes: T bars, F features.
"""

from collections.abc import Sequence

import numpy as np

# name: (what it does, strengths above 0 and below this)
AUGMENTATIONS: dict[str, tuple[str, float]] = {
    "mixup": ("mixes in an earlier window; A of its Beta(A + 1, A) share", np.inf),
    "warp": ("delays a stretch of rows smoothly; most rows lost per row", 1.0),
    "scale": ("multiplies all features by one factor; deviation of its logarithm", np.inf),
    "jitter": ("adds noise to every feature; its deviation, in units of the scaled features", np.inf),
    "crop": ("drops the oldest bars; largest share dropped", 1.0),
}
CONTEXTS = ("market", "implied")  # groups of features that a forecast may have to do without
DROPOUT = 1000  # the stream of its draws, beside those of the augmentations
SMALLEST_DELAY = 1e-6  # rows; below it a row has not moved


def parse_augmentations(words: Sequence[str]) -> dict[str, float]:
    """Strengths by name, in the order in which they are applied.

    >>> parse_augmentations(["crop=0.3", "jitter=0.02"])
    {'jitter': 0.02, 'crop': 0.3}

    Raises:
        ValueError: for an unknown name, one given twice, or a strength out of range.
    """
    given: dict[str, float] = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in AUGMENTATIONS:
            raise ValueError(f"augment has no {name!r}: choose from {', '.join(AUGMENTATIONS)}, as in jitter=0.02")
        if name in given:
            raise ValueError(f"augment names {name} twice: give one strength")
        try:
            given[name] = float(text)
        except ValueError:
            raise ValueError(f"augment {word!r} has no number: write it as {name}=0.1") from None
        if not 0 < given[name] < AUGMENTATIONS[name][1]:
            raise ValueError(f"augment {word!r}: the strength must lie above 0 and below {AUGMENTATIONS[name][1]}")
    return {name: given[name] for name in AUGMENTATIONS if name in given}


def generator(name: str, *, seed: int, epoch: int, index: int) -> np.random.Generator:
    """The draws of one augmentation for one window of one epoch, the same in whichever process and order."""
    return np.random.default_rng([seed, epoch, index, list(AUGMENTATIONS).index(name)])


def dropped(share: float, contexts: int, *, seed: int, epoch: int, index: int) -> np.ndarray:
    """Which of so many contexts one window of one epoch goes without, bool `[contexts]`.

    In that share of windows some: each choice of one or more is as likely as the others.
    """
    rng = np.random.default_rng([seed, epoch, index, DROPOUT])
    choice = int(rng.integers(1, 2**contexts)) if rng.uniform() < share else 0
    return choice >> np.arange(contexts) & 1 > 0


def jitter(values: np.ndarray, mask: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """`x + strength * N(0, 1)` on the observed rows of `values [T,F]`."""
    noise = rng.standard_normal(values.shape, dtype=np.float32) * np.float32(strength)
    return np.where(mask[:, None], values + noise, values)


def scale(values: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """`x * exp(strength * N(0, 1))`, one factor for the window."""
    return values * np.float32(np.exp(strength * rng.standard_normal()))


def warp(
    values: np.ndarray, mask: np.ndarray, strength: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Delays a random stretch: row t shows what stood `d(t) >= 0` observed rows before it, between two rows a mix.

    `d(t) = u L / pi * sin(pi (t - start) / L)^2` within the stretch of L rows, u uniform below `strength`: time never
    runs backwards as `|d'| < 1`, and the last row is never moved. Returns the values and where rows moved, `[T]`.
    """
    last = len(mask) - 1
    length = rng.uniform(0.25, 0.75) * max(last, 1)
    start = rng.uniform() * max(last - length, 0)
    phase = np.clip((np.arange(len(mask)) - start) / length, 0, 1)
    phase[-1] = 0
    delay = rng.uniform(0, strength) * length / np.pi * np.sin(np.pi * phase) ** 2
    rank = np.cumsum(mask) - 1.0
    source = np.where(delay > SMALLEST_DELAY, np.maximum(rank - delay, 0), rank)
    seen, at = values[mask], source[mask]
    below = at.astype(np.int64)
    part = (at - below)[:, None].astype(np.float32)
    warped = values.copy()
    warped[mask] = (1 - part) * seen[below] + part * seen[np.minimum(below + 1, len(seen) - 1)]
    return warped, mask & (source != rank)


def crop(mask: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """The mask `[T]` without a random number of the oldest bars, at most the share `strength`, never the last."""
    first = int(mask.argmax())
    kept = mask.copy()
    kept[: first + int(rng.uniform(0, strength) * (len(mask) - first))] = False
    return kept


def mixup(
    values: np.ndarray, other: np.ndarray, allowed: np.ndarray, strength: float, rng: np.random.Generator
) -> np.ndarray:
    """`w x + (1 - w) x'` on the rows `allowed [T]`, with w from Beta(A + 1, A) and the label of x.

    Mixing features with w from Beta(A, A) and the losses of both labels with w and 1 - w (Zhang et al. 2018) has the
    same expectation as this, over pairs in both orders: the weight of a label becomes its chance to be the one in use.
    So it is right for every loss, and no label is a mix that never happened.
    """
    weight = np.float32(rng.beta(strength + 1, strength))
    return np.where(allowed[:, None], weight * values + (1 - weight) * other, values)


def mixed(values: np.ndarray, others: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`w x + (1 - w) x'` of `[B,...]`, with a weight `[B]` for each window.

    >>> mixed(np.array([[1.0], [2.0]]), np.array([[3.0], [4.0]]), np.array([1.0, 0.5])).tolist()
    [[1.0], [3.0]]
    """
    weight = weight.reshape(-1, *[1] * (values.ndim - 1))
    return weight * values + (1 - weight) * others
