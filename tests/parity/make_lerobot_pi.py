"""Makes tests/parity/lerobot_pi: what pi0.5 and pi0-FAST of lerobot 0.6.1 answer, for weights of ours.

lerobot gets an environment of its own (it cannot share one with the newest torch):

    python3.12 -m venv /tmp/lerobot-env
    /tmp/lerobot-env/bin/pip install "lerobot[pi]==0.6.1"
    /tmp/lerobot-env/bin/python tests/parity/make_lerobot_pi.py

Its policies come in two sizes, 2 billion weights and 300 million; so the table of sizes is replaced, and what
else is fixed in their constructors (words, the tower) is made small where they hand it to transformers. Only
the 8 heads stay: pi0.5 has that number in its layers. The tokenizers are on the hub; they are replaced by the
two ids that the network asks for, and prompts and actions are ids from the start.

For each policy the `.json` holds names and shapes of what its `save_pretrained` writes; the weights are not
in a file, but made by `seeded_weights` on both sides. The `.safetensors` has inputs and answers: pi0.5's loss
of every number at a given noise and time, and the chunk of 10 steps from a given noise; pi0-FAST's loss and
scores of given tokens, and the tokens that it writes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.pi0_fast import modeling_pi0_fast as pi0_fast
from lerobot.policies.pi0_fast.configuration_pi0_fast import PI0FastConfig
from lerobot.policies.pi05 import modeling_pi05 as pi05
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pretrained import PreTrainedPolicy
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from seeded_weights import seeded, seeded_weights

GOLDEN = Path(__file__).parent / "lerobot_pi"
BATCH, IMAGE, WORDS, PROMPT, HORIZON, REAL, PADDED, WRITTEN = 2, 32, 256, 6, 5, 4, 6, 7
CAMERAS = ("front", "wrist")
BEGIN, END = 2, 63  # ids of the words that begin a text and end a chunk
ATTENTION = {"depth": 3, "num_heads": 8, "num_kv_heads": 1, "head_dim": 4}
SIZES = {
    "gemma_2b": {"width": 24, "mlp_dim": 40, **ATTENTION},
    "gemma_300m": {"width": 16, "mlp_dim": 32, **ATTENTION},
}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": IMAGE,
    "patch_size": 8,
    "projection_dim": 24,
}
SMALL = {
    "paligemma_variant": "gemma_2b",
    "action_expert_variant": "gemma_300m",
    "dtype": "float32",
    "chunk_size": HORIZON,
    "n_action_steps": HORIZON,
    "max_state_dim": PADDED,
    "max_action_dim": PADDED,
    "image_resolution": (IMAGE, IMAGE),
    "device": "cpu",
}


def shrunk(kind: Any) -> Any:
    """A constructor of transformers whose tower and words are small, whatever it is told."""

    def make(config: Any) -> Any:
        for name, value in TOWER.items() if hasattr(config, "vision_config") else ():
            setattr(config.vision_config, name, value)
        text = getattr(config, "text_config", config)
        text.vocab_size = WORDS
        if text is not config:
            config.projection_dim = text.hidden_size
            config.image_token_id = WORDS - 1
        return kind(config)

    return make


def build(module: Any, kind: type[PreTrainedPolicy], config: Any) -> PreTrainedPolicy:
    """A small policy with seeded weights, and names and shapes of what it saves."""
    config.input_features = {"observation.state": PolicyFeature(FeatureType.STATE, (REAL,))} | {
        f"observation.images.{camera}": PolicyFeature(FeatureType.VISUAL, (3, IMAGE, IMAGE))
        for camera in CAMERAS
    }
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (REAL,))}
    tokenizer = SimpleNamespace(bos_token_id=BEGIN, convert_tokens_to_ids=lambda _: END)
    stands = {name: getattr(module, name) for name in ("PaliGemmaForConditionalGenerationWithPiGemma",)}
    if module is pi05:
        stands["PiGemmaForCausalLM"] = module.PiGemmaForCausalLM
    replaced: dict[str, Any] = {name: shrunk(value) for name, value in stands.items()}
    replaced["get_gemma_config"] = lambda variant: module.GemmaConfig(**SIZES[variant])
    if module is pi0_fast:
        loaded = SimpleNamespace(from_pretrained=lambda *_, **__: tokenizer)
        replaced |= {"AutoProcessor": loaded, "AutoTokenizer": loaded}
    with mock.patch.multiple(module, **replaced):
        policy = kind(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        policy.save_pretrained(folder)
        shapes = {
            name: tuple(value.shape) for name, value in load_file(f"{folder}/model.safetensors").items()
        }
    weights = {name: torch.from_numpy(value) for name, value in seeded_weights(shapes).items()}
    missing, unexpected = policy.load_state_dict(weights, strict=False)
    fixed = [
        name for name in missing if "lm_head" not in name and "embed_tokens" not in name
    ]  # tied, or unused
    assert not fixed, fixed
    assert not unexpected, unexpected
    path = GOLDEN / f"{policy.name}.json"
    path.write_text(json.dumps(shapes, indent=0).replace(",\n ", ", ") + "\n")
    return policy


def inputs() -> tuple[dict[str, torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """What both are given; pictures as the networks take them, and which of them are there.

    The second sample has no wrist camera, and its prompt is shorter.
    """
    prompt = torch.tensor([[7, 11, 3, 40, 21, 9], [30, 5, 5, 17, 0, 0]])
    found = {"prompt": prompt, "prompt_mask": torch.tensor([[True] * 6, [True] * 4 + [False] * 2])}
    images = []
    for camera in CAMERAS:
        pixels = torch.from_numpy(seeded(camera, (BATCH, IMAGE, IMAGE, 3), 0, 256)).to(torch.uint8)
        images.append(pixels.permute(0, 3, 1, 2) / 127.5 - 1)
    there = [torch.tensor([True, True]), torch.tensor([True, False])]
    return found, images, there


def answer_pi05() -> dict[str, torch.Tensor]:
    """Loss of every number, and chunks."""
    policy = build(pi05, pi05.PI05Policy, PI05Config(**SMALL, num_inference_steps=10))
    found, images, there = inputs()
    shape = (BATCH, HORIZON, PADDED)
    actions = torch.from_numpy(seeded("action", shape))
    actions[..., REAL:] = 0
    noise = torch.from_numpy(seeded("noise", shape, -2, 2))
    time = torch.tensor([0.25, 0.875])  # exact in float32: the fastest wave has a period of 0.004
    given = (images, there, found["prompt"], found["prompt_mask"])
    with torch.no_grad():
        losses = policy.model.forward(*given, actions, noise, time)
        chunk = policy.model.sample_actions(*given, noise=noise)
    return found | {"action": actions, "noise": noise, "time": time, "losses": losses, "chunk": chunk}


def answer_pi0_fast() -> dict[str, torch.Tensor]:
    """Loss and scores of tokens behind the prompt, and the likeliest ones, with and without a cache."""
    policy = build(pi0_fast, pi0_fast.PI0FastPolicy, PI0FastConfig(**SMALL, max_action_tokens=WRITTEN))
    found, images, there = inputs()
    tokens = torch.tensor([[BEGIN, 50, 12, 44, 33, END, 1], [BEGIN, 50, 39, END, 1, 0, 0]])
    real = torch.tensor([[True] * WRITTEN, [True] * 5 + [False] * 2])
    given = (images, there, found["prompt"], found["prompt_mask"])
    scores = []
    head = policy.model.paligemma_with_expert.paligemma.lm_head
    handle = head.register_forward_hook(lambda _module, _inputs, output: scores.append(output))
    with torch.no_grad():
        loss = policy.model.forward(*given, tokens, real)["loss"]
        handle.remove()
        slow = policy.model.sample_actions_fast(*given, max_decoding_steps=WRITTEN)
        written = policy.model.sample_actions_fast_kv_cache(*given, max_decoding_steps=WRITTEN)
    found |= {"token": tokens, "token_mask": real, "loss": loss, "scores": scores[0]}
    return found | {"written": written, "written_slowly": slow}


def main() -> None:
    """Write the files."""
    GOLDEN.mkdir(exist_ok=True)
    for name, answer in (("pi05", answer_pi05), ("pi0_fast", answer_pi0_fast)):
        found = {key: value.contiguous() for key, value in answer().items()}
        save_file(found, GOLDEN / f"{name}.safetensors")
    for path in sorted(GOLDEN.iterdir()):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
