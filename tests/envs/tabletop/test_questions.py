"""Questions are true, say nothing about what is hidden, and cannot be answered blindly."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest

from visuomotor.embodiments.franka import FRANKA
from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.envs.tabletop.camera import render
from visuomotor.envs.tabletop.phrasings import LEXICON
from visuomotor.envs.tabletop.question_words import QUESTIONS
from visuomotor.envs.tabletop.questions import KINDS, Question, ask, look
from visuomotor.envs.tabletop.tasks import playable
from visuomotor.envs.tabletop.things import COLORS, HELD_OUT_PAIRS
from visuomotor.envs.tabletop.views import HIDDEN, boxes, names, segment
from visuomotor.envs.tabletop.vision_language import (
    COLUMNS,
    VisionLanguage,
    VisionLanguageSample,
    annotate,
    episode_columns,
)
from visuomotor.experts.tabletop import TabletopExpert

WRIST = FRANKA.arms[0].wrist
Asked = tuple[Question, dict[str, Any]]


def painted(env: TabletopEnv, camera: str) -> np.ndarray:
    """Mask (thing, height, width) of what changes in the picture when a thing gets another color."""
    scene, view = env.scene, env.spec.camera(camera)
    model = scene.model
    plain = render(model, scene.data, camera, view.height, view.width)
    pixels, before = [], model.geom_rgba.copy()
    for number in range(len(names(env))):
        mine = np.isin(model.geom_bodyid, np.flatnonzero(scene.owners() == number))
        model.geom_rgba[mine, :3] = 1.0 - np.round(model.geom_rgba[mine, :3])  # every channel changes
        pixels.append((render(model, scene.data, camera, view.height, view.width) != plain).any(axis=-1))
        model.geom_rgba[:] = before
    return np.array(pixels)


def facts(env: TabletopEnv, camera: str) -> dict[str, Any]:
    """What is true now, from positions and from the segments, which another test compares with pictures."""
    scene, layout, view = env.scene, env.layout, env.spec.camera(camera)
    pixels = segment(env, camera, view.height, view.width) == np.arange(len(names(env)))[:, None, None]
    count = len(layout.objects)
    places = [scene.place(number)[:2] for number in range(count)]
    places += [np.array(fixture.position) for fixture in layout.fixtures]
    return {
        "names": names(env),
        "pixels": pixels,
        "places": places,
        "centers": [*places[:count], *(scene.fixture(n)[:2] for n in range(len(layout.fixtures)))],
        "open": {
            fixture.name: scene.travel(number) > 0.05
            for number, fixture in enumerate(layout.fixtures)
            if fixture.kind == "drawer"
        },
        "hand": scene.hand()[0],
        "at": {thing.name: scene.place(number) for number, thing in enumerate(layout.objects)},
        "subtask": env.subtask,
        "boxes": {box.name: box for box in boxes(env, camera, view.height, view.width)},
    }


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    """Every kind of question, at moments of episodes of every task."""
    env, expert, found = TabletopEnv(task="whole"), TabletopExpert(), []
    generator = np.random.default_rng(0)
    for seed in range(13):
        env.reset(seed=seed)
        for tick in itertools.count():
            done = tick > 0 and env.step(expert(env)).done
            if done or tick % 12 == seed % 12:
                camera = ("front", WRIST)[tick % 2]
                sight, truth = look(env, camera), facts(env, camera)
                for kind in KINDS:
                    if (question := ask(sight, kind, generator)) is not None:
                        found.append((question, truth))
            if done:
                break
    return found


@pytest.fixture(scope="module")
def many() -> list[Question]:
    """Thousands of questions that are cheap to ask: many about each of many pictures."""
    env, expert, found = TabletopEnv(task="whole"), TabletopExpert(), []
    generator = np.random.default_rng(1)
    kinds = [kind for kind in KINDS if kind not in ("box", "point", "caption", "subtask")]
    for seed in range(52):
        env.reset(seed=seed)
        for _ in range(int(generator.integers(20))):
            if env.step(expert(env)).done:
                break
        sight = look(env, "front")
        for kind in kinds * 6:
            if (question := ask(sight, kind, generator)) is not None:
                found.append(question)
    return found


def read(text: str) -> list[str]:
    """The plain names of things in a question, in order."""
    plain = {
        word: name
        for kind in ("color", "shape", "place")
        for name, words in LEXICON[kind].items()
        for word in words.seen
    }
    colors, nouns = LEXICON["color"], {**LEXICON["shape"], **LEXICON["place"]}
    pattern = "({}) ({})".format(
        *("|".join(w for words in kind.values() for w in words.seen) for kind in (colors, nouns))
    )
    found = re.findall(rf"\b{pattern}\b", text.lower())
    return [f"{plain[color]} {plain[noun]}" for color, noun in found if plain[noun] != "things"]


def of(asked: list[Asked], *forms: str) -> list[Asked]:
    found = [pair for pair in asked if pair[0].form in forms]
    assert len(found) >= 10, forms
    return found


# ---- what is seen -------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["franka", "so101"])
def test_segments_are_the_pixels_that_change_when_a_thing_is_painted(body: str) -> None:
    env, expert = TabletopEnv(body, task="whole", world="randomized"), TabletopExpert()
    for seed in range(0, 13 if body == "franka" else 4, 2):
        env.reset(seed=seed)
        for _ in range(seed % 3 * 4):
            env.step(expert(env))
        for camera in env.spec.cameras:
            numbers = segment(env, camera.name, camera.height, camera.width)
            changed = painted(env, camera.name)
            for number, mask in enumerate(changed):
                np.testing.assert_array_equal(numbers == number, mask)


def test_boxes_hold_exactly_the_pixels_of_their_things(asked: list[Asked]) -> None:
    for _, truth in asked[::7]:
        for box in truth["boxes"].values():
            mask = truth["pixels"][box.number]
            inside = mask[box.top : box.bottom, box.left : box.right]
            assert inside.sum() == mask.sum() == box.pixels
            assert inside[[0, -1]].any(axis=1).all()
            assert inside[:, [0, -1]].any(axis=0).all()
            assert mask[box.middle[1], box.middle[0]]
            assert 0 <= min(box.shares) < max(box.shares) <= 1
            assert 0 <= box.hidden <= HIDDEN


def test_what_stands_free_is_not_hidden_and_what_is_taken_away_does_not_hide() -> None:
    env = TabletopEnv(task="put_in")
    env.reset(seed=0)
    found = boxes(env, "front", 96, 96)
    assert [box.number for box in found] == list(range(6))
    assert all(box.hidden == 0 for box in found)


def test_more_is_hidden_the_more_stands_before_it() -> None:
    """A bowl before which a bar is moved to and fro, against a count with the bar painted as air."""
    env = TabletopEnv(task="put_in")
    env.reset(seed=0)
    model, data = env.scene.model, env.scene.data
    bowl = next(n for n, name in enumerate(names(env)) if name.endswith("bowl"))
    body = int(np.flatnonzero(env.scene.owners() == 0)[0])
    groups = model.geom_group.copy()
    other = np.isin(model.geom_bodyid, np.flatnonzero(env.scene.owners() != bowl)) & (model.geom_bodyid > 0)
    for shift in np.linspace(-0.1, 0.1, 9):
        data.xpos[body] = env.scene.to_base([*env.layout.fixtures[0].position, 0.1])
        mine = np.flatnonzero(model.geom_bodyid == body)
        data.geom_xpos[mine] = data.xpos[body] + (0.05, shift, 0.0)
        shown = int((segment(env, "front", 96, 96) == bowl).sum())
        model.geom_group[other] = 3
        whole = int((segment(env, "front", 96, 96) == bowl).sum())
        model.geom_group[:] = groups
        box = next(box for box in boxes(env, "front", 96, 96, hidden=1.0) if box.number == bowl)
        assert box.hidden == pytest.approx(1 - shown / whole)
    np.testing.assert_array_equal(model.geom_group, groups)


def test_looking_changes_nothing() -> None:
    env = TabletopEnv(task="put_in_drawer")
    env.reset(seed=3)
    before, groups = env.snapshot(), env.scene.model.geom_group.copy()
    annotate(env, np.random.default_rng(0))
    assert env.snapshot() == before
    np.testing.assert_array_equal(env.scene.model.geom_group, groups)


def test_an_unknown_camera_is_answered_with_the_closest() -> None:
    env = TabletopEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="front"):
        segment(env, "fornt", 8, 8)


# ---- what is asked ------------------------------------------------------------------------------


def test_nothing_hidden_is_asked_about(asked: list[Asked]) -> None:
    for question, truth in asked:
        scene = set(truth["names"])
        for name in read(question.question.partition('"')[0]):
            assert name in truth["boxes"] or (question.form == "exists" and name not in scene), question


def test_every_kind_is_asked_of_both_cameras_where_it_may(asked: list[Asked]) -> None:
    found = Counter((question.kind, question.camera) for question, _ in asked)
    assert {kind for kind, _ in found} == set(KINDS)
    assert {kind for kind, camera in found if camera == WRIST} == set(KINDS) - {"relation"}
    assert {question.form for question, _ in asked} == set(QUESTIONS)


def test_points_and_boxes_are_on_their_things(asked: list[Asked]) -> None:
    for question, truth in of(asked, "point", "box"):
        (name,) = read(question.question)
        mask = truth["pixels"][truth["names"].index(name)]
        height, width = mask.shape
        numbers = [float(number) for number in question.answer.split()]
        if question.form == "point":
            assert question.point == pytest.approx(numbers, abs=6e-4)
            assert mask[int(numbers[1] * height), int(numbers[0] * width)]
        else:
            assert question.box == pytest.approx(numbers, abs=6e-4)
            rows, columns = np.nonzero(mask)
            exact = (columns.min() / width, rows.min() / height, columns.max() + 1, rows.max() + 1)
            assert question.box == (*exact[:2], exact[2] / width, exact[3] / height)


def test_captions_name_what_is_seen_and_nothing_else(asked: list[Asked]) -> None:
    for question, truth in of(asked, "caption"):
        nouns, colors = Counter(), Counter()
        for name in truth["boxes"]:
            colors[name.split()[0]] += 1
            nouns[name.split()[1]] += 1
        words = re.findall(r"\w+", question.answer)
        assert Counter(word for word in words if word in (*COLORS, "gray")) == colors
        told = {noun: noun if count == 1 else f"{noun}s" for noun, count in nouns.items()}
        assert {word for word in words if word.rstrip("s") in nouns} == set(told.values())


def test_a_caption_reads_like_a_sentence() -> None:
    env = TabletopEnv(task="put_in")
    env.reset(seed=0)
    question = ask(look(env, "front"), "caption", np.random.default_rng(0))
    assert question is not None
    assert re.fullmatch(r"an? .* and two bowls, one \w+ and one \w+", question.answer)


def test_colors_and_counts_are_those_of_the_picture(asked: list[Asked]) -> None:
    plain = {word: name for name, words in LEXICON["color"].items() for word in words.seen}
    nouns = {
        word: name for kind in ("shape", "place") for name, w in LEXICON[kind].items() for word in w.seen
    }
    for question, truth in of(asked, "color", "count"):
        seen = [name.split() for number, name in enumerate(truth["names"]) if truth["pixels"][number].any()]
        text = question.question.lower()
        if question.form == "color":
            (noun,) = {nouns[word] for word in re.findall(r"\w+", text) if word in nouns}
            assert [color for color, kind in seen if kind == noun] == [question.answer]
        elif color := re.search("|".join(plain), text):
            assert int(question.answer) == sum(name == plain[color[0]] for name, _ in seen)
        else:
            found = {nouns[w.rstrip("s")] for w in re.findall(r"\w+", text) if w.rstrip("s") in nouns}
            assert int(question.answer) == sum({kind} == found for _, kind in seen)


def test_what_exists_is_seen_and_what_does_not_is_nowhere(asked: list[Asked]) -> None:
    plain = {w: name for k in ("color", "shape", "place") for name, v in LEXICON[k].items() for w in v.seen}
    for question, truth in of(asked, "exists"):
        named = {plain[word] for word in re.findall(r"[\w-]+", question.question.lower()) if word in plain}
        asked_for = truth["boxes"] if question.answer == "yes" else truth["names"]
        assert any(named <= set(name.split()) for name in asked_for) == (question.answer == "yes")


def test_sides_are_clear_as_the_robot_sees_them(asked: list[Asked]) -> None:
    sides = {word: name for name, words in LEXICON["side"].items() for word in words.seen}
    longest = sorted(sides, key=len, reverse=True)
    for question, truth in of(asked, "is_side", "what_side"):
        side = sides[re.search("|".join(longest), question.question.lower())[0]]
        things = [truth["places"][truth["names"].index(name)] for name in read(question.question)]
        if question.form == "what_side":
            things.insert(0, truth["places"][truth["names"].index(question.answer)])
        way = things[0] - things[1]
        ahead = {"left": way[1], "right": -way[1], "front": -way[0], "behind": way[0]}[side]
        assert abs(ahead) > 0.06
        assert abs(ahead) > 1.1 * np.abs(way).min()
        assert (ahead > 0) == (question.answer != "no")


def test_states_are_true(asked: list[Asked]) -> None:
    for question, truth in of(asked, "is_held", "what_held", "is_in", "is_open", "what_open"):
        named = read(question.question)
        if question.form in ("is_held", "what_held"):
            near = min(truth["at"], key=lambda name: np.linalg.norm(truth["at"][name] - truth["hand"]))
            assert question.answer in ((near,) if not named else ("yes",) if near == named[0] else ("no",))
        elif question.form == "is_in":
            first, second = (
                truth["centers"][truth["names"].index(name)]
                for name in sorted(named, key=lambda name: name.split()[1] in LEXICON["place"])
            )
            assert (np.linalg.norm(first - second) < 0.075) == (question.answer == "yes")
        else:
            asks_open = re.search("open|pulled", question.question.lower()) is not None
            matching = [name for name, is_open in truth["open"].items() if is_open == asks_open]
            assert question.answer == (matching[0] if not named else "yes" if named[0] in matching else "no")


def test_the_next_thing_to_do_is_the_subtask(asked: list[Asked]) -> None:
    answers = {question.answer for question, truth in of(asked, "subtask")}
    assert all(question.answer == truth["subtask"] for question, truth in of(asked, "subtask"))
    assert {answer.split()[0] for answer in answers} >= {"pick", "put", "open", "press", "push"}


# ---- who does not look learns nothing -----------------------------------------------------------


def test_yes_and_no_are_even_whatever_is_asked(many: list[Question]) -> None:
    """All within 45 to 55 %; by form, color and noun within four standard errors of one half."""
    forms, words = defaultdict(list), defaultdict(list)
    for question in many:
        if question.answer in ("yes", "no"):
            forms[question.form].append(question.answer == "yes")
            for name in read(question.question):
                for word in name.split():
                    words[word].append(question.answer == "yes")
    assert set(forms) == {"exists", "is_side", "is_held", "is_in", "is_open"}
    assert 0.45 < np.mean(np.concatenate(list(forms.values()))) < 0.55
    for name, answers in {**forms, **words}.items():
        assert abs(np.mean(answers) - 0.5) < 4 * 0.5 / np.sqrt(len(answers)), (name, len(answers))


def test_no_count_and_no_color_is_a_good_guess(many: list[Question]) -> None:
    for form, most in (("count", 0.42), ("color", 0.25), ("what_side", 0.15), ("what_held", 0.25)):
        answers = Counter(question.answer for question in many if question.form == form)
        assert answers.total() >= 15
        assert answers.most_common(1)[0][1] < most * answers.total(), (form, answers)
    assert {"0", "1", "2"} <= {question.answer for question in many if question.form == "count"}


def test_pairs_that_training_never_shows_are_not_named(many: list[Question]) -> None:
    named = {name for question in many for name in read(question.question)}
    assert not named & {" ".join(pair) for pair in HELD_OUT_PAIRS}


# ---- words --------------------------------------------------------------------------------------


def test_held_out_phrasings_and_words_come_in_their_splits_only() -> None:
    env, found = TabletopEnv(task="put_in"), defaultdict(list)
    for split in ("train", "phrasing", "words"):
        generator = np.random.default_rng(0)
        for seed in range(25):
            env.reset(seed=seed, options={"split": split})
            sight = look(env, "front")
            for kind in set(KINDS) - {"state", "subtask"}:
                if (question := ask(sight, kind, generator)) is not None:
                    found[split].append(question.question.lower())
    new = {
        word for kind in ("color", "shape", "place") for w in LEXICON[kind].values() for word in w.held_out
    }
    words = {
        split: sum(bool(set(re.findall(r"[\w-]+", text)) & new) for text in texts)
        for split, texts in found.items()
    }
    assert words["train"] == words["phrasing"] == 0
    assert words["words"] > 50
    for form in ("caption", "count"):
        for phrasings, split, other in (("seen", "train", "phrasing"), ("held_out", "phrasing", "train")):
            starts = [text.split("{")[0].rstrip("?") for text in getattr(QUESTIONS[form], phrasings)]
            starts = [start for start in starts if start]
            assert any(text.startswith(tuple(starts)) for text in found[split])
            assert not any(text.startswith(tuple(starts)) for text in found[other])


def test_every_form_has_phrasings_of_both_kinds() -> None:
    for form, words in QUESTIONS.items():
        assert len(words.seen) >= 4, form
        assert len(words.held_out) >= 2, form
        slots = {tuple(sorted(re.findall(r"\{\w+\}", text))) for text in (*words.seen, *words.held_out)}
        assert len(slots) == 1, form


def test_an_unknown_kind_is_answered_with_the_closest() -> None:
    env = TabletopEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="caption"):
        ask(look(env, "front"), "capton", np.random.default_rng(0))
    with pytest.raises(ValueError, match="caption"):
        VisionLanguage(kinds=["capton"])
    with pytest.raises(ValueError, match="each"):
        VisionLanguage(each=0)


# ---- the source ---------------------------------------------------------------------------------


def test_equal_seeds_give_equal_samples_and_others_do_not() -> None:
    source = VisionLanguage({"cameras": {"front": 48, WRIST: 32}}, seed=3)
    first, again, other = (
        list(itertools.islice(s, 30)) for s in (source, source, VisionLanguage({"cameras": {"front": 48}}))
    )
    for one, two in zip(first, again, strict=True):
        assert {**vars(one), "image": 0} == {**vars(two), "image": 0}
        np.testing.assert_array_equal(one.image, two.image)
    assert [sample.question for sample in first] != [sample.question for sample in other]


@pytest.fixture(scope="module")
def samples() -> list[VisionLanguageSample]:
    return list(itertools.islice(VisionLanguage({"task": "whole"}, every=12), 180))


def test_the_source_goes_through_tasks_moments_and_kinds(samples: list[VisionLanguageSample]) -> None:
    assert {sample.task for sample in samples} == set(playable(1))
    assert len({sample.tick for sample in samples}) > 20
    kinds = Counter(sample.kind for sample in samples)
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) > 0.6 * max(kinds.values())


def test_pictures_are_what_the_policy_would_see(samples: list[VisionLanguageSample]) -> None:
    env, expert = TabletopEnv(task="whole"), TabletopExpert()
    for sample in samples[::60]:
        env.reset(seed=sample.seed)
        for _ in range(sample.tick):
            env.step(expert(env))
        seen = env.observe((sample.camera,)).images[sample.camera][0]
        np.testing.assert_array_equal(sample.image, seen)


def test_a_sample_fits_a_pipeline_without_actions(samples: list[VisionLanguageSample]) -> None:
    spec = VisionLanguage().spec
    sample = samples[0].to_sample(spec, "questions")
    assert sample.actions is None
    assert (sample.instruction, sample.answer) == (samples[0].question, samples[0].answer)
    assert {name for name, mask in sample.image_mask.items() if mask.all()} == {samples[0].camera}
    assert not sample.state_mask.any()


def test_columns_tell_every_tick() -> None:
    env = TabletopEnv(task="put_in_drawer")
    runs = []
    for _ in range(2):
        env.reset(seed=0)
        runs.append(episode_columns(env, TabletopExpert(), np.random.default_rng(0)))
    columns = runs[0]
    assert runs[1] == columns
    assert tuple(columns) == COLUMNS
    assert len({len(texts) for texts in columns.values()}) == 1
    assert len(set(columns["kind"])) > 4
    for camera, question, told in zip(columns["camera"], columns["question"], columns["boxes"]):
        boxes_told = json.loads(told)
        assert question
        assert set(boxes_told) == {"front", WRIST}
        assert camera in boxes_told
        assert all(0 <= min(box) < max(box) <= 1 for views in boxes_told.values() for box in views.values())
