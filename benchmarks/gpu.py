"""Published sizes on one accelerator: milliseconds a chunk, share of the roofline, training tokens a second.

    ./run bench gpu [--policies pi0 pi05] [--cameras 2 3] [--modes eager compiled graphs] [--out gpu.json]
    ./run bench gpu --device cpu --tiny        every part on any machine, in seconds

Random bfloat16 weights, ten steps, batch 1, prompts of 20 of 48 tokens (pi0) or 60 of 200 (pi0.5).
`compiled` is an agent's `compile=True`, `graphs` the same with CUDA graphs. The roofline is the sum over
the three phases (pictures, prefix, all steps of the flow) of the larger of compute and memory time;
`--tflops` and `--bandwidth` say what the device can do (defaults: 790 and 4.3, an H200 in bfloat16).
Training is one step of forward and backward; its share of peak counts three forward passes. The last line
is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from visuomotor.agent.compiled import CompiledAct
from visuomotor.nn.weights import unfilled
from visuomotor.perception.paligemma_trunk import PaliGemmaTrunkConfig
from visuomotor.policies.pi0 import PI0, PI0Config
from visuomotor.policies.pi05 import PI05, PI05Config
from visuomotor.types import Batch, Camera, Dimension, Spec, Tokens

WORDS = {"pi0": 20, "pi05": 60}


def body(cameras: int, image: int) -> Spec:
    """An arm with so many cameras."""
    return Spec(
        embodiment="arm",
        cameras=tuple(Camera(name=f"camera {n}", height=image, width=image) for n in range(cameras)),
        state=tuple(Dimension(name=f"state {n}") for n in range(7)),
        action=tuple(Dimension(name=f"action {n}") for n in range(7)),
        rate=50.0,
    )


def build(name: str, cameras: int, *, device: str, tiny: bool) -> PI0 | PI05:
    """A policy with random weights in bfloat16."""
    config: Any = {"pi0": PI0Config, "pi05": PI05Config}[name].published()
    trunk = config.trunk
    if tiny:
        from visuomotor.backbones.paligemma import PaliGemmaConfig

        sizes: Any = {"expert_width": 16, "expert_mlp_width": 32, "horizon": 5}
        trunk = PaliGemmaTrunkConfig(
            paligemma=PaliGemmaConfig.tiny(),
            max_tokens=trunk.max_tokens,
            normalize=trunk.normalize,
            prompt=trunk.prompt,
        )
        config = replace(config, **sizes)
    image = trunk.paligemma.vision.image
    kind = {"pi0": PI0, "pi05": PI05}[name]
    with unfilled():
        policy = kind(replace(config, trunk=trunk), {"data": body(cameras, image)}).to(torch.bfloat16)
    policy = policy.to_empty(device=device).eval()
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.normal_(std=0.02, generator=generator)
    return policy


def words_of(policy: PI0 | PI05) -> int:
    """Tokens of a prompt; the rest of its columns is padding."""
    return WORDS["pi05" if isinstance(policy, PI05) else "pi0"]


def observed(policy: PI0 | PI05, *, device: str, batch: int = 1) -> Batch:
    """Observations in which everything is there, with chunks to learn."""
    trunk: Any = policy.config.trunk
    columns, numbers = trunk.max_tokens, torch.ones(batch, 32, dtype=torch.bool, device=device)
    views = next(iter(policy.bodies.values())).cameras
    yes = torch.ones(batch, 1, dtype=torch.bool, device=device)
    attend = (torch.arange(columns, device=device) < words_of(policy)).expand(batch, columns)
    size = (batch, 1, views[0].height, views[0].width, 3)
    ids = torch.randint(0, trunk.paligemma.language.vocabulary, (batch, columns), device=device)
    horizon = policy.config.horizon
    return Batch(
        images={v.name: torch.randint(0, 256, size, dtype=torch.uint8, device=device) for v in views},
        image_mask={view.name: yes for view in views},
        state=torch.randn(batch, 1, 32, device=device),
        history_mask=yes,
        state_mask=numbers,
        embodiment=torch.zeros(batch, dtype=torch.long, device=device),
        actions=torch.randn(batch, horizon, 32, device=device),
        horizon_mask=torch.ones(batch, horizon, dtype=torch.bool, device=device),
        action_mask=numbers,
        has_actions=yes[:, 0],
        tokens=Tokens(ids=ids, attend=attend, loss=attend & False, segment=ids * 0),
    )


def weights(*parts: nn.Module) -> int:
    """Numbers of all linear maps in some parts."""
    kinds = (nn.Linear, nn.Conv2d)
    return sum(m.weight.numel() for part in parts for m in part.modules() if isinstance(m, kinds))


def work(policy: PI0 | PI05, cameras: int) -> dict[str, tuple[float, float]]:
    """Operations and bytes of each phase of a chunk."""
    trunk: Any = policy.trunk
    vision, decoder = trunk.paligemma.vision, trunk.decoder
    sight, layers = vision.config, decoder.config.layers
    patches, words = sight.tokens, words_of(policy)
    prefix = cameras * patches + words
    suffix, steps = policy.config.horizon, policy.config.steps
    heads = decoder.config.heads * decoder.config.head_width
    seen = weights(vision, trunk.paligemma.project)
    read = weights(decoder) - weights(*unread_parts(policy))
    drawn = weights(policy.expert) - weights(*steering_parts(policy))
    kept = layers * 2 * prefix * decoder.config.kv_heads * decoder.config.head_width * 2
    flops = {
        "pictures": cameras * (2 * seen * patches + sight.layers * 4 * patches**2 * sight.width),
        "prefix": 2 * read * prefix + layers * 4 * prefix**2 * heads,
        "flow": steps * (2 * drawn * suffix + layers * 4 * suffix * (prefix + suffix) * heads),
    }
    moved = {"pictures": 2 * seen, "prefix": 2 * read, "flow": steps * (2 * drawn + kept)}
    return {phase: (float(flops[phase]), float(moved[phase])) for phase in flops}


def unread_parts(policy: PI0 | PI05) -> tuple[nn.Module, ...]:
    """Parts of the trunk that nothing computes."""
    from visuomotor.perception.trunk import unread

    return unread(policy.trunk.decoder)


def steering_parts(policy: PI0 | PI05) -> list[nn.Module]:
    """Maps of the expert that depend on flow time alone, which a table replaces."""
    return [module for name, module in policy.expert.named_modules() if name.endswith("steer")]


def timed(call: Callable[[], Any], device: str, repeats: int) -> float:
    """Median milliseconds of a call, after three that are not counted."""
    spent = []
    for number in range(repeats + 3):
        if device != "cpu":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        if number >= 3:
            spent.append(1e3 * (time.perf_counter() - start))
    return statistics.median(spent)


def chunks(name: str, cameras: int, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds a chunk in each mode, and the roofline."""
    policy = build(name, cameras, device=args.device, tiny=args.tiny)
    batch = observed(policy, device=args.device)
    every = work(policy, cameras)
    phases = {
        phase: 1e3 * max(flops / (1e12 * args.tflops), moved / (1e12 * args.bandwidth))
        for phase, (flops, moved) in every.items()
    }
    floor = sum(phases.values())
    found: dict[str, Any] = {
        "roofline_ms": round(floor, 3),
        "phases_ms": {k: round(v, 3) for k, v in phases.items()},
    }
    for mode in args.modes:
        generator = torch.Generator(args.device).manual_seed(0)
        act = partial(policy.act, generator=generator)
        if mode != "eager":
            torch._dynamo.reset()
            act = partial(CompiledAct(policy, graphs=mode == "graphs"), generator=generator)
        with torch.no_grad():
            spent = timed(partial(act, batch), args.device, args.repeats)
        found[mode] = {"ms": round(spent, 2), "share": round(floor / spent, 3)}
        share = f"{100 * floor / spent:5.1f} % of the roofline"
        print(f"{name} {cameras} cameras {mode:9} {spent:8.2f} ms  {share}", flush=True)
    return found


def training(name: str, cameras: int, args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of forward and backward passes, and their share of peak."""
    policy = build(name, cameras, device=args.device, tiny=args.tiny).train()
    batch = observed(policy, device=args.device, batch=args.batch)
    generator = torch.Generator(args.device).manual_seed(0)

    def step() -> None:
        policy.loss(batch, generator=generator).total().backward()
        policy.zero_grad(set_to_none=True)

    spent = timed(step, args.device, max(args.repeats // 4, 1)) / 1e3
    every = work(policy, cameras)
    once = every["pictures"][0] + every["prefix"][0] + every["flow"][0] / policy.config.steps
    trunk: Any = policy.trunk
    tokens = cameras * trunk.config.paligemma.vision.tokens + words_of(policy) + policy.config.horizon
    share = 3 * once * args.batch / spent / (1e12 * args.tflops)
    rate = args.batch * tokens / spent
    print(f"{name} {cameras} cameras training {rate:10.0f} tokens/s  {100 * share:5.1f} % of peak")
    return {"tokens_per_second": round(rate), "share_of_peak": round(share, 4)}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="where to compute")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that every part works")
    parser.add_argument("--policies", nargs="+", choices=list(WORDS), default=list(WORDS), help="which ones")
    parser.add_argument("--cameras", nargs="+", type=int, default=[2, 3], help="pictures of an observation")
    parser.add_argument(
        "--modes", nargs="+", choices=["eager", "compiled", "graphs"], default=["eager", "compiled", "graphs"]
    )
    parser.add_argument("--repeats", type=int, default=30, help="calls that are timed")
    parser.add_argument(
        "--batch", type=int, default=8, help="observations of a training step; 0 for no training"
    )
    parser.add_argument("--tflops", type=float, default=790.0, help="of the device in bfloat16")
    parser.add_argument("--bandwidth", type=float, default=4.3, help="of its memory in terabytes a second")
    parser.add_argument("--out", type=Path, help="where to write the JSON object, too")
    args = parser.parse_args(argv)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no NVIDIA GPU here; see --device cpu --tiny")
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device
    found: dict[str, Any] = {"device": device, "torch": torch.__version__, "tiny": args.tiny}
    for name in args.policies:
        found[name] = {f"{cameras} cameras": chunks(name, cameras, args) for cameras in args.cameras}
        if args.batch:
            found[name]["training"] = training(name, max(args.cameras), args)
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
