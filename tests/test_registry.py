from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from visuomotor import registry
from visuomotor.registry import BUILT_IN, lookup, names


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in BUILT_IN for name in BUILT_IN[kind]])
def test_every_built_in_name_leads_to_something_with_a_docstring(kind: str, name: str) -> None:
    assert lookup(kind, name).__doc__


def test_unknown_names_and_kinds_are_answered_with_the_closest() -> None:
    with pytest.raises(ValueError, match=r"unknown policy 'compat'\. Did you mean 'compact'"):
        lookup("policy", "compat")
    with pytest.raises(ValueError, match=r"unknown kind of part 'polcy'\. Did you mean 'policy'"):
        names("polcy")


def test_an_import_path_is_as_good_as_a_name() -> None:
    assert lookup("expert", "visuomotor.types:Spec").__name__ == "Spec"


def test_a_wrong_import_path_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"'visuomotor\.types:Speck'.*no 'Speck'.*Did you mean 'Spec'"):
        lookup("policy", "visuomotor.types:Speck")
    with pytest.raises(ValueError, match=r"policy 'no\.such:Thing'.*cannot import 'no\.such'"):
        lookup("policy", "no.such:Thing")


def test_an_entry_point_of_a_third_party_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("mine", "visuomotor.types:Window", "visuomotor.policy")

    def entry_points(*, group: str, name: str | None = None) -> EntryPoints:
        found = [entry] if group == "visuomotor.policy" and name in (None, "mine") else []
        return EntryPoints(found)

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert "mine" in names("policy")
    assert names("env") == sorted(BUILT_IN["env"])
    assert lookup("policy", "mine").__name__ == "Window"
