"""Our ResNet-18 beside the one of transformers, with equal random weights."""

import pytest
import torch

from visuomotor.nn.resnet import ResNet18, load_resnet18

transformers = pytest.importorskip("transformers", reason="pip install -c constraints.txt '.[test]'")


def torchvision_name(name: str) -> str:
    """The name in torchvision's layout of an entry of transformers' `ResNetModel`."""
    name = name.replace("embedder.embedder.convolution", "conv1").replace(
        "embedder.embedder.normalization", "bn1"
    )
    if name.startswith("encoder.stages."):
        _, _, stage, _, block, *rest = name.split(".")
        part = ".".join(rest)
        for inner in (0, 1):
            part = part.replace(f"layer.{inner}.convolution", f"conv{inner + 1}")
            part = part.replace(f"layer.{inner}.normalization", f"bn{inner + 1}")
        part = part.replace("shortcut.convolution", "downsample.0").replace(
            "shortcut.normalization", "downsample.1"
        )
        return f"layer{int(stage) + 1}.{block}.{part}"
    return name


def test_features_equal_those_of_transformers() -> None:
    torch.manual_seed(0)
    theirs = transformers.ResNetModel(
        transformers.ResNetConfig(
            embedding_size=32,
            hidden_sizes=[32, 64, 128, 256],
            depths=[2, 2, 2, 2],
            layer_type="basic",
            hidden_act="relu",
            downsample_in_first_stage=False,
        )
    )
    for name, buffer in theirs.named_buffers():
        if "running" in name:
            buffer.uniform_(0.7, 1.3)
    for name, weight in theirs.named_parameters():
        if "normalization" in name:
            torch.nn.init.uniform_(weight, 0.7, 1.3)
    ours = ResNet18("frozen", width=32)
    load_resnet18(ours, {torchvision_name(name): value for name, value in theirs.state_dict().items()})
    pictures = torch.randn(2, 3, 70, 90)
    with torch.no_grad():
        expected = theirs.eval()(pictures).last_hidden_state
        found = ours(pictures)
    # A norm folded into its convolution rounds in another order; 20 layers of float32 add up to a few 1e-6.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
