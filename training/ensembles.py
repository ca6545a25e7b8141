"""Several models as one: the mean of their probabilities, of the next token and of each far horizon alike.

It answers as a causal model does, so that it can be scored and be the teacher of a student.

Shapes: B batch, S sequence, V vocabulary, H far horizons.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..modeling_tsf_llm import TsfLlmCausalLMOutput, TsfLlmForCausalLM


class Ensemble(torch.nn.Module):
    """Causal models of one processor; the far horizons may have models of their own.

    Raises:
        ValueError: they read other features, or name other bins or horizons.
    """

    def __init__(self, models: Sequence[TsfLlmForCausalLM], far: Sequence[TsfLlmForCausalLM] | None = None):
        super().__init__()
        self.models, self.far = (torch.nn.ModuleList(some or ()) for some in (models, far))
        self.config, self.loss_function = models[0].config, models[0].loss_function
        for name in ("num_features", "vocab_size", "far_horizons"):
            if len({str(getattr(one.config, name)) for one in (*models, *self.far)}) > 1:
                raise ValueError(f"models of an ensemble differ in {name}: give models of one processor")
        self.eval()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def can_generate(self) -> bool:
        """Whether it is a causal LM, as elsewhere. Paths are sampled from single models alone."""
        return True

    def forward(self, **batch: torch.Tensor) -> TsfLlmCausalLMOutput:
        """`logits [B,S,V]` and `law_logits [B,S,H,bins]`: logarithms of the mean probabilities."""
        near = [model(**batch) for model in self.models]
        far = [model(**batch) for model in self.far] or near
        laws = None if far[0].law_logits is None else log_mean([one.law_logits for one in far])
        return TsfLlmCausalLMOutput(logits=log_mean([one.logits for one in near]), law_logits=laws)


def log_mean(logits: Sequence[Any]) -> torch.Tensor:
    """The logarithm of the mean of the probabilities, float32, of the logits' shape."""
    return torch.stack([one.float().log_softmax(-1) for one in logits]).logsumexp(0) - math.log(len(logits))
