"""The part of `benchmarks/policies.py` that runs in an environment of its own, with lerobot.

Imports nothing of visuomotor. Pictures come normalized, so that lerobot's preprocessing is not counted.
"""

from __future__ import annotations

from typing import Any

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from safetensors.torch import load_file, save_file
from serve import cores, serve, timed, versions

FEATURES = {"act": (14, 14, (3, 480, 640)), "diffusion": (2, 2, (3, 96, 96))}  # state, action, picture


class Side:
    """The policies, and what they are shown."""

    def __init__(self) -> None:
        self.policies: dict[str, Any] = {}
        self.batches: dict[str, dict[str, torch.Tensor]] = {}
        self.optimizer: torch.optim.Optimizer | None = None

    def make(self, kind: str, cameras: int, weights: str) -> dict[str, Any]:
        """Build a policy of the published size and write its weights."""
        state, action, picture = FEATURES[kind]
        inputs = {"observation.state": PolicyFeature(FeatureType.STATE, (state,))}
        for number in range(cameras):
            inputs[f"observation.images.camera{number}"] = PolicyFeature(FeatureType.VISUAL, picture)
        shared: dict[str, Any] = {
            "input_features": inputs,
            "output_features": {"action": PolicyFeature(FeatureType.ACTION, (action,))},
            "pretrained_backbone_weights": None,
            "device": "cpu",
        }
        torch.manual_seed(0)
        if kind == "act":
            policy: Any = ACTPolicy(ACTConfig(**shared))
        else:
            config = DiffusionConfig(
                **shared,
                horizon=16,
                n_action_steps=15,
                use_group_norm=True,
                crop_shape=(84, 84),
                noise_scheduler_type="DDIM",
                num_inference_steps=10,
            )
            policy = DiffusionPolicy(config)
        save_file({name: value.contiguous() for name, value in policy.state_dict().items()}, weights)
        self.policies[kind] = policy.eval()
        return {"parameters": sum(weight.numel() for weight in policy.parameters())}

    def show(self, name: str, path: str) -> dict[str, Any]:
        """Take inputs: of a policy, or of its training."""
        self.batches[name] = load_file(path)
        return {}

    def chunk(self, kind: str, calls: int, out: str = "") -> dict[str, Any]:
        """Time calls that answer a chunk; or write what it answers."""
        policy, batch = self.policies[kind].eval(), self.batches[kind]
        seen = {name: value for name, value in batch.items() if name != "noise"}
        noise = {"noise": batch["noise"]} if "noise" in batch else {}
        if out:
            save_file({"chunk": policy.predict_action_chunk(dict(seen), **noise).contiguous()}, out)
            return {}
        return timed(lambda: policy.predict_action_chunk(dict(seen), **noise), calls)

    def train(self, calls: int) -> dict[str, Any]:
        """Time training steps of ACT, as its training script does them."""
        policy, batch = self.policies["act"].train(), self.batches["train"]
        if self.optimizer is None:
            preset = policy.config.get_optimizer_preset()
            self.clip, self.optimizer = preset.grad_clip_norm, preset.build(policy.get_optim_params())
        optimizer = self.optimizer

        def step() -> None:
            loss, _ = policy.forward(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), self.clip)
            optimizer.step()
            optimizer.zero_grad()

        return timed(step, calls)

    def scheduler(self, calls: int) -> dict[str, Any]:
        """Time what diffusers does in ten steps of DDIM beside asking the network."""
        scheduler = self.policies["diffusion"].diffusion.noise_scheduler
        scheduler.set_timesteps(10)
        noise = self.batches["diffusion"]["noise"]

        def sample() -> None:
            points = noise
            for step in scheduler.timesteps:
                points = scheduler.step(noise, step, points).prev_sample

        with torch.no_grad():
            return timed(sample, calls)

    def forget(self, kind: str) -> dict[str, Any]:
        """Free a policy."""
        self.policies.pop(kind)
        self.optimizer = None
        return {}


def plain(calls: int) -> dict[str, Any]:
    """Time a convolution and a product: what this torch itself is worth."""
    maps, kernel = torch.ones(1, 128, 60, 80), torch.ones(128, 128, 3, 3)
    tokens, weight = torch.ones(302, 512), torch.ones(3200, 512)

    def compute() -> None:
        torch.conv2d(maps, kernel, padding=1)
        torch.nn.functional.linear(tokens, weight)

    with torch.no_grad():
        return timed(compute, calls)


def start() -> dict[str, Any]:
    torch.set_num_threads(1)
    return versions("lerobot", "torch", "diffusers", "numpy")


def main() -> None:
    side = Side()
    serve(
        {
            "versions": start,
            "cores": cores,
            "plain": plain,
            "make": side.make,
            "show": side.show,
            "chunk": side.chunk,
            "train": side.train,
            "scheduler": side.scheduler,
            "forget": side.forget,
        }
    )


if __name__ == "__main__":
    main()
