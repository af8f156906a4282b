"""What is computed once: chunks of pi0 and pi0.5 with everything kept, and with everything computed anew.

    ./run bench prefix [--repeats 7] [--threads 1] [--out benchmarks/results/prefix.json]

Three ways to the same chunk, from equal weights, observations and noise, interleaved:

    kept       as the policies act: the prefix once, its last layer keys and values alone, absent cameras and
               padding dropped, what depends on flow time alone from a table;
    padded     the same, but absent cameras and padding are computed and masked;
    anew       pictures, prompt, state and actions pass through all layers at each of ten steps.

The sizes are a tenth of the published ones in width, with as many tokens: two cameras of three at 224
pixels, a prompt of 20 of 48 tokens (pi0) or 60 of 200 (pi0.5), 50 actions. Prints a table, and last one
JSON object with the ratios of the medians to `kept`, and the largest difference of the chunks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from visuomotor.backbones.language_model import LanguageModelConfig
from visuomotor.backbones.paligemma import PaliGemmaConfig
from visuomotor.backbones.siglip import SigLIPConfig
from visuomotor.generative import flow
from visuomotor.nn.mixture import Segment, run
from visuomotor.perception.paligemma_trunk import PaliGemmaTrunkConfig
from visuomotor.perception.trunk import gemma
from visuomotor.policies.pi0 import ACTIONS as ACTIONS_OF_PI0
from visuomotor.policies.pi0 import EXPERT, PI0, STATE, PI0Config
from visuomotor.policies.pi05 import ACTIONS, PI05, PI05Config
from visuomotor.types import Batch, Camera, Dimension, Spec, Tokens

VOCABULARY = 256
BODY = Spec(
    embodiment="arm",
    cameras=tuple(Camera(name=name, height=224, width=224) for name in ("base", "left", "right")),
    state=tuple(Dimension(name=f"s{n}") for n in range(7)),
    action=tuple(Dimension(name=f"a{n}") for n in range(7)),
    rate=50.0,
)


def trunk(image: int, **changes: Any) -> PaliGemmaTrunkConfig:
    """PaliGemma, a tenth as wide."""
    decoder = gemma(256, 1024, layers=6, heads=4, head_width=64)
    language = LanguageModelConfig(decoder=decoder, vocabulary=VOCABULARY, word_scale=16.0)
    vision = SigLIPConfig(width=128, layers=6, heads=4, hidden=512, image=image, patch=14)
    return PaliGemmaTrunkConfig(paligemma=PaliGemmaConfig(vision=vision, language=language), **changes)


def policies(image: int = 224) -> dict[str, tuple[PI0 | PI05, int]]:
    """Each policy, and how many ids of its prompt are real."""
    torch.manual_seed(0)
    sizes: dict[str, int] = {"expert_width": 128, "expert_mlp_width": 512, "horizon": 50}
    pi0 = PI0(replace(PI0Config.published(), trunk=trunk(image), **sizes), {"data": BODY})  # type: ignore[arg-type]
    prompt = {"max_tokens": 200, "prompt": "instruction_and_state", "normalize": "quantile"}
    config = replace(PI05Config.published(), trunk=trunk(image, **prompt), **sizes)  # type: ignore[arg-type]
    pi05 = PI05(config, {"data": BODY})
    for parameter in pi05.expert.parameters():
        torch.nn.init.normal_(parameter, std=0.05)  # a fresh expert would change nothing
    return {"pi0": (pi0.eval(), 20), "pi05": (pi05.eval(), 60)}


def observation(policy: PI0 | PI05, real: int, image: int = 224) -> Batch:
    """One observation: the third camera is absent."""
    generator = torch.Generator().manual_seed(0)
    length = policy.config.trunk.max_tokens  # type: ignore[union-attr]
    attend = torch.arange(length)[None] < real
    yes = torch.ones(1, 1, dtype=torch.bool)
    numbers = torch.ones(1, 32, dtype=torch.bool)
    pixels = torch.randint(0, 256, (3, 1, 1, image, image, 3), generator=generator, dtype=torch.uint8)
    return Batch(
        images={camera.name: pixels[n] for n, camera in enumerate(BODY.cameras)},
        image_mask={"base": yes, "left": yes, "right": ~yes},
        state=torch.randn(1, 1, 32, generator=generator),
        history_mask=yes,
        state_mask=numbers,
        embodiment=torch.zeros(1, dtype=torch.long),
        action_mask=numbers,
        has_actions=torch.zeros(1, dtype=torch.bool),
        tokens=Tokens(
            ids=torch.randint(0, VOCABULARY, (1, length), generator=generator),
            attend=attend,
            loss=torch.zeros_like(attend),
            segment=torch.zeros(1, length, dtype=torch.long),
        ),
    )


def anew(policy: PI0 | PI05, batch: Batch, noise: Tensor) -> Tensor:
    """The chunk, with everything computed at every step, padding too."""

    def velocity(chunk: Tensor, at: Tensor) -> Tensor:
        seen = policy.trunk.observe(batch)
        first = seen.prefix
        if isinstance(policy, PI0):
            felt = Segment(tokens=policy.state(seen.state)[:, None], expert=EXPERT, block=STATE)
            tokens = policy.embed(chunk, policy.embed.timed(at[:, None]))
            segments = [first, felt, Segment(tokens=tokens, expert=EXPERT, block=ACTIONS_OF_PI0)]
        else:
            steering = policy.expert.steer(policy.condition(at[:, None]))
            tokens = policy.enter(chunk)
            segments = [first, Segment(tokens=tokens, expert=EXPERT, block=ACTIONS, steering=steering)]
        return policy.leave(run(policy.experts, segments)[0][-1])

    with mock.patch("torch.compiler.is_compiling", return_value=True):  # keeps what could be dropped
        return flow.integrate(velocity, noise, steps=policy.config.steps)


def ways(policy: PI0 | PI05, batch: Batch, noise: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Name of each way to the chunk -> the way."""

    def padded() -> Tensor:
        with mock.patch("torch.compiler.is_compiling", return_value=True):
            return policy.act(batch, noise=noise).actions

    return {
        "kept": lambda: policy.act(batch, noise=noise).actions,
        "padded": padded,
        "anew": lambda: anew(policy, batch, noise),
    }


def measure(policy: PI0 | PI05, real: int, *, repeats: int, image: int = 224) -> dict[str, Any]:
    """Milliseconds of each way, interleaved, and how far their chunks are apart."""
    batch = observation(policy, real, image)
    shape = (1, policy.config.horizon, policy.action_width)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    every = ways(policy, batch, noise)
    with torch.inference_mode():
        chunks = {name: way() for name, way in every.items()}
        spent: dict[str, list[float]] = {name: [] for name in every}
        for _ in range(repeats):
            for name, way in every.items():
                start = time.perf_counter()
                way()
                spent[name].append(1e3 * (time.perf_counter() - start))
    medians = {name: statistics.median(times) for name, times in spent.items()}
    return {
        "ms": {name: round(median, 2) for name, median in medians.items()},
        "ratio": {name: round(medians[name] / medians["kept"], 2) for name in ("padded", "anew")},
        "difference": max(float((chunk - chunks["kept"]).abs().max()) for chunk in chunks.values()),
        "repeats": repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7, help="how often each way is timed")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--out", type=Path, help="where to write the JSON object, too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found: dict[str, Any] = {"threads": args.threads, "torch": torch.__version__}
    print(f"{'':6} {'kept':>9} {'padded':>9} {'anew':>9}   anew / kept   difference")
    for name, (policy, real) in policies().items():
        one = found[name] = measure(policy, real, repeats=args.repeats)
        ms = one["ms"]
        print(
            f"{name:6} {ms['kept']:6.1f} ms {ms['padded']:6.1f} ms {ms['anew']:6.1f} ms "
            f"{one['ratio']['anew']:10.2f}x   {one['difference']:.1e}",
            flush=True,
        )
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
