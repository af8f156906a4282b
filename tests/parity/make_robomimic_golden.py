"""Makes tests/parity/robomimic_golden: what robomimic 0.3.0 answers, with weights that ours can have, too.

robomimic gets an environment of its own; of the simulators that it names nothing is needed:

    python3.11 -m venv /tmp/robomimic-env
    /tmp/robomimic-env/bin/pip install torch torchvision numpy h5py psutil tqdm termcolor matplotlib \
        imageio imageio-ffmpeg tensorboardX six safetensors
    /tmp/robomimic-env/bin/pip install --no-deps "robomimic==0.3.0"
    /tmp/robomimic-env/bin/python tests/parity/make_robomimic_golden.py

`answers.safetensors`: inputs and answers of small networks. `published.json`: how many weights the
published sizes have, and for three of them name and shape of each entry of the state dict. Weights are in
no file, but made by `seeded_weights` on both sides.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from robomimic.models import policy_nets
from robomimic.utils import obs_utils
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from seeded_weights import seeded, seeded_weights

GOLDEN = Path(__file__).parent / "robomimic_golden"
LOW = {"arm": (3,), "zone": (2,)}  # between them, by name, come the pictures
SEEN = OrderedDict(arm=(3,), front_image=(3, 84, 84), wrist_image=(3, 84, 84), zone=(2,))
ACTION, BATCH, TICKS, CONTEXT = 3, 2, 12, 4
TEMPERATURE = 0.5
NOTHING = {"core_class": None, "core_kwargs": {}, "obs_randomizer_class": None, "obs_randomizer_kwargs": {}}
PICTURES = {
    "core_class": "VisualCore",
    "core_kwargs": {
        "backbone_class": "ResNet18Conv",
        "backbone_kwargs": {"pretrained": False, "input_coord_conv": False},
        "pool_class": "SpatialSoftmax",
        "pool_kwargs": {
            "num_kp": 32,
            "learnable_temperature": False,
            "temperature": 1.0,
            "noise_std": 0.0,
        },
        "feature_dimension": 64,
    },
    "obs_randomizer_class": "CropRandomizer",
    "obs_randomizer_kwargs": {"crop_height": 76, "crop_width": 76, "num_crops": 1, "pos_enc": False},
}
SMALL_TRANSFORMER = {
    "transformer_embed_dim": 16,
    "transformer_num_layers": 2,
    "transformer_num_heads": 2,
    "transformer_context_length": CONTEXT,
    "transformer_nn_parameter_for_timesteps": True,
}
TRANSFORMER = {
    **SMALL_TRANSFORMER,
    "transformer_embed_dim": 512,
    "transformer_num_layers": 6,
    "transformer_num_heads": 8,
    "transformer_context_length": 10,
}


def build(kind: str, shapes: dict[str, Any], action: int = ACTION, **sizes: Any) -> nn.Module:
    """A network that acts, with the defaults of robomimic's configs."""
    pictures = [name for name, shape in shapes.items() if len(shape) == 3]
    states = [name for name in shapes if name not in pictures]
    obs_utils.initialize_obs_utils_with_obs_specs([{"obs": {"low_dim": states, "rgb": pictures}}])
    if kind.startswith("RNN"):
        sizes |= {"rnn_num_layers": 2, "rnn_kwargs": {"bidirectional": False}}
    if "GMM" in kind:
        sizes |= {"num_modes": 5, "min_std": 0.0001, "low_noise_eval": False}
    network = getattr(policy_nets, f"{kind}ActorNetwork")(
        obs_shapes=OrderedDict(shapes),
        ac_dim=action,
        encoder_kwargs={"low_dim": NOTHING, "rgb": PICTURES},
        **sizes,
    )
    return network.eval()


def put(network: nn.Module) -> nn.Module:
    """The same with seeded weights, and a temperature that is not 1."""
    learned = dict(network.named_parameters())
    learned |= {name: value for name, value in network.named_buffers() if "running" in name}
    weights = seeded_weights({f"policy.{name}": tuple(value.shape) for name, value in learned.items()})
    with torch.no_grad():
        for name, value in learned.items():
            value.copy_(torch.from_numpy(weights[f"policy.{name}"]))
        for name, value in network.named_buffers():
            if name.endswith("temperature"):
                value.fill_(TEMPERATURE)
    return network


def observed(shapes: dict[str, Any], ticks: int) -> dict[str, Tensor]:
    """Numbers for states, pixels in [0, 1] for pictures; ticks first in pictures' names, too."""
    found = {}
    for name, shape in shapes.items():
        if len(shape) == 3:
            pixels = seeded(name, (BATCH, ticks, *shape), 0, 256)
            found[name] = torch.from_numpy(pixels).to(torch.uint8).float() / 255
        else:
            found[name] = torch.from_numpy(seeded(name, (BATCH, ticks, *shape)))
    return found


def parameters(mixture: Any) -> dict[str, Tensor]:
    """Logarithms of the weights, means and spreads of a distribution over actions."""
    components = mixture.component_distribution.base_dist
    return {
        "weights": mixture.mixture_distribution.probs.log(),
        "mean": components.loc,
        "std": components.scale,
    }


def answers() -> dict[str, Tensor]:
    """Everything that goes into the file."""
    seen = observed(LOW, TICKS)
    last = {name: value[:, -1] for name, value in seen.items()}
    recent = {name: value[:, -CONTEXT:] for name, value in seen.items()}
    actions = torch.from_numpy(seeded("action", (BATCH, ACTION)))
    found = {f"observed/{name}": value for name, value in seen.items()} | {"action": actions}

    def keep(name: str, mixture: Any) -> None:
        found.update({f"{name}/{part}": value for part, value in parameters(mixture).items()})

    found["mlp-mse"] = put(build("", LOW, mlp_layer_dims=(8, 6)))(last)
    mlp = put(build("GMM", LOW, mlp_layer_dims=(8, 6)))
    keep("mlp-mixture", mlp.forward_train(last))
    found["mlp-mixture/log_prob"] = mlp.forward_train(last).log_prob(actions)
    found["lstm-mse"] = put(build("RNN", LOW, mlp_layer_dims=(), rnn_hidden_dim=8))(seen)
    keep("lstm-mixture", put(build("RNNGMM", LOW, mlp_layer_dims=(), rnn_hidden_dim=8)).forward_train(seen))
    found["lstm-mse-behind"] = put(build("RNN", LOW, mlp_layer_dims=(7,), rnn_hidden_dim=8))(seen)
    found["lstm-mse-acting"] = acting(put(build("RNN", LOW, mlp_layer_dims=(), rnn_hidden_dim=8)), seen)
    found["transformer-mse"] = put(build("Transformer", LOW, **SMALL_TRANSFORMER))(recent)[:, -1]
    transformer = put(build("TransformerGMM", LOW, **SMALL_TRANSFORMER))
    keep("transformer-mixture", transformer.forward_train(recent))
    pictures = put(build("RNNGMM", SEEN, mlp_layer_dims=(), rnn_hidden_dim=8))
    keep("pictures", pictures.forward_train(observed(SEEN, 2)))
    transformer = put(build("TransformerGMM", SEEN, **SMALL_TRANSFORMER))
    keep("transformer-pictures", transformer.forward_train(observed(SEEN, CONTEXT)))
    return found


def acting(network: Any, seen: dict[str, Tensor], horizon: int = 10) -> Tensor:
    """Tick by tick, with a memory that is emptied every 10 ticks, as robomimic's `BC_RNN.get_action` does."""
    state, actions = None, []
    for tick in range(TICKS):
        if tick % horizon == 0:
            state = network.get_rnn_init_state(BATCH, device="cpu")
        now = {name: value[:, tick] for name, value in seen.items()}
        action, state = network.forward_step(now, rnn_state=state)
        actions.append(action)
    return torch.stack(actions, dim=1)


def published() -> dict[str, Any]:
    """Published sizes, for 7 actions: two cameras and 9 numbers, or 19 numbers."""
    seen = OrderedDict(
        agentview_image=(3, 84, 84),
        robot0_eef_pos=(3,),
        robot0_eef_quat=(4,),
        robot0_eye_in_hand_image=(3, 84, 84),
        robot0_gripper_qpos=(2,),
    )
    told = OrderedDict(object=(10,), robot0_eef_pos=(3,), robot0_eef_quat=(4,), robot0_gripper_qpos=(2,))
    mlp, nothing = (1024, 1024), ()
    networks = {
        "mlp-mixture-pictures": (build("GMM", seen, 7, mlp_layer_dims=mlp), seen),
        "lstm-mixture-pictures": (
            build("RNNGMM", seen, 7, mlp_layer_dims=nothing, rnn_hidden_dim=1000),
            seen,
        ),
        "transformer-mixture-pictures": (build("TransformerGMM", seen, 7, **TRANSFORMER), seen),
        "mlp-mse-states": (build("", told, 7, mlp_layer_dims=mlp), told),
        "lstm-mixture-states": (
            build("RNNGMM", told, 7, mlp_layer_dims=nothing, rnn_hidden_dim=400),
            told,
        ),
        "transformer-mse-states": (build("Transformer", told, 7, **TRANSFORMER), told),
    }
    listed = ("lstm-mixture-pictures", "mlp-mse-states", "transformer-mse-states")
    return {
        name: {
            "parameters": sum(weight.numel() for weight in network.parameters() if weight.requires_grad),
            "observations": {key: list(shape) for key, shape in shapes.items()},
            "shapes": {f"policy.{key}": list(value.shape) for key, value in network.state_dict().items()}
            if name in listed
            else None,
        }
        for name, (network, shapes) in networks.items()
    }


def main() -> None:
    """Write both files."""
    GOLDEN.mkdir(exist_ok=True)
    with torch.no_grad():
        found = answers()
    save_file({name: value.contiguous() for name, value in found.items()}, GOLDEN / "answers.safetensors")
    (GOLDEN / "published.json").write_text(json.dumps(published()) + "\n")
    for path in sorted(GOLDEN.iterdir()):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()
