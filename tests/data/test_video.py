from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest

from visuomotor.data.video import VideoSettings, decode, encode, header, join
from visuomotor.errors import DataError
from visuomotor.types import Camera

CAMERA = Camera(name="front", height=48, width=64)


def squares(count: int, seed: int = 0) -> np.ndarray:
    """Pictures of small colored squares on a shaded ground, as a simulator draws them."""
    generator = np.random.default_rng(seed)
    pictures = np.empty((count, 48, 64, 3), np.uint8)
    pictures[:] = (np.arange(48)[:, None, None] * 2 + np.array([90, 100, 110])).astype(np.uint8)
    colors = [(220, 40, 40), (40, 60, 220), (40, 180, 60), (230, 210, 40), (250, 250, 250), (150, 50, 180)]
    places = generator.integers(4, 40, (len(colors), 2))
    for tick in range(count):
        for color, (row, column) in zip(colors, places):
            pictures[tick, row : row + 5, column + tick % 8 : column + tick % 8 + 5] = color
    return pictures


def write(path: Path, pictures: np.ndarray, settings: VideoSettings | None = None) -> Path:
    path.write_bytes(encode(list(pictures), CAMERA, 10.0, settings).data)
    return path


def read(path: Path, count: int, first: int = 0, **rest) -> np.ndarray:
    return np.stack(list(decode(path, rate=10.0, first=first, count=count, **rest)))


def test_colors_of_small_objects_survive(tmp_path):
    pictures = squares(20)
    seen = read(write(tmp_path / "a.mp4", pictures), 20)
    assert seen.dtype == np.uint8
    assert seen.shape == pictures.shape
    error = np.abs(seen.astype(int) - pictures)
    # crf 16 costs about one level on average; 12 is the quantization noise of an edge in a 4x4 block
    assert error.mean() < 2
    assert np.quantile(error, 0.99) <= 12
    assert abs((seen.astype(int) - pictures).mean()) < 0.5  # nothing gets darker


def test_full_color_resolution_is_why_they_survive(tmp_path):
    pictures = squares(10)
    full = read(write(tmp_path / "a.mp4", pictures), 10).astype(int) - pictures
    halved = (
        read(write(tmp_path / "b.mp4", pictures, VideoSettings(pixels="yuv420p")), 10).astype(int) - pictures
    )
    assert np.abs(full).max() < 0.5 * np.abs(halved).max()


def test_odd_sizes_need_full_color_resolution(tmp_path):
    odd = Camera(name="odd", height=15, width=21)
    pictures = list(np.full((3, 15, 21, 3), 120, np.uint8))
    (tmp_path / "a.mp4").write_bytes(encode(pictures, odd, 10.0).data)
    assert read(tmp_path / "a.mp4", 3).shape == (3, 15, 21, 3)
    with pytest.raises(ValueError, match="Use 16 x 22"):
        encode(pictures, odd, 10.0, VideoSettings(pixels="yuv420p"))


def test_joined_clips_show_the_same_pictures(tmp_path):
    lengths = [7, 1, 12]
    clips = [encode(list(squares(n, seed)), CAMERA, 10.0) for seed, n in enumerate(lengths)]
    join([(clip.data, clip.frames) for clip in clips], tmp_path / "all.mp4", 10.0)
    start = 0
    for clip in clips:
        (tmp_path / "one.mp4").write_bytes(clip.data)
        alone = read(tmp_path / "one.mp4", clip.frames, sha256=clip.sha256)
        np.testing.assert_array_equal(
            read(tmp_path / "all.mp4", clip.frames, start, sha256=clip.sha256), alone
        )
        start += clip.frames
    assert header(tmp_path / "all.mp4") == clips[0].header


def test_joining_one_by_one_gives_the_same_bytes_as_joining_at_once(tmp_path):
    clips = [encode(list(squares(5, seed)), CAMERA, 10.0) for seed in range(3)]
    join([(clip.data, 5) for clip in clips], tmp_path / "at_once.mp4", 10.0)
    join([(clips[0].data, 5), (clips[1].data, 5)], tmp_path / "two.mp4", 10.0)
    join([(tmp_path / "two.mp4", 10), (clips[2].data, 5)], tmp_path / "one_by_one.mp4", 10.0)
    assert (tmp_path / "one_by_one.mp4").read_bytes() == (tmp_path / "at_once.mp4").read_bytes()


def test_joining_takes_only_the_pictures_that_are_asked_for(tmp_path):
    clip = encode(list(squares(9)), CAMERA, 10.0)
    join([(clip.data, 4), (clip.data, 9)], tmp_path / "a.mp4", 10.0)
    pictures = read(tmp_path / "a.mp4", 13)
    np.testing.assert_array_equal(pictures[4:8], pictures[:4])
    with pytest.raises(DataError, match="joined 9 pictures, expected 10"):
        join([(clip.data, 10)], tmp_path / "b.mp4", 10.0)


def test_pictures_can_be_read_from_any_place(tmp_path):
    path = write(tmp_path / "a.mp4", squares(20), VideoSettings(gap=7))
    everything = read(path, 20)
    for first in (0, 1, 6, 7, 13, 19):
        np.testing.assert_array_equal(read(path, 1, first)[0], everything[first])


def test_same_pictures_give_the_same_bytes():
    assert encode(list(squares(6)), CAMERA, 10.0) == encode(list(squares(6)), CAMERA, 10.0)


@pytest.mark.parametrize("rate", [5.0, 14.985, 30.0])
def test_rates_that_are_no_divisors_of_anything_keep_their_times(tmp_path, rate):
    path = tmp_path / "a.mp4"
    path.write_bytes(encode(list(squares(31)), CAMERA, rate).data)
    assert len(list(decode(path, rate=rate, first=29, count=2))) == 2
    with av.open(str(path)) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(rate, rel=1e-3)


def test_a_video_shorter_than_expected_is_an_error(tmp_path):
    path = write(tmp_path / "a.mp4", squares(5))
    with pytest.raises(
        DataError, match=r"a\.mp4: the video ends after picture 5, but the table has ticks up to 8"
    ):
        read(path, 8)


def test_another_rate_is_an_error(tmp_path):
    path = write(tmp_path / "a.mp4", squares(9))
    with pytest.raises(DataError, match="does not run at 20 pictures a second"):
        list(decode(path, rate=20.0, count=9))


def test_damage_inside_a_video_is_found_by_its_hash(tmp_path):
    clip = encode(list(squares(30)), CAMERA, 10.0)
    data = bytearray(clip.data)
    place = data.index(b"mdat") + 2000
    data[place : place + 8] = bytes(8)
    (tmp_path / "a.mp4").write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"a\.mp4"):
        read(tmp_path / "a.mp4", 30, sha256=clip.sha256)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\0" * 4096])
def test_what_is_no_video_is_an_error(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(DataError, match="cannot be decoded as video"):
        read(tmp_path / "a.mp4", 1)


def test_a_cut_off_video_is_an_error(tmp_path):
    data = encode(list(squares(30)), CAMERA, 10.0).data
    (tmp_path / "a.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a\.mp4"):
        read(tmp_path / "a.mp4", 30)


def test_a_file_without_pictures_is_an_error(tmp_path):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 80), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    (tmp_path / "a.mp4").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="expected a video stream"):
        read(tmp_path / "a.mp4", 1)


def test_wrong_pictures_are_refused():
    for picture in (np.zeros((48, 64, 3), np.float32), np.zeros((64, 48, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"camera 'front': expected uint8 \(48, 64, 3\)"):
            encode([picture], CAMERA, 10.0)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="crf"):
        VideoSettings(crf=60)
    with pytest.raises(ValueError, match="pixel format 'yuv42p'"):
        VideoSettings(pixels="yuv42p")


def test_the_faster_conversion_of_full_color_gives_the_same_bits():
    from av.video.reformatter import VideoReformatter

    from visuomotor.data import video

    generator, reformatter = np.random.default_rng(0), VideoReformatter()
    for height, width in ((96, 96), (37, 53)):
        picture = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        fast, slow = (
            reformatter.reformat(
                frame, format="yuv444p", interpolation=video._TO_YUV[kind], threads=1
            ).to_ndarray()
            for kind in ("yuv444p", "yuv420p")
        )
        np.testing.assert_array_equal(fast, slow)
