"""What some language models add to a decoder: local layers, bounds, norms of branches, slowed angles."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from visuomotor.nn.decoder import Decoder, DecoderConfig, RopeStretch, rotation
from visuomotor.nn.mixture import Segment, join, repeat, run

CONFIG = DecoderConfig(
    width=12,
    layers=4,
    heads=4,
    kv_heads=2,
    head_width=4,
    mlp_width=20,
    window=3,
    global_every=2,
    rope_base=50.0,
    local_rope_base=10.0,
    branch_norm=True,
    softcap=1.5,
    query_scale=0.7,
)


def made(config: DecoderConfig) -> Decoder:
    torch.manual_seed(0)
    decoder = Decoder(config)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    return decoder.double()


def tokens(count: int) -> torch.Tensor:
    return torch.randn(2, count, 12, generator=torch.Generator().manual_seed(0)).double()


def slow(decoder: Decoder, rows: torch.Tensor) -> torch.Tensor:
    """One sequence, token by token and head by head, from the definitions."""
    config = decoder.config

    def norm(part, row):
        return row / (row.square().mean() + part.eps).sqrt() * part.weight

    def turned(head, position, base):
        pairs = []
        for i in (0, 1):
            angle = torch.tensor(position * base ** (-i / 2), dtype=torch.float32).double()
            pairs.append(
                (
                    head[i] * angle.cos() - head[2 + i] * angle.sin(),
                    head[2 + i] * angle.cos() + head[i] * angle.sin(),
                )
            )
        return torch.stack([pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1]])

    for level, layer in enumerate(decoder.levels):
        local = level % 2 == 0
        base = config.local_rope_base if local else config.rope_base
        normed = [norm(layer.attention_norm, row) for row in rows]
        asked = [[turned(h, p, base) for h in layer.query(row).split(4)] for p, row in enumerate(normed)]
        keys = [[turned(h, p, base) for h in layer.key(row).split(4)] for p, row in enumerate(normed)]
        values = [layer.value(row).split(4) for row in normed]
        new = []
        for p, row in enumerate(rows):
            seen = range(max(0, p - 2), p + 1) if local else range(p + 1)
            found = []
            for h in range(4):
                scores = torch.stack([asked[p][h] @ keys[q][h // 2] * 0.7 for q in seen])
                weights = (1.5 * torch.tanh(scores / 1.5)).softmax(0)
                found.append(weights @ torch.stack([values[q][h // 2] for q in seen]))
            row = row + norm(layer.attention_end, layer.out(torch.cat(found)))
            inner = norm(layer.mlp_norm, row)
            hidden = nn.functional.silu(layer.gate(inner)) * layer.up(inner)
            new.append(row + norm(layer.mlp_end, layer.down(hidden)))
        rows = torch.stack(new)
    return torch.stack([norm(decoder.norm, row) for row in rows])


@torch.no_grad()
def test_local_layers_bounds_and_norms_of_branches_equal_the_slow_definition() -> None:
    decoder, given = made(CONFIG), tokens(7)
    (found,), _ = run([decoder], [Segment(tokens=given, causal=True)])
    for sample in range(2):
        # the angles are float32, and their rates are rounded at other places
        torch.testing.assert_close(found[sample], slow(decoder, given[sample]), rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_local_layers_see_the_same_from_what_was_kept(softcap) -> None:
    decoder, given = made(replace(CONFIG, softcap=softcap)), tokens(9)
    real = torch.tensor([[True] * 5, [True, True, False, True, False]])
    begin = Segment(tokens=given[:, :5], causal=True, real=real)
    all_real = torch.cat([real, torch.ones(2, 4, dtype=torch.bool)], dim=1)
    (whole,), _ = run([decoder], [Segment(tokens=given, causal=True, real=all_real)])
    whole = whole[:, 5:]
    _, (past,) = run([decoder], [begin])
    for index in range(4):
        one = Segment(tokens=given[:, 5 + index : 6 + index], causal=True)
        (end,), (new,) = run([decoder], [one], [past])
        torch.testing.assert_close(end[:, 0], whole[:, index], rtol=0, atol=1e-12)  # order of sums
        past = join(past, new)
    twice = Segment(tokens=given[:, 8:].repeat(2, 1, 1), causal=True)
    assert run([decoder], [twice], [repeat(past, 2)])[0][0].shape == (4, 1, 12)
    for sample in range(2):  # padding left out from the beginning
        bare = torch.cat([given[sample, :5][real[sample]], given[sample, 5:]])[None]
        (alone,), _ = run([decoder], [Segment(tokens=bare, causal=True)])
        torch.testing.assert_close(alone[0, -4:], whole[sample], rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_past_without_positions_is_refused_by_local_layers() -> None:
    decoder = made(CONFIG)
    segment = Segment(tokens=tokens(2), causal=True)
    _, (past,) = run([decoder], [segment])
    with pytest.raises(ValueError, match="without positions"):
        run([decoder], [segment], [past._replace(positions=None)])


@torch.no_grad()
def test_nothing_farther_back_than_the_windows_reach_is_seen() -> None:
    decoder = made(replace(CONFIG, global_every=100))
    given = tokens(12)
    (plain,), _ = run([decoder], [Segment(tokens=given, causal=True)])
    moved = given.clone()
    moved[:, 0] += 1
    (changed,), _ = run([decoder], [Segment(tokens=moved, causal=True)])
    reach = 4 * 2  # each of four layers looks two back
    assert not torch.equal(plain[:, reach], changed[:, reach])
    torch.testing.assert_close(plain[:, reach + 1 :], changed[:, reach + 1 :], rtol=0, atol=0)


def test_angles_that_turn_often_are_left_and_seldom_ones_are_slowed() -> None:
    stretch = RopeStretch(factor=8.0, context=1000)
    positions = torch.tensor([[1]])
    rates = torch.tensor([100.0 ** (-i / 8) for i in range(8)])
    cosine, sine = rotation(positions, 16, 100.0, stretch)
    found = torch.atan2(sine, cosine).flatten()
    for rate, slowed in zip(rates.tolist(), found.tolist()):
        turns = 1000 * rate / (2 * math.pi)
        if turns > 4:
            assert slowed == pytest.approx(rate, rel=1e-5)
        elif turns < 1:
            assert slowed == pytest.approx(rate / 8, rel=1e-5)
        else:
            kept = (turns - 1) / 3
            assert slowed == pytest.approx(kept * rate + (1 - kept) * rate / 8, rel=1e-5)
    cosine, sine = rotation(positions, 16, 100.0, RopeStretch(factor=4.0))
    torch.testing.assert_close(torch.atan2(sine, cosine).flatten(), rates / 4)
    with pytest.raises(ValueError, match="slow < fast"):
        RopeStretch(factor=2.0, slow=4.0, fast=1.0)


def test_which_layers_are_local() -> None:
    assert [CONFIG.local(level) for level in range(4)] == [True, False, True, False]
    assert not any(replace(CONFIG, window=None).local(level) for level in range(4))
    with pytest.raises(ValueError, match="at least 1"):
        replace(CONFIG, window=0)
