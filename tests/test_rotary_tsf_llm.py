"""Rotary positions: turns and angles by hand; against DeepSeek they are compared in whole attention layers."""

import math

import pytest
import torch

from tsf_llm.rotary_tsf_llm import TsfLlmRotaryEmbedding, rotate, yarn_scaling


def test_a_pair_turns_by_its_position_over_theta(tiny_config, close):
    config = tiny_config()
    rotary = TsfLlmRotaryEmbedding(config)
    x, positions = torch.randn(1, 2, 6, config.qk_rope_head_dim), torch.arange(6)[None]
    turned = rotate(x, *rotary(x, positions))
    half = config.qk_rope_head_dim // 2
    for i in range(half):
        angle = positions[0] / config.rope_parameters["rope_theta"] ** (2 * i / config.qk_rope_head_dim)
        pair = torch.complex(x[..., i], x[..., i + half]) * torch.polar(torch.ones(6), angle)
        close(turned[..., i], pair.real)
        close(turned[..., i + half], pair.imag)


def test_products_know_distances_alone(tiny_config, close):
    config = tiny_config()
    rotary, q, k = TsfLlmRotaryEmbedding(config), *torch.randn(2, 1, 1, 1, config.qk_rope_head_dim)
    near, far = (
        (rotate(q, *rotary(q, torch.tensor([[p + 3]]))) * rotate(k, *rotary(k, torch.tensor([[p]])))).sum()
        for p in (0, 20)
    )
    close(near, far)


@pytest.mark.parametrize(
    ("rope", "scale"),
    [
        ({"rope_type": "default"}, 1.0),
        ({"rope_type": "yarn", "factor": 4.0}, 1.0),
        ({"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.7}, (0.07 * math.log(4) + 1) ** 2),
    ],
)
def test_yarn_scales_the_softmax_where_deepseek_does(tiny_config, rope, scale):
    assert yarn_scaling(tiny_config(rope_parameters={"rope_theta": 10000.0, **rope})) == pytest.approx(scale)
