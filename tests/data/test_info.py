from __future__ import annotations

from visuomotor.data.info import describe, summary
from visuomotor.data.lerobot import LeRobotReader
from visuomotor.data.synthetic import make_dataset


def test_info_counts_what_is_there(tmp_path):
    folder = make_dataset(tmp_path / "set", episodes=6, ticks=9)
    reader, report = LeRobotReader(folder), describe(folder)
    assert sum(report["instructions"].values()) == len(reader)
    assert sum(entry["episodes"] for entry in report["lengths"]) == 6
    assert [(entry["from"], entry["to"], entry["episodes"]) for entry in report["lengths"]] == [
        (7, 7, 2),
        (8, 8, 2),
        (9, 9, 2),
    ]
    assert report["minutes"] == round(len(reader) / 600, 2)
    assert report["video"] == {"front": "h264 yuv444p", "wrist": "h264 yuv444p"}
    grip = report["features"]["action"][2]
    assert (grip["name"], grip["kind"], grip["min"], grip["max"]) == ("gripper", "gripper", 0.0, 1.0)
    assert abs(report["megabytes"] - sum(report["megabytes_of"].values())) < 0.2


def test_the_summary_is_readable(tmp_path):
    text = summary(describe(make_dataset(tmp_path / "set", episodes=3, ticks=9)))
    assert "time        0.04 min at 10 Hz" in text
    assert "  7 to 7  ##############################  1" in text
    assert "  dx       ee_delta" in text
    assert "move to the" in text
