"""Several experts under one attention: equal to a slow definition, and to itself with a cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from visuomotor.nn.decoder import Decoder, DecoderConfig
from visuomotor.nn.mixture import Segment, join, remember, run

WIDTHS = (12, 8)
CONDITION = 6


@pytest.fixture
def experts() -> list[Decoder]:
    torch.manual_seed(0)
    common = {
        "layers": 3,
        "heads": 4,
        "kv_heads": 2,
        "head_width": 4,
        "norm_offset": 1.0,
        "activation": "gelu_tanh",
    }
    made = [
        Decoder(DecoderConfig(width=WIDTHS[0], mlp_width=20, **common)),
        Decoder(DecoderConfig(width=WIDTHS[1], mlp_width=16, condition=CONDITION, **common)),
    ]
    for parameter in nn.ModuleList(made).parameters():
        nn.init.normal_(parameter, std=0.4)
    return [expert.double() for expert in made]


def tokens(count: int, expert: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, count, WIDTHS[expert], generator=torch.Generator().manual_seed(seed)).double()


@pytest.fixture
def segments(experts) -> list[Segment]:
    """A padded prefix, a causal continuation, and beside it a block of another expert."""
    real = torch.tensor([[True, True, False, True, False], [False, True, True, True, True]])
    condition = torch.randn(2, 1, CONDITION, generator=torch.Generator().manual_seed(9)).double()
    return [
        Segment(tokens=tokens(5, 0), real=real),
        Segment(tokens=tokens(3, 0, 1), block=1, branch=1, causal=True),
        Segment(tokens=tokens(1, 1, 2), expert=1, block=1, branch=2, steering=experts[1].steer(condition)),
        Segment(tokens=tokens(4, 1, 3), expert=1, block=2, branch=2, steering=experts[1].steer(condition)),
    ]


def slow_norm(norm, row, steering):
    row = row / (row.square().mean() + norm.eps).sqrt()
    if norm.weight is not None:
        return row * (1 + norm.weight)
    scale, shift, _ = steering.chunk(3)
    return row * (1 + scale) + shift


def slow_rope(head, position, base):
    half = len(head) // 2
    turned = head.clone()
    for i in range(half):
        angle = torch.tensor(position * base ** (-2 * i / len(head)), dtype=torch.float32)
        cosine, sine = angle.cos().double(), angle.sin().double()
        turned[i] = head[i] * cosine - head[half + i] * sine
        turned[half + i] = head[half + i] * cosine + head[i] * sine
    return turned


def slow_sees(segments, query, key):
    """Whether token `query` sees token `key`; each is (segment, index)."""
    asking, asked = segments[query[0]], segments[key[0]]
    if asked.block > asking.block or asked.branch not in (0, asking.branch):
        return False
    return not (query[0] == key[0] and asking.causal and key[1] > query[1])


def slow_run(experts, segments, sample):
    """One sample, token by token, head by head; padding is left out before anything begins."""
    places = [
        (number, index)
        for number, segment in enumerate(segments)
        for index in range(segment.tokens.shape[1])
        if segment.real is None or segment.real[sample, index]
    ]

    def position(place):
        before = [p for p in places if slow_sees(segments, place, p) and p[0] != place[0]]
        within = [p for p in places if p[0] == place[0] and p[1] < place[1]]
        return len(before) + len(within)

    def steering(place, norm):
        table = segments[place[0]].steering
        return None if table is None else table[norm, sample, 0]

    stream = {place: segments[place[0]].tokens[sample, place[1]] for place in places}
    for level in range(experts[0].config.layers):
        asked = {}
        for place in places:
            layer = experts[segments[place[0]].expert].levels[level]
            normed = slow_norm(layer.attention_norm, stream[place], steering(place, 2 * level))
            base = layer.config.rope_base
            queries = [slow_rope(h, position(place), base) for h in layer.query(normed).split(4)]
            keys = [slow_rope(h, position(place), base) for h in layer.key(normed).split(4)]
            asked[place] = (queries, keys, layer.value(normed).split(4))
        for place in places:
            layer = experts[segments[place[0]].expert].levels[level]
            seen = [p for p in places if slow_sees(segments, place, p)]
            found = []
            for head in range(4):
                scores = torch.stack([asked[p][1][head // 2] @ asked[place][0][head] / 2 for p in seen])
                found.append(scores.softmax(0) @ torch.stack([asked[p][2][head // 2] for p in seen]))
            first, second = (steering(place, 2 * level + i) for i in (0, 1))
            gates = [1 if s is None else s.chunk(3)[2] for s in (first, second)]
            row = stream[place] + gates[0] * layer.out(torch.cat(found))
            normed = slow_norm(layer.mlp_norm, row, second)
            hidden = nn.functional.gelu(layer.gate(normed), approximate="tanh") * layer.up(normed)
            stream[place] = row + gates[1] * layer.down(hidden)
    return {
        place: slow_norm(experts[segments[place[0]].expert].norm, row, steering(place, -1))
        for place, row in stream.items()
    }


def test_the_mixture_equals_the_slow_definition(experts, segments) -> None:
    with torch.no_grad():
        found, _ = run(experts, segments)
        for sample in range(2):
            for (number, index), row in slow_run(experts, segments, sample).items():
                # the angles are float32, and their rates are rounded at other places
                torch.testing.assert_close(found[number][sample, index], row, rtol=0, atol=1e-7)


def test_remembered_segments_answer_as_if_all_were_run_at_once(experts, segments) -> None:
    whole, _ = run(experts, segments)
    past = remember(experts, segments[:1])
    past += remember(experts, segments[2:3], past)
    again, _ = run(experts, segments[3:], past)
    torch.testing.assert_close(again[0], whole[3], rtol=0, atol=1e-12)  # float64: the order of sums


def test_causal_tokens_one_by_one_equal_all_at_once(experts, segments) -> None:
    whole, _ = run(experts, segments[:2])
    past = remember(experts, segments[:1])
    grown = None
    for index in range(3):
        token = segments[1]._replace(tokens=segments[1].tokens[:, index : index + 1])
        (end,), (new,) = run(experts, [token], [*past, *([] if grown is None else [grown])])
        torch.testing.assert_close(end[:, 0], whole[1][:, index], rtol=0, atol=1e-12)
        grown = new if grown is None else join(grown, new)
    assert grown.keys[0].shape[2] == 3


def test_padding_dropped_equals_padding_masked(experts, segments) -> None:
    last = segments[3]
    masked, _ = run(experts, [segments[0], last])
    for sample in range(2):
        real = segments[0].real[sample]
        bare = Segment(tokens=segments[0].tokens[sample : sample + 1, real])
        steering = last.steering[:, sample : sample + 1]
        only = last._replace(tokens=last.tokens[sample : sample + 1], steering=steering)
        dropped, _ = run(experts, [bare, only])
        torch.testing.assert_close(dropped[1][0], masked[1][sample], rtol=0, atol=1e-12)


@pytest.mark.parametrize("insulated", [False, True])
def test_insulation_stops_the_gradient_of_one_expert_at_the_other(experts, segments, insulated) -> None:
    chosen = [segments[0], segments[3]._replace(insulated=insulated)]
    (_, end), _ = run(experts, chosen)
    end.square().sum().backward()
    reached = [any(p.grad is not None for p in expert.parameters()) for expert in experts]
    assert reached == [not insulated, True]


def test_insulation_does_not_change_what_is_computed(experts, segments) -> None:
    plain, _ = run(experts, segments)
    shielded, _ = run(experts, [segment._replace(insulated=True) for segment in segments])
    for one, other in zip(plain, shielded, strict=True):
        assert torch.equal(one, other)


def test_branches_do_not_reach_each_other(experts, segments) -> None:
    changed = [segments[0], segments[1]._replace(tokens=segments[1].tokens + 1), *segments[2:]]
    plain, _ = run(experts, segments)
    moved, _ = run(experts, changed)
    assert torch.equal(plain[3], moved[3])
    assert not torch.equal(plain[1], moved[1])


def test_steering_for_each_token_equals_one_call_a_token(experts) -> None:
    conditions = torch.randn(1, 4, CONDITION, generator=torch.Generator().manual_seed(1)).double()
    segment = Segment(tokens=tokens(4, 1), expert=1, causal=True, steering=experts[1].steer(conditions))
    (whole,), _ = run(experts, [segment])
    grown: list = []
    for index in range(4):
        one = segment._replace(
            tokens=segment.tokens[:, index : index + 1],
            steering=experts[1].steer(conditions[:, index : index + 1]),
        )
        (end,), (new,) = run(experts, [one], grown)
        grown = [new] if not grown else [join(grown[0], new)]
        torch.testing.assert_close(end[:, 0], whole[:, index], rtol=0, atol=1e-12)


def test_recomputing_changes_no_gradient(experts, segments) -> None:
    """Neither of segments that answer nor of those that are only remembered; and it does recompute."""
    grads, calls = [], []
    layer = experts[0].levels[0]
    layer.gate.register_forward_hook(lambda *_: calls.append(1))
    counts = []
    for recomputes in (False, True):
        experts[0].recomputes = recomputes
        calls.clear()
        ends, _ = run(experts, segments)
        (last,), _ = run(experts, segments[3:], remember(experts, segments[:1]))
        sum(end.square().sum() for end in (ends[1], ends[3], last)).backward(retain_graph=True)
        counts.append(len(calls))
        grads.append(
            [p.grad.clone() for expert in experts for p in expert.parameters() if p.grad is not None]
        )
        for expert in experts:
            expert.zero_grad(set_to_none=True)
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert counts[1] == 2 * counts[0]


def test_a_fresh_steered_decoder_is_the_identity_before_its_last_norm() -> None:
    torch.manual_seed(0)
    expert = Decoder(
        DecoderConfig(width=8, layers=2, heads=2, kv_heads=1, head_width=4, mlp_width=16, condition=4)
    )
    given = torch.randn(1, 3, 8)
    (end,), _ = run([expert], [Segment(tokens=given, steering=expert.steer(torch.randn(1, 1, 4)))])
    torch.testing.assert_close(end, given / (given.square().mean(-1, keepdim=True) + 1e-6).sqrt())


def test_experts_of_different_depth_are_refused(experts) -> None:
    config = replace(experts[1].config, layers=2)
    with pytest.raises(ValueError, match="equal layers"):
        run([experts[0], Decoder(config)], [Segment(tokens=tokens(2, 0))])
    with pytest.raises(ValueError, match="multiple of kv_heads"):
        replace(config, kv_heads=3)
