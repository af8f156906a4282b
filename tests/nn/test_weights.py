from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from visuomotor.errors import CheckpointError
from visuomotor.nn.weights import Made, load_named, named_weights, nested, part_of, unfilled


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 3)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.leave = nn.Linear(3, 5, bias=False)
        self.leave.weight = self.table.weight


def random_weights(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.randn(value.shape) if value.is_floating_point() else torch.tensor(7)
        for name, value in named_weights(network).items()
    }


def test_the_first_spelling_that_is_there_counts() -> None:
    given = random_weights(Small())
    names = {name: (f"new.{name}", f"old.{name}") for name in given}
    for front in ("new.", "old."):
        network = Small()
        load_named(network, {front + name: value for name, value in given.items()}, where="here", names=names)
        assert all(torch.equal(value, given[name]) for name, value in network.state_dict().items())


def test_a_missing_weight_is_named_as_the_file_spells_the_others() -> None:
    given = random_weights(Small())
    names = {name: (f"new.{name}", f"old.{name}") for name in given}
    weights = {f"old.{name}": value for name, value in given.items()}
    weights["old.frist.bias"] = weights.pop("old.first.bias")
    with pytest.raises(CheckpointError, match=r"'old.first.bias' \(closest: 'old.frist.bias'\)"):
        load_named(Small(), weights, where="here", names=names)


def test_a_weight_is_made_of_others() -> None:
    given, network = random_weights(Small()), Small()
    names = {name: name for name in given} | {
        "first.weight": Made(("top", "rest"), lambda top, rest: torch.cat([top, rest]).T),
    }
    weights = dict(given)
    matrix = weights.pop("first.weight")
    weights |= {"top": matrix.T[:1], "rest": matrix.T[1:]}
    load_named(network, weights, where="here", names=names)
    assert torch.equal(network.first.weight, matrix)
    with pytest.raises(CheckpointError, match=r"'top' and 'rest': expected shape \(4, 3\), got \(4, 4\)"):
        load_named(network, weights | {"top": torch.zeros(2, 4)}, where="here", names=names)
    with pytest.raises(CheckpointError, match=r"'top' and 'rest': shape \(1, 5\) and \(2, 4\) cannot become"):
        load_named(network, weights | {"top": torch.zeros(1, 5)}, where="here", names=names)
    del weights["rest"]
    with pytest.raises(CheckpointError, match=r"1 weights are missing \('rest'.*1 are unknown \('top'"):
        load_named(network, weights, where="here", names=names)


def test_one_tensor_may_be_shared_out() -> None:
    given, network = random_weights(Small()), Small()
    biases = torch.randn(7)
    names = {name: name for name in given} | {
        "first.bias": Made(("biases",), lambda all: all[:4]),
        "second.bias": Made(("biases",), lambda all: all[4:]),
    }
    weights = {name: value for name, value in given.items() if not name.endswith("bias")}
    load_named(network, weights | {"biases": biases}, where="here", names=names)
    assert torch.equal(torch.cat([network.first.bias, network.second.bias]), biases)


def test_fused_weights_are_cut_in_equal_parts() -> None:
    given, network = random_weights(Small()), Small()
    names = {name: name for name in given} | {"first.bias": part_of("fused", 1, 3)}
    del given["first.bias"]
    load_named(network, given | {"fused": torch.arange(12.0)}, where="here", names=names)
    assert network.first.bias.tolist() == [4, 5, 6, 7]
    with pytest.raises(CheckpointError, match=r"'fused': shape \(11,\).*11 rows are not 3 equal parts"):
        load_named(network, given | {"fused": torch.arange(11.0)}, where="here", names=names)


def test_a_failed_load_changes_nothing() -> None:
    network = Small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = random_weights(network)
    for change in (
        {"bonus": torch.zeros(1)},
        {"second.bias": torch.zeros(2)},
        {"second.bias": torch.zeros(3, dtype=torch.int64)},
    ):
        with pytest.raises(CheckpointError):
            load_named(network, weights | change, where="here")
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_dead_weights_have_to_be_named() -> None:
    network, weights = Small(), random_weights(Small())
    weights |= {"head.weight": torch.zeros(1), "head.bias": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"2 are unknown \('head.bias'"):
        load_named(network, weights, where="here", unused=("heads.*",))
    load_named(network, weights, where="here", unused=("head.*",))
    assert torch.equal(network.first.weight, weights["first.weight"])


def test_a_pattern_does_not_hide_what_is_needed() -> None:
    network, weights = Small(), random_weights(Small())
    load_named(network, weights, where="here", unused=("*",))
    assert torch.equal(network.first.weight, weights["first.weight"])


def test_numbers_are_converted_unless_types_must_be_equal() -> None:
    network, weights = Small(), random_weights(Small())
    half = weights | {"first.bias": weights["first.bias"].bfloat16()}
    load_named(network, half, where="here")
    assert network.first.bias.dtype == torch.float32
    with pytest.raises(CheckpointError, match=r"'first.bias': expected torch.float32, got torch.bfloat16"):
        load_named(network, half, where="here", same_types=True)
    with pytest.raises(CheckpointError, match=r"'first.bias': expected torch.float32, got torch.int8"):
        load_named(network, weights | {"first.bias": torch.zeros(4, dtype=torch.int8)}, where="here")


def test_tied_weights_are_read_once_or_twice_if_equal() -> None:
    names = {"table.weight": ("table.weight", "leave.weight")}
    values = torch.randn(5, 3)
    for weights in (
        {"table.weight": values},
        {"leave.weight": values},
        {"table.weight": values, "leave.weight": values.clone()},
    ):
        network = Tied()
        load_named(network, weights, where="here", names=names)
        assert torch.equal(network.leave.weight, values)
        assert network.leave.weight is network.table.weight
    with pytest.raises(CheckpointError, match=r"1 are unknown \('leave.weight'"):
        load_named(Tied(), {"table.weight": values, "leave.weight": values + 1}, where="here", names=names)


def test_a_network_without_values_is_filled() -> None:
    weights = {"table.weight": torch.randn(5, 3).double()}
    with unfilled():
        network = Tied().bfloat16().requires_grad_(False)
    load_named(network, weights, where="here")
    assert network.table.weight.dtype == torch.bfloat16
    assert network.leave.weight is network.table.weight
    assert not network.table.weight.requires_grad
    assert torch.equal(network.table.weight, weights["table.weight"].bfloat16())


def test_filling_does_not_share_memory_with_the_file() -> None:
    weights = random_weights(Small())
    with unfilled():
        network = Small()
    load_named(network, weights, where="here")
    kept = network.first.weight.clone()
    weights["first.weight"].zero_()
    assert torch.equal(network.first.weight, kept)
    assert int(network.count) == 7


def test_a_buffer_that_no_file_holds_cannot_be_filled() -> None:
    with unfilled():
        network = Small()
        network.register_buffer("waves", torch.zeros(3), persistent=False)
    with pytest.raises(ValueError, match=r"buffers \['waves'\] are not saved"):
        load_named(network, random_weights(Small()), where="here")


def test_a_table_of_a_part_serves_the_whole() -> None:
    table = nested({"a": "x", "b": Made(("y", "z"), torch.add)}, "part.", ("one.", "two."))
    assert table["part.a"] == ("one.x", "two.x")
    assert [spelling.of for spelling in table["part.b"]] == [("one.y", "one.z"), ("two.y", "two.z")]


def test_a_table_of_another_network_is_a_bug() -> None:
    with pytest.raises(ValueError, match=r"differ in \['count', 'first.bias'"):
        load_named(Small(), {}, where="here", names={"first.weight": "first.weight"})
    names = {name: name for name in [*Small().state_dict(), "third"]}
    with pytest.raises(ValueError, match=r"differ in \['third'\]"):
        load_named(Small(), {}, where="here", names=names)
