import pytest
import torch

from visuomotor.nn.detr import DecoderLayer, EncoderLayer, PlacedAttention, sine_grid, sine_table

WIDTH, HEADS, FEED = 16, 2, 24


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_attention_is_that_of_torch() -> None:
    ours, theirs = PlacedAttention(WIDTH, HEADS), torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    queries, keys, values = random(2, 3, WIDTH), random(2, 5, WIDTH, seed=1), random(2, 5, WIDTH, seed=2)
    mask = torch.tensor([[True] * 5, [True, True, False, True, False]])
    expected, _ = theirs(queries, keys, values, key_padding_mask=~mask)
    torch.testing.assert_close(ours(queries, keys, values, mask), expected)
    expected, _ = theirs(keys, keys, values)
    torch.testing.assert_close(ours(keys, keys, values), expected)


def test_layers_without_places_are_those_of_torch() -> None:
    tokens, memory, none = random(2, 4, WIDTH), random(2, 6, WIDTH, seed=1), torch.zeros(1, 4, WIDTH)
    encoder = EncoderLayer(WIDTH, HEADS, FEED).eval()
    theirs = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, FEED, batch_first=True).eval()
    theirs.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder(tokens, none), theirs(tokens))
    decoder = DecoderLayer(WIDTH, HEADS, FEED).eval()
    other = torch.nn.TransformerDecoderLayer(WIDTH, HEADS, FEED, batch_first=True).eval()
    other.load_state_dict(decoder.state_dict())
    torch.testing.assert_close(decoder(tokens, none, memory, memory), other(tokens, memory))


def test_places_tell_equal_tokens_apart() -> None:
    layer = EncoderLayer(WIDTH, HEADS, FEED).eval()
    tokens = random(1, 1, WIDTH).expand(-1, 3, -1)
    same = layer(tokens, torch.zeros(1, 3, WIDTH))
    torch.testing.assert_close(same[0, 0], same[0, 2])
    other = random(1, 1, WIDTH, seed=1)
    placed = layer(torch.cat([tokens, other], 1), sine_table(4, WIDTH)[None])
    assert (placed[0, 0] - placed[0, 2]).abs().max() > 1e-4


def test_masked_tokens_are_not_seen() -> None:
    layer, mask = EncoderLayer(WIDTH, HEADS, FEED).eval(), torch.tensor([[True, True, False]])
    tokens, places = random(1, 3, WIDTH), sine_table(3, WIDTH)[None]
    changed = tokens.clone()
    changed[:, 2] = 50
    torch.testing.assert_close(layer(tokens, places, mask)[:, :2], layer(changed, places, mask)[:, :2])


def test_dropout_acts_in_training_only() -> None:
    layer, tokens, places = (
        EncoderLayer(WIDTH, HEADS, FEED, 0.5),
        random(1, 3, WIDTH),
        torch.zeros(1, 3, WIDTH),
    )
    assert not torch.equal(layer(tokens, places), layer(tokens, places))
    layer.eval()
    assert torch.equal(layer(tokens, places), layer(tokens, places))


def test_positions_by_hand() -> None:
    table = sine_table(3, 4)
    two = torch.tensor(2.0)
    expected = torch.stack([two.sin(), two.cos(), (two / 100).sin(), (two / 100).cos()])
    torch.testing.assert_close(table[2], expected)
    grid = sine_grid(2, 3, 8)
    assert grid.shape == (6, 8)
    row, column = torch.tensor(torch.pi), torch.tensor(2 * torch.pi)  # 1 of 2, and 3 of 3
    expected = torch.cat(
        [torch.stack([a.sin(), a.cos(), (a / 100).sin(), (a / 100).cos()]) for a in (row, column)]
    )
    torch.testing.assert_close(grid[2], expected, atol=1e-5, rtol=0)  # the last place is off by its 1e-6
    with pytest.raises(ValueError, match="multiple of 4"):
        sine_grid(2, 2, 6)


def test_tokens_that_are_not_asked_for_change_nothing() -> None:
    torch.manual_seed(0)
    layer = EncoderLayer(16, 2, 32, dropout=0.0)
    tokens, places = torch.randn(3, 5, 16), torch.randn(1, 5, 16)
    mask = torch.tensor([True, True, True, False, True]).expand(3, -1)
    for real in (None, mask):
        torch.testing.assert_close(layer(tokens, places, real, first=2), layer(tokens, places, real)[:, :2])


def test_a_decoder_begins_with_zeros() -> None:
    torch.manual_seed(0)
    layer = DecoderLayer(16, 2, 32, dropout=0.0)
    torch.nn.init.normal_(layer.self_attn.in_proj_bias)
    places, memory = torch.randn(1, 5, 16), torch.randn(3, 7, 16)
    for training in (True, False):
        layer.train(training)
        torch.testing.assert_close(
            layer(None, places, memory, memory), layer(torch.zeros(3, 5, 16), places, memory, memory)
        )
