import pytest
import torch
import torch.nn.functional as F

from visuomotor.errors import CheckpointError
from visuomotor.nn.pictures import standardize_pictures
from visuomotor.nn.resnet import (
    FrozenBatchNorm,
    ResNet18,
    load_resnet18,
)


def random_pictures(frames: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, height, width, 3), generator=generator, dtype=torch.uint8)


def shaken(network: ResNet18) -> ResNet18:
    """The network with statistics as training would leave them."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm):
            for name, buffer in module.named_buffers():
                shift = 0.0 if name in ("bias", "running_mean") else 1.0
                buffer.copy_(shift + 0.3 * (torch.rand(buffer.shape, generator=generator) - 0.5))
    return network


def test_it_has_the_published_number_of_weights() -> None:
    # torchvision's resnet18 has 11,689,512 parameters: without the classifier (513,000) 11,176,512,
    # of which 9,600 belong to batch norms, here frozen.
    frozen, group = ResNet18("frozen"), ResNet18("group")
    assert sum(weight.numel() for weight in frozen.parameters()) == 11_176_512 - 9_600
    assert sum(weight.numel() for weight in group.parameters()) == 11_176_512
    assert frozen.channels == 512


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_features_are_32_times_coarser(norm: str) -> None:
    network = ResNet18(norm, width=16)
    found = network(standardize_pictures(random_pictures(2, 64, 80)))
    assert found.shape == (2, 128, 2, 3)
    assert torch.isfinite(found).all()


def test_a_norm_within_the_convolution_is_the_norm_behind_it() -> None:
    network = shaken(ResNet18("frozen", width=16)).double()
    pictures = standardize_pictures(random_pictures(1, 64, 64)).double()

    def slowly(block: torch.nn.Module, maps: torch.Tensor) -> torch.Tensor:
        found = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(maps)))))
        return F.relu(found + (maps if block.downsample is None else block.downsample(maps)))

    maps = F.max_pool2d(F.relu(network.bn1(network.conv1(pictures))), 3, stride=2, padding=1)
    for number in range(1, 5):
        for block in network.get_submodule(f"layer{number}"):
            maps = slowly(block, maps)
    torch.testing.assert_close(network(pictures), maps, rtol=1e-12, atol=1e-12)  # the same sums in float64


def test_gradients_reach_every_weight() -> None:
    for norm in ("frozen", "group"):
        network = ResNet18(norm, width=16)
        network(standardize_pictures(random_pictures(2, 64, 64))).square().sum().backward()
        assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


def test_a_state_dict_with_a_classifier_is_loaded() -> None:
    network, other = shaken(ResNet18(width=16)), ResNet18(width=16)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    weights |= {"fc.weight": torch.zeros(10, 128), "bn1.num_batches_tracked": torch.zeros(())}
    load_resnet18(other, weights)
    assert all(torch.equal(value, weights[name]) for name, value in other.state_dict().items())


def test_missing_and_unknown_names_are_errors_with_the_closest_name() -> None:
    network = ResNet18(width=16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = {name: value + 1 for name, value in before.items()}
    weights["layer1.0.convolution1.weight"] = weights.pop("layer1.0.conv1.weight")
    with pytest.raises(
        CheckpointError, match=r"'layer1.0.conv1.weight' \(closest: 'layer1.0.convolution1.weight'\)"
    ):
        load_resnet18(network, weights, "here")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(CheckpointError, match=r"1 are unknown.*bonus"):
        load_resnet18(network, {**before, "bonus": torch.zeros(1)})
    with pytest.raises(
        CheckpointError, match=r"conv1.weight.*expected shape \(16, 3, 7, 7\), got \(16, 3, 3, 3\)"
    ):
        load_resnet18(network, {**before, "conv1.weight": torch.zeros(16, 3, 3, 3)})


def test_sizes_that_no_group_divides_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        ResNet18(width=24)
    with pytest.raises(ValueError, match=r"Did you mean 'frozen'"):
        ResNet18("frozn")  # type: ignore[arg-type]
