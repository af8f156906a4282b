from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visuomotor.errors import DataError
from visuomotor.types import (
    Batch,
    Camera,
    Chunk,
    Dimension,
    Observation,
    Sample,
    Spec,
    Stats,
    Summary,
    Tokens,
    Window,
    stack_observations,
    ticks,
)

SPEC = Spec(
    embodiment="arm",
    cameras=(Camera(name="front", height=4, width=6), Camera(name="wrist", height=2, width=2)),
    state=(Dimension(name="elbow", unit="rad", kind="joint", low=-1.0, high=1.0), Dimension(name="free")),
    action=(
        Dimension(name="x", unit="m", kind="ee_delta"),
        Dimension(name="elbow", unit="rad", kind="joint"),
        Dimension(name="gripper", kind="gripper", low=0.0, high=1.0),
    ),
    rate=10.0,
)


def observation(time: float = 0.0, value: int = 0, instruction: str = "go") -> Observation:
    return Observation(
        images={
            "front": np.full((1, 4, 6, 3), value, np.uint8),
            "wrist": np.full((1, 2, 2, 3), value, np.uint8),
        },
        state=np.full((1, 2), value, np.float32),
        instruction=instruction,
        embodiment="arm",
        time=time,
    )


# --- Spec


def test_a_spec_survives_json() -> None:
    assert Spec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC


def test_the_projection_of_a_camera_survives_json() -> None:
    camera = Camera(name="front", height=4, width=6, projection=tuple(i / 7 for i in range(12)))
    spec = replace(SPEC, cameras=(camera,))
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_projection_has_twelve_numbers() -> None:
    with pytest.raises(ValueError, match="12 numbers, got 11"):
        Camera(name="front", height=4, width=6, projection=(0.0,) * 11)


def test_infinite_limits_are_left_out_of_the_json() -> None:
    assert "Infinity" not in json.dumps(SPEC.to_json())
    assert Spec.from_json(SPEC.to_json()).state[1].high == math.inf


@pytest.mark.parametrize("lost", ["embodiment", "cameras", "state", "action", "rate"])
def test_a_spec_with_a_missing_key_is_a_data_error(lost: str) -> None:
    plain = SPEC.to_json()
    del plain[lost]
    with pytest.raises(DataError, match=lost):
        Spec.from_json(plain)


def test_a_spec_with_an_unknown_key_in_a_camera_is_a_data_error() -> None:
    plain = SPEC.to_json()
    plain["cameras"][0]["depth"] = True
    with pytest.raises(DataError, match="depth"):
        Spec.from_json(plain)


def test_a_mistyped_camera_is_answered_with_the_closest_one() -> None:
    assert SPEC.camera("wrist").height == 2
    with pytest.raises(ValueError, match="Did you mean 'wrist'"):
        SPEC.camera("wirst")


def test_an_unknown_kind_of_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'ee_delta'"):
        Dimension(name="x", kind="ee_deltas")  # type: ignore[arg-type]


def test_repeated_names_and_impossible_rates_are_refused() -> None:
    camera = Camera(name="front", height=4, width=4)
    with pytest.raises(ValueError, match="camera names repeat"):
        Spec(embodiment="arm", cameras=(camera, camera), state=(), action=(), rate=10.0)
    with pytest.raises(ValueError, match="rate must be positive"):
        Spec(embodiment="arm", cameras=(), state=(), action=(), rate=0.0)


def test_holding_zeroes_what_is_a_delta_and_keeps_the_rest() -> None:
    held = SPEC.hold(np.array([0.3, 0.7, 1.0], np.float32))
    assert held.tolist() == pytest.approx([0.0, 0.7, 1.0])
    assert held.dtype == np.float32


# --- Window


@pytest.mark.parametrize("history", [(), (0, 1), (-1,), (0, 0), (0, -1)])
def test_a_history_must_ascend_and_end_with_the_current_tick(history: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="history"):
        Window(history=history, horizon=4)


def test_a_window_predicts_at_least_one_action() -> None:
    assert Window(history=(-4, -1, 0), horizon=1).horizon == 1
    with pytest.raises(ValueError, match="horizon"):
        Window(horizon=0)


# --- Stats


def summary(width: int = 2) -> Summary:
    rows = {
        name: np.arange(width) + offset
        for offset, name in enumerate(("mean", "std", "min", "max", "q01", "q99"))
    }
    return Summary(**{name: row.astype(np.float64) for name, row in rows.items()}, count=7)


def test_statistics_survive_json() -> None:
    stats = Stats(source="set", features={"state": summary(), "action": summary(3)})
    again = Stats.from_json(json.loads(json.dumps(stats.to_json())))
    assert again.source == "set"
    assert again["action"].count == 7
    for name in ("mean", "std", "min", "max", "q01", "q99"):
        np.testing.assert_array_equal(getattr(again["action"], name), getattr(stats["action"], name))


def test_a_missing_statistic_is_an_error_and_never_a_pass_through() -> None:
    with pytest.raises(DataError, match=r"'set': no feature 'action', only \['state'\]"):
        Stats(source="set", features={"state": summary()})["action"]


def test_statistics_of_unequal_widths_are_refused() -> None:
    good = summary()
    with pytest.raises(DataError, match="equal shapes"):
        Summary(**{**vars(good), "mean": np.zeros(3)})


def test_statistics_with_a_missing_key_are_a_data_error() -> None:
    plain = Stats(source="set", features={"state": summary()}).to_json()
    del plain["features"]["state"]["q01"]
    with pytest.raises(DataError, match="q01"):
        Stats.from_json(plain)


# --- Observation, Sample, Batch, Chunk


def test_stacking_makes_the_history_axis_and_takes_the_rest_from_the_last() -> None:
    stacked = stack_observations([observation(0.0, 1, "old"), observation(0.1, 2, "new")], [False, True])
    assert stacked.images["front"].shape == (2, 4, 6, 3)
    assert stacked.state[:, 0].tolist() == [1.0, 2.0]
    assert stacked.history_mask is not None
    assert stacked.history_mask.tolist() == [False, True]
    assert (stacked.instruction, stacked.time) == ("new", 0.1)


def test_a_sample_made_while_acting_has_every_mask() -> None:
    sample = Sample.from_observation(observation(0.5, 3), key="set")
    assert sample.actions is None
    assert sample.history_mask.tolist() == [True]
    assert sample.state_mask.tolist() == [True, True]
    assert set(sample.image_mask) == {"front", "wrist"}
    assert (sample.key, sample.time, sample.instruction) == ("set", 0.5, "go")


def test_a_masked_past_is_masked_in_every_view() -> None:
    stacked = stack_observations([observation(), observation()], [False, True])
    sample = Sample.from_observation(stacked)
    assert sample.history_mask.tolist() == [False, True]
    assert all(mask.tolist() == [False, True] for mask in sample.image_mask.values())


def batch(count: int = 3) -> Batch:
    ids = torch.zeros(count, 5, dtype=torch.int64)
    flags = torch.ones(count, 5, dtype=torch.bool)
    return Batch(
        images={"front": torch.zeros(count, 1, 4, 6, 3, dtype=torch.uint8)},
        image_mask={"front": torch.ones(count, 1, dtype=torch.bool)},
        state=torch.zeros(count, 1, 2),
        history_mask=torch.ones(count, 1, dtype=torch.bool),
        state_mask=torch.ones(count, 2, dtype=torch.bool),
        embodiment=torch.zeros(count, dtype=torch.int64),
        has_actions=torch.zeros(count, dtype=torch.bool),
        tokens=Tokens(ids=ids, attend=flags, loss=flags, segment=ids),
    )


def test_mapping_a_batch_reaches_every_tensor_and_leaves_none_alone() -> None:
    seen: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(tensor)
        return tensor[:2]

    half = batch().map(keep)
    assert len(half) == 2
    assert len(seen) == 11  # 2 of the view, 5 fields, 4 of the tokens
    assert half.tokens is not None
    assert len(half.tokens.ids) == 2
    assert half.actions is None


def test_moving_a_batch_keeps_its_values() -> None:
    moved = batch().to("meta")
    assert moved.state.device.type == "meta"
    assert moved.images["front"].dtype == torch.uint8


def test_a_chunk_is_frozen() -> None:
    chunk = Chunk(actions=np.zeros((4, 3), np.float32), rate=10.0)
    with pytest.raises(AttributeError):
        chunk.rate = 5.0  # type: ignore[misc]


# --- ticks


@given(count=st.integers(0, 10_000), rate=st.sampled_from([5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0]))
def test_whole_ticks_are_not_rounded_up(count: int, rate: float) -> None:
    assert ticks(count / rate, rate) == count


def test_a_part_of_a_tick_counts_as_one() -> None:
    assert ticks(0.101, 10.0) == 2
    assert ticks(0.0, 10.0) == 0


def test_blind_samples_go_where_their_batch_goes() -> None:
    state = torch.zeros(2, 1, 3)
    real = torch.ones(2, 1, dtype=torch.bool)

    def batch(blind: Batch | None) -> Batch:
        return Batch(
            images={},
            image_mask={},
            state=state,
            history_mask=real,
            state_mask=torch.ones(2, 3, dtype=torch.bool),
            embodiment=torch.zeros(2, dtype=torch.int64),
            has_actions=torch.zeros(2, dtype=torch.bool),
            blind=blind,
        )

    moved = batch(batch(None)).to("meta")
    assert moved.blind is not None
    assert moved.blind.state.device.type == "meta"
    assert len(moved) == 2
