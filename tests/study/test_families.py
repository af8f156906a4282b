"""The list of families is complete, and its numbers are those that the papers state."""

from __future__ import annotations

from visuomotor.registry import names
from visuomotor.study.families import describe_families


def test_every_family_has_a_paper_and_counted_sizes() -> None:
    found = describe_families()
    assert list(found) == sorted(names("policy"))
    for family in found.values():
        assert family["what"]
        assert family["paper"]
        assert all(size["parameters"] > 0 for size in family["sizes"].values())
    assert found["act"]["sizes"]["published"]["parameters"] == 83_922_574
    assert found["pi0"]["sizes"]["published"]["parameters"] == 3_238_048_528
    assert found["pi05"]["sizes"]["published"]["parameters"] == 3_353_433_872
    assert "openpi safetensors" in found["pi0"]["weights"]
    for name in ("act", "diffusion"):
        assert any("LeRobot" in weights for weights in found[name]["weights"])
        assert any(f"scripts/convert_{name}.py" in weights for weights in found[name]["weights"])
