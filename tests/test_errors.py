from __future__ import annotations

import pytest

from visuomotor import errors
from visuomotor.errors import (
    CheckpointError,
    DataError,
    RemoteError,
    UnknownNameError,
    VisuomotorError,
    unknown_name,
)


@pytest.mark.parametrize("kind", [DataError, CheckpointError, RemoteError])
def test_what_a_user_can_mend_is_one_family_of_errors(kind: type[Exception]) -> None:
    assert issubclass(kind, VisuomotorError)
    assert not issubclass(kind, ValueError)


def test_a_mistyped_name_is_answered_with_the_closest_one() -> None:
    error = unknown_name("task", "putin", ["lift", "put_in"])
    assert isinstance(error, UnknownNameError)
    assert isinstance(error, ValueError)
    assert str(error) == "unknown task 'putin'. Did you mean 'put_in'? Known: lift, put_in."


def test_a_name_like_no_other_gets_no_guess() -> None:
    assert str(unknown_name("camera", "zzz", ["front"])) == "unknown camera 'zzz'. Known: front."


def test_an_empty_list_of_names_is_said_to_be_empty() -> None:
    assert str(unknown_name("recipe", "x", [])).endswith("Known: none.")


def test_public_names_of_the_module_exist() -> None:
    assert all(hasattr(errors, name) for name in errors.__all__)
