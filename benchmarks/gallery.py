"""The expert at every task of the table top: a picture of starts and ends, and a film.

    ./run bench gallery [--seed 3] [--picture tasks.png] [--film tasks.mp4]

The picture has two scenes for each task, its start and its end, four tasks a row in the order of the
documentation. The film shows all tasks at once, in the same order, at twice the speed; what is done waits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from bodies import png

from visuomotor.envs.tabletop import TabletopEnv
from visuomotor.envs.tabletop.tasks import TASKS, playable
from visuomotor.evaluation.videos import VideoWriter
from visuomotor.experts.tabletop import TabletopExpert

COLUMNS = 4
GAP = 4  # pixels between pictures


def episode(task: str, seed: int, size: int, every: int) -> list[np.ndarray]:
    """Pictures of an episode of the expert: its start, every few ticks, its end."""
    body = "franka" if task in playable(1) else "aloha2arm"
    env, expert = TabletopEnv(body, task=task, cameras={}, rate=10), TabletopExpert()
    env.reset(seed=seed)
    print(f"{task:14} {env.layout.instruction}", flush=True)
    pictures, tick, done = [env.render("front", size, size)], 0, False
    while not done:
        status = env.step(expert(env))
        tick, done = tick + 1, status.done
        if done or (every and tick % every == 0):
            pictures.append(env.render("front", size, size))
    if not status.success:
        raise SystemExit(f"{task}, seed {seed}: the expert failed ({status.failure}). Choose another seed.")
    return pictures


def grid(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    """Tiles of equal size in rows, white between them and where there is none."""
    height, width, _ = tiles[0].shape
    rows = -(-len(tiles) // columns)
    shape = (rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3)
    picture = np.full(shape, 255, np.uint8)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        top, left = row * (height + GAP), column * (width + GAP)
        picture[top : top + height, left : left + width] = tile
    return picture


def draw(path: Path, seed: int, size: int) -> None:
    """Start beside end, for every task."""
    tiles = []
    for task in TASKS:
        start, end = episode(task, seed, size, 0)
        tiles.append(np.concatenate([start, np.full((size, 1, 3), 255, np.uint8), end], axis=1))
    path.write_bytes(png(grid(tiles, COLUMNS)))


def film(path: Path, seed: int, size: int) -> None:
    """All tasks at once."""
    films = [episode(task, seed, size, 2) for task in TASKS]
    with VideoWriter(path, 10.0, crf=30) as video:
        for tick in range(max(map(len, films)) + 10):
            picture = grid([pictures[min(tick, len(pictures) - 1)] for pictures in films], 5)
            even = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
            video.add(even)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=3, help="of the scenes")
    parser.add_argument("--picture", type=Path, help="file of the picture")
    parser.add_argument("--film", type=Path, help="file of the film")
    parser.add_argument("--size", type=int, default=150, help="pixels of one scene")
    arguments = parser.parse_args()
    if arguments.picture is not None:
        draw(arguments.picture, arguments.seed, arguments.size)
    if arguments.film is not None:
        film(arguments.film, arguments.seed, arguments.size)


if __name__ == "__main__":
    main()
