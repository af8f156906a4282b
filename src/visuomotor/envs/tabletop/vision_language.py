"""Vision-language data without end: pictures of played episodes, with questions and answers.

Beside demonstrations they teach a policy to name, find, count and compare what it sees. `VisionLanguage`
makes them while it plays, `annotate` makes columns of text for ticks that are recorded anyway.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from visuomotor.envs.tabletop.env import TabletopEnv
from visuomotor.envs.tabletop.questions import KINDS, Question, ask, look
from visuomotor.errors import unknown_name
from visuomotor.registry import lookup
from visuomotor.types import Sample, Spec

__all__ = ["COLUMNS", "VisionLanguage", "VisionLanguageSample", "annotate", "episode_columns"]

_QUESTIONS = 6  # stream of random numbers; layout, world and expert have 0 to 5

Act = Callable[[TabletopEnv], np.ndarray]

COLUMNS = ("question", "answer", "kind", "camera", "boxes")
"""Columns of text that `annotate` tells for one tick."""


@dataclass(frozen=True, kw_only=True)
class VisionLanguageSample:
    """A picture, a question about it and the answer.

    Attributes:
        image: uint8 (height, width, 3).
        camera: Name of the view.
        kind: One of `questions.KINDS`.
        question: As a person types it.
        answer: What is true.
        point: x and y as shares of the picture, if the answer is one.
        box: Left, top, right and bottom as shares of the picture, if the answer is one.
        task: Of the episode.
        seed: Of the episode.
        tick: Of the episode.
    """

    image: UInt8[np.ndarray, "height width 3"]
    camera: str
    kind: str
    question: str
    answer: str
    point: tuple[float, float] | None
    box: tuple[float, float, float, float] | None
    task: str
    seed: int
    tick: int

    def to_sample(self, spec: Spec, key: str = "") -> Sample:
        """The same for a pipeline: no actions, and a state and other cameras that are masked.

        Args:
            spec: Of the body beside whose demonstrations this is trained.
            key: Name of the data set, under which statistics are looked up.
        """
        images = {
            camera.name: np.zeros((1, camera.height, camera.width, 3), np.uint8) for camera in spec.cameras
        }
        images[self.camera] = self.image[None]
        return Sample(
            images=images,
            image_mask={name: np.array([name == self.camera]) for name in images},
            state=np.zeros((1, len(spec.state)), np.float32),
            history_mask=np.ones(1, bool),
            state_mask=np.zeros(len(spec.state), bool),
            instruction=self.question,
            embodiment=spec.embodiment,
            key=key,
            answer=self.answer,
        )


class VisionLanguage:
    """Samples without end, equal for equal arguments; every iterator begins anew.

    An expert plays one episode after the other. At random ticks, from the first to the last, it is
    asked about what one of the cameras sees. Of the kinds that have something to ask there, those come
    that were asked least so far.

    Args:
        env_options: Of `TabletopEnv`; the task is "all" if they name none.
        kinds: Of questions, out of `KINDS`.
        seed: Of the first episode; the next one has the next seed.
        options: Of every reset, such as {"split": "phrasing"}.
        each: Most questions about one picture.
        every: Ticks from one picture to the next, on average.
        expert: Name of the expert.

    Raises:
        ValueError: Unknown kind; a number that is not positive; what `TabletopEnv` refuses.
    """

    def __init__(
        self,
        env_options: Mapping[str, Any] | None = None,
        *,
        kinds: Sequence[str] = KINDS,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        each: int = 3,
        every: float = 6.0,
        expert: str = "tabletop",
    ) -> None:
        for kind in kinds:
            if kind not in KINDS:
                raise unknown_name("kind of question", kind, KINDS)
        if each < 1 or not every >= 1 or not kinds:
            raise ValueError(
                f"vision-language: expected a kind, and 1 or more for each and every, "
                f"got {kinds}, {each}, {every}."
            )
        self._env_options = {"task": "all", **(env_options or {})}
        self.spec: Spec = TabletopEnv(**self._env_options).spec
        if not self.spec.cameras:
            raise ValueError("vision-language: expected an environment with a camera, got none.")
        self.kinds, self.seed, self.each, self.every = tuple(kinds), seed, each, every
        self._options = dict(options or {})
        self._expert: Act = lookup("expert", expert)()

    def __iter__(self) -> Iterator[VisionLanguageSample]:
        env, asked, seed = TabletopEnv(**self._env_options), Counter[str](), self.seed
        while True:
            yield from self._episode(env, seed, asked)
            seed += 1

    def _episode(self, env: TabletopEnv, seed: int, asked: Counter[str]) -> Iterator[VisionLanguageSample]:
        """Samples of one episode; counts the kinds in `asked`."""
        generator = np.random.default_rng([seed, _QUESTIONS])
        env.reset(seed=seed, options=self._options)
        tick, done = 0, False
        moment = int(generator.integers(self._gap))
        while True:
            if done or tick == moment:
                yield from self._moment(env, seed, tick, generator, asked)
                moment = tick + 1 + int(generator.integers(self._gap))
            if done:
                return
            done = env.step(self._expert(env)).done
            tick += 1

    @property
    def _gap(self) -> int:
        """Most ticks from one picture to the next."""
        return max(1, round(2 * self.every - 1))

    def _moment(
        self, env: TabletopEnv, seed: int, tick: int, generator: np.random.Generator, asked: Counter[str]
    ) -> Iterator[VisionLanguageSample]:
        """Samples of one picture."""
        camera = env.spec.cameras[int(generator.integers(len(env.spec.cameras)))].name
        sight, found = look(env, camera), list[Question]()
        kinds = [self.kinds[number] for number in generator.permutation(len(self.kinds))]
        for kind in sorted(kinds, key=asked.__getitem__):
            question = ask(sight, kind, generator) if len(found) < self.each else None
            if question is not None:
                found.append(question)
                asked[kind] += 1
        if not found:
            return
        image = env.observe((camera,)).images[camera][0]
        for question in found:
            yield VisionLanguageSample(
                image=image,
                camera=camera,
                kind=question.kind,
                question=question.question,
                answer=question.answer,
                point=question.point,
                box=question.box,
                task=env.wanted.task,
                seed=seed,
                tick=tick,
            )


def annotate(
    env: TabletopEnv, generator: np.random.Generator, *, kinds: Sequence[str] = KINDS
) -> dict[str, str]:
    """`COLUMNS` of the present tick: a question about one of the cameras, and the boxes in all of them.

    Boxes are JSON: camera to name to left, top, right and bottom as shares of the picture. Where there
    is nothing to ask, question, answer, kind and camera are empty.

    Args:
        env: With a running episode; it stays as it is.
        generator: Source of all choices.
        kinds: Of questions, evenly drawn from those that have something to ask.
    """
    sights = {camera.name: look(env, camera.name) for camera in env.spec.cameras}
    told = {
        name: {box.name: [round(share, 4) for share in box.shares] for box in sight.boxes}
        for name, sight in sights.items()
    }
    row = {**dict.fromkeys(COLUMNS, ""), "boxes": json.dumps(told)}
    pairs = [(sight, kind) for sight in sights.values() for kind in kinds]
    for number in generator.permutation(len(pairs)):
        sight, kind = pairs[number]
        question = ask(sight, kind, generator)
        if question is not None:
            asked = {column: getattr(question, column) for column in COLUMNS[:-1]}
            return {**row, **asked}
    return row


def episode_columns(
    env: TabletopEnv, act: Act, generator: np.random.Generator, *, kinds: Sequence[str] = KINDS
) -> dict[str, list[str]]:
    """`COLUMNS` of every tick of the running episode, which `act` plays to its end.

    Args:
        env: With a running episode.
        act: The action for its present state, such as an expert.
        generator: Source of all choices.
        kinds: Of questions.
    """
    columns: dict[str, list[str]] = {column: [] for column in COLUMNS}
    done = False
    while not done:
        for column, text in annotate(env, generator, kinds=kinds).items():
            columns[column].append(text)
        done = env.step(act(env)).done
    return columns
