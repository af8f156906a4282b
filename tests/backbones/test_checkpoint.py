from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from visuomotor.backbones.checkpoint import find_model, open_tensors, read_config
from visuomotor.errors import CheckpointError, RemoteError

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def some_tensors() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(3).half(), "c": torch.ones(1)}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder with three tensors in two files."""
    given = some_tensors()
    save_file({name: given[name] for name in "ab"}, tmp_path / SHARDS[0])
    save_file({"c": given["c"]}, tmp_path / SHARDS[1])
    write_index(tmp_path, {"a": SHARDS[0], "b": SHARDS[0], "c": SHARDS[1]})
    return tmp_path


def write_index(folder: Path, table: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))


def same(found, given: dict[str, torch.Tensor]) -> bool:
    return set(found) == set(given) and all(torch.equal(found[name], given[name]) for name in given)


def test_a_folder_a_file_and_an_index_are_opened(shards: Path, tmp_path_factory) -> None:
    single = tmp_path_factory.mktemp("single")
    save_file(some_tensors(), single / "model.safetensors")
    for path in (shards, shards / INDEX, single, single / "model.safetensors"):
        found = open_tensors(path)
        assert same(found, some_tensors())
        assert len(found) == 3
        assert found.where.startswith(str(path))


def test_links_as_in_a_download_cache_are_followed(shards: Path, tmp_path_factory) -> None:
    cache = tmp_path_factory.mktemp("cache")
    for name in (*SHARDS, INDEX):
        (cache / name).symlink_to(shards / name)
    assert same(open_tensors(cache), some_tensors())


def test_a_missing_shard_is_named(shards: Path) -> None:
    (shards / SHARDS[1]).unlink()
    with pytest.raises(CheckpointError, match=rf"1 of 2 files are missing: {SHARDS[1]}"):
        open_tensors(shards)


@pytest.mark.parametrize(
    "file", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "x.bin", "", 3]
)
def test_an_index_leads_nowhere_else(shards: Path, file: object) -> None:
    save_file(some_tensors(), shards.parent / "model.safetensors")
    write_index(shards, {"a": file})
    with pytest.raises(
        CheckpointError, match=r"'a': expected the name of a safetensors file beside the index"
    ):
        open_tensors(shards)


def test_index_and_files_must_agree(shards: Path) -> None:
    table = {"a": SHARDS[0], "b": SHARDS[0], "c": SHARDS[1]}
    for change, message in (
        ({"b": SHARDS[1]}, rf"'b' should be in {SHARDS[1]} and is in {SHARDS[0]}"),
        ({"d": SHARDS[1]}, rf"'d' should be in {SHARDS[1]} and is in no file"),
    ):
        write_index(shards, table | change)
        with pytest.raises(CheckpointError, match=message):
            open_tensors(shards)
    del table["b"]
    write_index(shards, table)
    with pytest.raises(CheckpointError, match="1 tensors in the files are not in the index: b"):
        open_tensors(shards)


def test_a_name_in_two_files_is_refused(shards: Path) -> None:
    save_file({"a": torch.zeros(1), "c": torch.zeros(1)}, shards / SHARDS[1])
    with pytest.raises(CheckpointError, match=rf"'a' stands in {SHARDS[0]} and in {SHARDS[1]}"):
        open_tensors(shards)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "[" * 100_000]
)
def test_a_damaged_index_is_refused(shards: Path, content: str) -> None:
    (shards / INDEX).write_text(content)
    with pytest.raises(CheckpointError, match="expected"):
        open_tensors(shards)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(some_tensors(), path)
    content = path.read_bytes()
    for damaged in (b"", b"no", content[:-1], b"\xff" * len(content)):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="expected a safetensors file"):
            open_tensors(tmp_path)


def test_two_sets_of_weights_are_ambiguous(shards: Path) -> None:
    save_file(some_tensors(), shards / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"got both\. Pass the file"):
        open_tensors(shards)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"\['pytorch_model.bin'\].*never read"):
        open_tensors(tmp_path)
    with pytest.raises(CheckpointError, match="it is not there"):
        open_tensors(tmp_path / "gone")


def test_configs_are_read_beside_the_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": 1}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert read_config(tmp_path) == read_config(tmp_path / "model.safetensors") == {"a": 1}
    for content in ("[1]", "{", "\xff"):
        (tmp_path / "config.json").write_text(content, encoding="latin-1")
        with pytest.raises(CheckpointError, match=r"config\.json: expected"):
            read_config(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: the file is missing"):
        read_config(tmp_path)


def test_what_is_on_disk_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **more: asked.append(name) or "there"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "google").mkdir()
    (tmp_path / "google" / "model").mkdir()
    assert find_model("google/model") == Path("google/model")
    assert asked == []
    assert find_model("google/other@main") == Path("there")
    assert asked == ["google/other"]


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "../x", "a/..", "a/b@"])
def test_what_is_neither_path_nor_hub_name_is_refused(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="a file, a folder or a hub name"):
        find_model(name)


def test_a_hub_without_the_model_is_a_remote_error(monkeypatch) -> None:
    def snapshot(repository: str, **arguments) -> str:
        raise OSError("404")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(RemoteError, match=r"'google/gone': could not be downloaded: 404"):
        find_model("google/gone")
