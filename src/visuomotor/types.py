# long: all nouns of the contract in one file, as they refer to each other.
"""The nouns: what every other file talks about.

An `Observation` becomes a `Sample`, samples become a `Batch`, and a policy's answer comes back
as a `Chunk`. `Spec` says what a body and its data decide, `Stats` how its numbers are spread,
`Window` which ticks a policy looks at and `Diet` what it learns from. Nothing here imports torch.

Axes are words, batch first; the history axis is always there, length 1 if unused. A mask is
`True` where the value is real.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from visuomotor.errors import DataError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Batch",
    "Camera",
    "Chunk",
    "Diet",
    "Dimension",
    "Kind",
    "Mount",
    "Observation",
    "Sample",
    "Spec",
    "Stats",
    "Summary",
    "Tokens",
    "Window",
    "stack_observations",
    "ticks",
]

Kind = Literal["joint", "joint_delta", "joint_relative", "ee", "ee_delta", "ee_relative", "gripper", "other"]
"""What one number of an action means. Without suffix it is absolute; `delta` is measured from the
previous command, `relative` from the state at chunk start; `gripper` is 0 open to 1 closed."""

Mount = Literal["base", "hand", "left_hand", "right_hand"]
"""What a calibrated camera is fixed to."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One view: its name, the size of its pictures in pixels, and where it looks, if that is known.

    Attributes:
        projection: For a calibrated camera: the 12 numbers, row by row, of the matrix that takes a
            place (x, y, z, 1) in meters in the frame of its mount to (u w, v w, w), with u to the right
            and v down in [-1, 1] over the picture and w > 0 before the camera.
        mount: What a calibrated camera is fixed to: "base", the frame of the body, or "hand", the frame
            of the measured hand pose in the state (see `visuomotor.transforms.hand`); on a body with two
            hands the one of them that has it.
    """

    name: str
    height: int
    width: int
    projection: tuple[float, ...] | None = None
    mount: Mount = "base"

    def __post_init__(self) -> None:
        if self.mount not in get_args(Mount):
            raise unknown_name("mount of a camera", self.mount, get_args(Mount))
        if self.projection is not None:
            object.__setattr__(self, "projection", tuple(float(number) for number in self.projection))
            if len(self.projection) != 12:
                raise ValueError(
                    f"camera {self.name!r}: a projection has 12 numbers, got {len(self.projection)}."
                )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Camera:
        """A camera from its fields as plain data, in which a projection is a list."""
        numbers = data.get("projection")
        return cls(**{**data, "projection": None if numbers is None else tuple(numbers)})


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One number of a state or an action: name, unit ("m", "rad", "1"), kind and limits."""

    name: str
    unit: str = "1"
    kind: Kind = "other"
    low: float = -float("inf")
    high: float = float("inf")

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise unknown_name("kind of dimension", self.kind, get_args(Kind))


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a body and its data decide and nobody configures.

    Attributes:
        embodiment: Name of the body.
        cameras: Views in the order in which policies see them.
        state: Meaning of each number of the state.
        action: Meaning of each number of an action.
        rate: Ticks a second.
    """

    embodiment: str
    cameras: tuple[Camera, ...]
    state: tuple[Dimension, ...]
    action: tuple[Dimension, ...]
    rate: float

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"spec of {self.embodiment!r}: rate must be positive, got {self.rate}.")
        for what, names in (
            ("camera", [camera.name for camera in self.cameras]),
            ("state", [dimension.name for dimension in self.state]),
            ("action", [dimension.name for dimension in self.action]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"spec of {self.embodiment!r}: {what} names repeat: {names}.")

    def camera(self, name: str) -> Camera:
        """The camera called `name`; `ValueError` with the closest name if there is none."""
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise unknown_name("camera", name, [camera.name for camera in self.cameras])

    def hold(self, previous: np.ndarray) -> np.ndarray:
        """The action (action,) that stays where `previous` (action,) led: 0 for deltas, else `previous`."""
        moves = np.array([dimension.kind.endswith("_delta") for dimension in self.action])
        return np.where(moves, 0, previous).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`; limits that are infinite are left out."""

        def plain(dimension: Dimension) -> dict[str, Any]:
            return {key: value for key, value in asdict(dimension).items() if value not in (-np.inf, np.inf)}

        return {
            "embodiment": self.embodiment,
            "cameras": [
                {key: value for key, value in asdict(camera).items() if value is not None}
                for camera in self.cameras
            ],
            "state": [plain(dimension) for dimension in self.state],
            "action": [plain(dimension) for dimension in self.action],
            "rate": self.rate,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Spec:
        """Inverse of `to_json`. Raises `DataError` when a key is missing or unknown."""
        try:
            return cls(
                embodiment=data["embodiment"],
                cameras=tuple(Camera.from_json(camera) for camera in data["cameras"]),
                state=tuple(Dimension(**dimension) for dimension in data["state"]),
                action=tuple(Dimension(**dimension) for dimension in data["action"]),
                rate=float(data["rate"]),
            )
        except (KeyError, TypeError) as error:
            raise DataError(
                f"spec: expected the keys that Spec.to_json writes, got a problem with {error}."
            ) from error


@dataclass(frozen=True, kw_only=True)
class Window:
    """Which ticks a policy sees and predicts.

    Attributes:
        history: Offsets in ticks, ascending, ending with 0 (the current tick).
        horizon: Actions predicted, the first one for the current tick.
        executed: Whether samples to learn from also tell what ran at these ticks, where that is not what
            should have.
    """

    history: tuple[int, ...] = (0,)
    horizon: int
    executed: bool = False

    def __post_init__(self) -> None:
        if not self.history or self.history[-1] != 0 or sorted(set(self.history)) != list(self.history):
            raise ValueError(f"window: history must ascend and end with 0, got {self.history}.")
        if self.horizon < 1:
            raise ValueError(f"window: horizon must be at least 1, got {self.horizon}.")


@dataclass(frozen=True, kw_only=True)
class Diet:
    """What a policy wants to learn from at each step, where the data have it.

    How to move, given where things are, takes many samples and no pictures; pictures are what
    training spends its time on. And only some ticks tell the eyes where to look.

    Attributes:
        blind: Samples without pictures that come with each sample with pictures.
        telling: Share of the samples with pictures that are taken from ticks whose hindsight tells both
            keypoints; None takes the ticks as they come.
    """

    blind: int = 0
    telling: float | None = None

    def __post_init__(self) -> None:
        if self.blind < 0 or not 0 <= (self.telling or 0) <= 1:
            raise ValueError(f"diet: expected blind >= 0 and a share in [0, 1], got {self}.")


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What the policy may see at one tick, in the raw units of the robot.

    An environment or a robot gives history 1; longer history is the session's work.

    Attributes:
        images: Camera name to uint8 (history, height, width, 3).
        state: float32 (history, state).
        instruction: The words given to the robot.
        embodiment: Name of the body.
        time: Seconds since the start of the episode.
        image_mask: Camera name to bool (history,); a missing camera name means all real.
        history_mask: bool (history,), `False` before the start of the episode.
        goal: Goal pictures, camera name to uint8 (height, width, 3).
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    instruction: str
    embodiment: str
    time: float = 0.0
    image_mask: Mapping[str, np.ndarray] = field(default_factory=dict)
    history_mask: np.ndarray | None = None
    goal: Mapping[str, np.ndarray] | None = None


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The actions returned by one call of the policy, in robot units.

    Attributes:
        actions: float32 (horizon, action).
        rate: Ticks a second.
        time: Time of the observation it came from, in seconds.
        mask: bool (horizon,), `False` where the policy has no opinion; None means all real.
        text: What the policy says, if it speaks.
        progress: Its guess of the progress of the task in [0, 1].
        failure: Why there are no usable actions, if so.
    """

    actions: np.ndarray
    rate: float
    time: float = 0.0
    mask: np.ndarray | None = None
    text: str | None = None
    progress: float | None = None
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Token ids of one sample with what a language model needs to know about each; all (token,).

    Attributes:
        ids: int64.
        attend: bool, real tokens.
        loss: bool, tokens whose prediction is trained.
        segment: int64, which block of the attention pattern a token belongs to.
    """

    ids: Any
    attend: Any
    loss: Any
    segment: Any


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One training or acting example on its way through a pipeline; NumPy, no batch axis.

    Attributes:
        images: Camera name to uint8 (history, height, width, 3).
        image_mask: Camera name to bool (history,).
        state: float32 (history, state).
        history_mask: bool (history,).
        state_mask: bool (state,), `False` for padded dimensions.
        instruction: The words given to the robot.
        embodiment: Name of the body.
        key: Which data set it came from; statistics are looked up under it.
        time: Seconds since the start of the episode.
        actions: float32 (horizon, action), or None for acting and for vision-language samples.
        executed: float32 (horizon, action), what ran at these ticks, if it was asked for and is told; for
            learning only.
        horizon_mask: bool (horizon,), `False` past the end of the episode.
        action_mask: bool (action,), `False` for padded dimensions.
        hand: float32 (3, 4), measured pose of the hand in the frame of the body: rotation matrix, then
            position in meters; None for a body that does not tell it, or before a transform has added it.
        keypoints: float32 (2, 3), where the thing is that is moved, and its goal, in meters in the frame
            of the body (see `visuomotor.data.keypoints`); hindsight, for learning only.
        keypoint_mask: bool (2,), whether the episode tells them exactly.
        part: Which part of its episode the keypoints belong to, counted from 0.
        sentence: float32 (token, feature), encoded instruction, once a transform has added it.
        sentence_mask: bool (token,).
        tokens: Token ids, once a transform has added them.
        answer: Target text of a vision-language sample.
        subtask: What is to be done now, in plain words, as a demonstration tells it; for learning only.
    """

    images: Mapping[str, np.ndarray]
    image_mask: Mapping[str, np.ndarray]
    state: np.ndarray
    history_mask: np.ndarray
    state_mask: np.ndarray
    instruction: str
    embodiment: str
    key: str = ""
    time: float = 0.0
    actions: np.ndarray | None = None
    executed: np.ndarray | None = None
    horizon_mask: np.ndarray | None = None
    action_mask: np.ndarray | None = None
    hand: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    keypoint_mask: np.ndarray | None = None
    part: int = 0
    sentence: np.ndarray | None = None
    sentence_mask: np.ndarray | None = None
    tokens: Tokens | None = None
    answer: str | None = None
    subtask: str | None = None

    @classmethod
    def from_observation(cls, observation: Observation, key: str = "") -> Sample:
        """The sample that a pipeline sees while acting: no actions, every mask filled in."""
        history = len(observation.state)
        real = np.ones(history, dtype=bool)
        history_mask = real if observation.history_mask is None else observation.history_mask
        return cls(
            images=observation.images,
            image_mask={name: observation.image_mask.get(name, history_mask) for name in observation.images},
            state=observation.state,
            history_mask=history_mask,
            state_mask=np.ones(observation.state.shape[-1], dtype=bool),
            instruction=observation.instruction,
            embodiment=observation.embodiment,
            key=key,
            time=observation.time,
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Collated samples: torch tensors with a leading batch axis; see `Sample` for the meanings.

    Attributes:
        images: Camera name to uint8 (batch, history, height, width, 3).
        image_mask: Camera name to bool (batch, history).
        state: float32 (batch, history, state).
        history_mask: bool (batch, history).
        state_mask: bool (batch, state).
        embodiment: int64 (batch,), index into the policy's sorted body names.
        actions: float32 (batch, horizon, action); zeros where `has_actions` is `False`; None while acting.
        executed: float32 (batch, horizon, action); the actions where a sample does not tell; None if none
            does.
        horizon_mask: bool (batch, horizon).
        action_mask: bool (batch, action).
        has_actions: bool (batch,).
        hand: float32 (batch, 3, 4); zeros where a sample has none; None if none has.
        keypoints: float32 (batch, 2, 3); zeros where a sample has none; None if none has.
        keypoint_mask: bool (batch, 2).
        part: int64 (batch,), to which part of their episodes the keypoints belong; None without keypoints.
        sentence: float32 (batch, token, feature).
        sentence_mask: bool (batch, token).
        tokens: `Tokens` of tensors (batch, token).
        blind: More samples to learn from, without cameras; see `Diet`.
    """

    images: Mapping[str, Tensor]
    image_mask: Mapping[str, Tensor]
    state: Tensor
    history_mask: Tensor
    state_mask: Tensor
    embodiment: Tensor
    has_actions: Tensor
    actions: Tensor | None = None
    executed: Tensor | None = None
    horizon_mask: Tensor | None = None
    action_mask: Tensor | None = None
    hand: Tensor | None = None
    keypoints: Tensor | None = None
    keypoint_mask: Tensor | None = None
    part: Tensor | None = None
    sentence: Tensor | None = None
    sentence_mask: Tensor | None = None
    tokens: Tokens | None = None
    blind: Batch | None = None

    def __len__(self) -> int:
        """Number of samples, without the blind ones."""
        return len(self.state)

    def map(self, function: Any) -> Batch:
        """The same batch with `function` applied to every tensor."""

        def walk(value: Any) -> Any:
            if value is None:
                return None
            if isinstance(value, Mapping):
                return {name: walk(item) for name, item in value.items()}
            if isinstance(value, Batch):
                return value.map(function)
            if isinstance(value, Tokens):
                return replace(value, **{f.name: walk(getattr(value, f.name)) for f in fields(value)})
            return function(value)

        return replace(self, **{f.name: walk(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: Any) -> Batch:
        """The same batch on another device."""
        return self.map(lambda tensor: tensor.to(device))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Spread of one feature, each array of shape (dimension,); raw units."""

    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    q01: np.ndarray
    q99: np.ndarray
    count: int

    def __post_init__(self) -> None:
        shapes = {np.shape(getattr(self, name)) for name in ("mean", "std", "min", "max", "q01", "q99")}
        if len(shapes) != 1:
            raise DataError(f"statistics: expected equal shapes, got {sorted(shapes)}.")


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Statistics of one data set, feature by feature ("state", "action", or what a policy makes of it).

    Attributes:
        source: Which data set they came from.
        features: Feature name to `Summary`.
    """

    source: str
    features: Mapping[str, Summary]

    def __getitem__(self, feature: str) -> Summary:
        if feature not in self.features:
            raise DataError(
                f"statistics of {self.source!r}: no feature {feature!r}, only {sorted(self.features)}. "
                "Recompute the statistics of the data set; a missing one is never skipped."
            )
        return self.features[feature]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`."""
        return {
            "source": self.source,
            "features": {
                name: {
                    key: value.tolist() if isinstance(value, np.ndarray) else value
                    for key, value in vars(summary).items()
                }
                for name, summary in self.features.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Stats:
        """Inverse of `to_json`. Raises `DataError` when a key is missing or unknown."""

        def summary(plain: Mapping[str, Any]) -> Summary:
            arrays: dict[str, Any] = {name: np.asarray(row, np.float64) for name, row in plain.items()}
            return Summary(**{**arrays, "count": plain["count"]})

        try:
            return cls(
                source=data["source"],
                features={name: summary(plain) for name, plain in data["features"].items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"statistics: expected the keys that Stats.to_json writes, got a problem with {error}."
            ) from error


def ticks(seconds: float, rate: float) -> int:
    """Whole ticks in `seconds` at `rate` hertz, rounded up."""
    return int(np.ceil(round(seconds * rate, 6)))


def stack_observations(observations: Sequence[Observation], mask: Sequence[bool]) -> Observation:
    """One observation with history from several with history 1, oldest first; time and words of the last."""
    last = observations[-1]
    real = np.asarray(mask, dtype=bool)
    ones = np.ones(1, dtype=bool)
    return replace(
        last,
        images={name: np.concatenate([o.images[name] for o in observations]) for name in last.images},
        state=np.concatenate([o.state for o in observations]),
        image_mask={
            name: np.concatenate([o.image_mask.get(name, ones) for o in observations]) & real
            for name in last.images
        },
        history_mask=real,
    )
