"""The words of questions about a picture: phrasings of each form, as data.

Half of what may be asked is held out, as with sentences: never used but in the split "phrasing". Colors,
nouns and sides take the words of `phrasings.LEXICON`; answers are in plain names.
"""

from __future__ import annotations

from visuomotor.text.grammar import Words

__all__ = ["QUESTIONS"]

QUESTIONS: dict[str, Words] = {
    "box": Words(
        seen=(
            "where is the {thing}?",
            "what are the bounds of the {thing}?",
            "draw a rectangle around the {thing}",
            "find the {thing} in the picture",
            "detect the {thing}",
        ),
        held_out=(
            "between which corners is the {thing}?",
            "locate the {thing}",
            "which part of the picture shows the {thing}?",
        ),
    ),
    "caption": Words(
        seen=(
            "what is in the picture?",
            "describe the picture",
            "what do you see?",
            "which things can be seen?",
            "tell me what the picture shows",
        ),
        held_out=(
            "name everything in view",
            "what are you looking at?",
            "list what is visible here",
        ),
    ),
    "color": Words(
        seen=(
            "what color is the {noun}?",
            "which color does the {noun} have?",
            "what is the color of the {noun}?",
            "the {noun} has which color?",
            "tell me the color of the {noun}",
        ),
        held_out=("how is the {noun} colored?", "in which color is the {noun} painted?"),
    ),
    "count": Words(
        seen=(
            "how many {many} are there?",
            "how many {many} can you see?",
            "count the {many}",
            "what is the number of {many}?",
            "how many {many} are in the picture?",
        ),
        held_out=("tell me how many {many} are visible", "{many}: how many?"),
    ),
    "exists": Words(
        seen=(
            "is there a {thing}?",
            "can you see a {thing}?",
            "is a {thing} in the picture?",
            "does the picture show a {thing}?",
            "do you see a {thing}?",
        ),
        held_out=("is a {thing} anywhere in view?", "a {thing}, is it here?"),
    ),
    "point": Words(
        seen=(
            "point to the {thing}",
            "point at the {thing}",
            "show me a point on the {thing}",
            "which point is on the {thing}?",
            "mark the {thing} with a point",
        ),
        held_out=("put a dot on the {thing}", "where would you touch the {thing}?"),
    ),
    "is_side": Words(
        seen=(
            "is the {thing} {side} the {thing2}?",
            "seen from the robot, is the {thing} {side} the {thing2}?",
            "does the {thing} stand {side} the {thing2}?",
            "can the {thing} be found {side} the {thing2}?",
        ),
        held_out=(
            "would you say that the {thing} is {side} the {thing2}?",
            "the {thing} is {side} the {thing2}, right?",
        ),
    ),
    "what_side": Words(
        seen=(
            "what is {side} the {thing}?",
            "seen from the robot, what is {side} the {thing}?",
            "which thing is {side} the {thing}?",
            "what stands {side} the {thing}?",
        ),
        held_out=("what can be found {side} the {thing}?", "name what is {side} the {thing}"),
    ),
    "is_held": Words(
        seen=(
            "is the robot holding the {thing}?",
            "does the robot hold the {thing}?",
            "is the {thing} in the gripper?",
            "is the {thing} in the hand of the robot?",
        ),
        held_out=("has the robot got hold of the {thing}?", "is the {thing} between the fingers?"),
    ),
    "what_held": Words(
        seen=(
            "what is the robot holding?",
            "what does the robot hold?",
            "which thing is in the gripper?",
            "what is in the hand of the robot?",
        ),
        held_out=("what has the robot got hold of?", "what is between the fingers?"),
    ),
    "is_in": Words(
        seen=(
            "is the {thing} in the {thing2}?",
            "does the {thing2} hold the {thing}?",
            "has the {thing} been put in the {thing2}?",
            "is the {thing2} where the {thing} is?",
        ),
        held_out=("did the {thing} end up in the {thing2}?", "does the {thing} lie in the {thing2}?"),
    ),
    "is_open": Words(
        seen=(
            "is the {thing} {open}?",
            "is the {thing} {open} now?",
            "would you call the {thing} {open}?",
            "does the {thing} look {open}?",
        ),
        held_out=("do you see that the {thing} is {open}?", "the {thing} is {open}, right?"),
    ),
    "what_open": Words(
        seen=(
            "which {noun} is {open}?",
            "which {noun} do you see {open}?",
            "which one is the {open} {noun}?",
            "name the {noun} that is {open}",
        ),
        held_out=("tell me which {noun} is {open}", "one {noun} is {open}: which?"),
    ),
    "subtask": Words(
        seen=(
            'what should the robot do next to follow "{told}"?',
            'the robot was told "{told}". what should it do now?',
            'for "{told}", what is the next step?',
            'to reach "{told}", what comes next?',
        ),
        held_out=(
            'somebody said "{told}". how should the robot go on?',
            'what is to be done first for "{told}"?',
        ),
    ),
}
"""Form of a question to its phrasings.

`{thing}` is "{color} {noun}" or a part of it, `{many}` a plural, `{told}` the instruction of the episode.
"""
