"""Image -> Regions: that features are those of the boxes, for every kind of image, proposal and backbone."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import transformers
from conftest import EXAMPLES
from PIL import Image
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.feature_extraction import create_feature_extractor

from modeling_vilbert import backbones, extraction, optional_packages
from modeling_vilbert.bulk_extraction import extract_to_folder
from modeling_vilbert.cli import main
from modeling_vilbert.extraction import Detector, GivenBoxes, Grid, RegionExtractor, open_image
from modeling_vilbert.regions import open_regions


TINY = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
DETR_SIZE = {"shortest_edge": 64, "longest_edge": 128}
PLAIN = {"image_mean": (0, 0, 0), "image_std": (1, 1, 1)}


def colours(stride: int = 32, **options) -> RegionExtractor:
    """Its features are mean colours, so that the right answer is known."""
    settings = {"size_divisor": stride, "short_side": 448, "long_side": 896, **PLAIN, **options}
    return RegionExtractor(nn.AvgPool2d(stride), **settings)


def bright(width: int, height: int, box: tuple[int, ...]) -> Image.Image:
    picture = Image.new("RGB", (width, height))
    picture.paste("white", box)
    return picture


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


# --- Places


@pytest.mark.parametrize("size", [(448, 448), (896, 448), (448, 672), (100, 80), (37, 111), (2000, 1300)])
@pytest.mark.parametrize("rows, columns", [(4, 4), (2, 7), (1, 3)])
def test_a_bright_cell_of_a_grid_is_bright_alone(size, rows, columns):
    extractor = colours(4, proposals=Grid(rows, columns))
    boxes = extractor(Image.new("RGB", size)).boxes
    for number in (0, columns - 1, len(boxes) // 2, len(boxes) - 1):
        box = boxes[number].round().astype(int).tolist()
        features = extractor(bright(*size, box)).features[:, 0]
        assert features.argmax() == number
        # Edges of pixels and cells cut through each other: so much, and never a neighbour's share.
        assert features[number] > 0.9 and np.delete(features, number).max() < 0.1


def far_seeing() -> nn.Module:
    """Each cell of its map has seen the whole image."""
    return nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 5, 31, padding=15, padding_mode="replicate"))


def test_crops_tell_of_nothing_beside_their_box():
    torch.manual_seed(0)
    boxes, picture = [[3, 5, 11, 14], [0.5, 1.5, 30.2, 28.9], [30, 20, 40, 30]], noise(40, 30)
    beside = picture.copy()
    beside.paste("red", (15, 0, 40, 30))
    beside.paste("red", (0, 15, 15, 30))
    settings = {"size_divisor": 4, **PLAIN}
    for crop_size, alone in ((None, False), (32, True)):
        extractor = RegionExtractor(far_seeing(), GivenBoxes(), crop_size=crop_size, short_side=32, **settings)
        found, other = (extractor(image, boxes=boxes).features for image in (picture, beside))
        assert np.array_equal(found[0], other[0]) == alone
        assert not np.array_equal(found[1:], other[1:])


def test_crops_are_the_mean_of_the_backbones_map_of_each_box():
    backbone = far_seeing().eval()
    extractor = RegionExtractor(backbone, Grid(2, 3), crop_size=16, size_divisor=4, batch_size=1, **PLAIN)
    pictures = [noise(48, 32), noise(31, 45, 1), noise(48, 32, 2)]
    for picture, regions in zip(pictures, extractor(pictures)):
        for box, features in zip(regions.boxes, regions.features):
            x1, y1, x2, y2 = np.floor(box[0]), np.floor(box[1]), np.ceil(box[2]), np.ceil(box[3])
            crop = picture.crop((int(x1), int(y1), int(x2), int(y2))).resize((16, 16), Image.Resampling.BILINEAR)
            with torch.inference_mode():
                wanted = backbone(torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None] / 255).mean((0, 2, 3))
            np.testing.assert_allclose(features, wanted.numpy(), atol=1e-5)
    assert "each box alone at 16 px" in extractor.source


def test_crops_of_no_box_and_of_the_rim():
    extractor = RegionExtractor(nn.AvgPool2d(32), GivenBoxes(), crop_size=32, **PLAIN)
    nothing = np.zeros((0, 4))
    found = extractor([noise(40, 30), bright(40, 30, (39, 0, 40, 30))], boxes=[nothing, [[39.6, 0, 40.9, 30]]])
    assert found[0].features.shape == (0, 3)
    # Of a box that sticks out what is inside, or else the pixel beside it.
    np.testing.assert_allclose(found[1].features, 1)
    assert extractor(noise(40, 30), boxes=nothing).features.shape == (0, 3)
    outside = extractor(bright(40, 30, (39, 0, 40, 30)), boxes=[[40.1, 0, 40.9, 30]])
    np.testing.assert_allclose(outside.features, 1)


def test_a_saved_extractor_of_crops_is_the_same():
    data = pytest.importorskip("skimage.data")
    extractor = RegionExtractor("efficientnet-lite0", Grid(1, 2), crop_size=224)
    again = RegionExtractor.from_dict(json.loads(json.dumps(extractor.to_dict())))
    found, other = extractor(data.chelsea()), again(data.chelsea())
    np.testing.assert_array_equal(found.features, other.features)
    assert found.source == other.source == "efficientnet-lite0, each box alone at 224 px; grid 1 x 2"
    assert found.class_probs.shape == (2, 1000) and len(found.labels) == 2


@pytest.mark.parametrize("crop_size", [0, 30, 32.0, -32])
def test_a_crop_size_that_makes_no_map(crop_size):
    with pytest.raises(ValueError, match="crop_size must be None or a multiple of 32"):
        RegionExtractor(nn.AvgPool2d(32), crop_size=crop_size)


def test_regions_between_cells_are_their_exact_mean():
    picture = noise(896, 448)
    pixels = np.asarray(picture) / 255
    regions = colours()(picture, boxes=[[64, 32, 320, 416], [0, 0, 896, 448], [864, 416, 896, 448]])
    for (x1, y1, x2, y2), feature in zip(regions.boxes.astype(int), regions.features):
        np.testing.assert_allclose(feature, pixels[y1:y2, x1:x2].mean((0, 1)), atol=1e-5)


@pytest.mark.parametrize(
    "box_format, box", [("xyxy", [128, 64, 256, 320]), ("xywh", [128, 64, 128, 256]), ("cxcywh", [192, 192, 128, 256])]
)
def test_given_boxes_in_every_format(box_format, box):
    picture = bright(896, 448, (128, 64, 256, 320))
    extractor = colours(proposals=GivenBoxes())
    regions = extractor(picture, boxes=[box], box_format=box_format)
    assert regions.boxes.tolist() == [[128, 64, 256, 320]]
    np.testing.assert_allclose(regions.features, 1, atol=1e-6)
    beside = [[256, 64, 384, 320], [128, 320, 256, 448], [0, 64, 128, 320], [128, 0, 256, 64]]
    assert extractor(picture, boxes=beside).features.max() < 1e-6


def test_each_axis_has_its_own_scale():
    # A model of one size squeezes the image, and its strides differ.
    extractor = RegionExtractor(nn.AvgPool2d((16, 8)), **PLAIN)
    extractor.backbone.fixed_size = (64, 128)
    picture = bright(1000, 100, (500, 25, 750, 50))
    features = extractor(picture, boxes=[[500, 25, 750, 50], [250, 25, 500, 50], [500, 50, 750, 75]]).features[:, 0]
    np.testing.assert_allclose(features, [1, 0, 0], atol=0.03)


def test_a_nominal_stride_is_not_trusted():
    # 448 pixels make 9 cells of 48 (16 pixels are never seen): the map's real size counts.
    extractor = RegionExtractor(nn.AdaptiveAvgPool2d((9, 9)), **PLAIN)
    picture = bright(450, 450, (100, 300, 150, 350))
    features = extractor(picture, boxes=[[100, 300, 150, 350], [50, 300, 100, 350], [100, 250, 150, 300]]).features
    np.testing.assert_allclose(features[:, 0], [1, 0, 0], atol=0.06)


def test_boxes_turn_with_the_picture(tmp_path):
    picture = bright(640, 320, (0, 0, 320, 320))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    regions = colours(proposals=Grid(2, 1))(tmp_path / "turned.jpg")
    assert regions.image_size == (320, 640)
    assert regions.image_id == "turned"
    np.testing.assert_allclose(regions.features[:, 0], [1, 0], atol=0.02)


# --- Images


def test_all_kinds_of_images_are_the_same(tmp_path):
    picture = noise(64, 48)
    picture.save(tmp_path / "one.png")
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    kinds = [picture, tmp_path / "one.png", str(tmp_path / "one.png"), array, array / 255, tensor, tensor / 255]
    for kind in kinds:
        assert np.array_equal(np.asarray(open_image(kind)), array)


def test_modes():
    grey = noise(8, 6).convert("L")
    expected = np.asarray(grey)[:, :, None].repeat(3, 2)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for kind in (grey, deep, np.asarray(grey), np.asarray(grey)[:, :, None], torch.from_numpy(np.array(grey))[None]):
        assert np.array_equal(np.asarray(open_image(kind)), expected)
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (255, 0, 0, 255))
    assert np.asarray(open_image(clear)).tolist() == [[[255, 255, 255], [255, 0, 0]]]
    assert np.asarray(open_image(np.asarray(clear))).tolist() == [[[255, 255, 255], [255, 0, 0]]]
    for mode in ("1", "P", "LA", "PA", "CMYK", "YCbCr", "HSV", "LAB"):
        picture = Image.new("L", (3, 2)).convert("RGB").convert(mode) if mode != "PA" else Image.new("PA", (3, 2))
        assert open_image(picture).mode == "RGB"
    with pytest.raises(ValueError, match="no fixed range"):
        open_image(Image.new("F", (2, 2)))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (31, 33), (5000, 4000)])
def test_odd_sizes(size):
    regions = colours(proposals=Grid(2, 3))(Image.new("RGB", size, "white"))
    assert regions.image_size == size
    np.testing.assert_allclose(regions.features, 1, atol=1e-6)


def test_what_is_no_image(tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("no picture")
    whole = io.BytesIO()
    noise(64, 48).save(whole, "PNG")
    (tmp_path / "half.png").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (tmp_path / "empty.jpg").touch()
    for name in ("text.png", "half.png", "empty.jpg", "absent.png"):
        with pytest.raises(ValueError, match=name):
            colours()(tmp_path / name)
    for wrong in (None, 3, np.zeros((2, 2, 5)), np.full((2, 2, 3), 2.0), np.zeros((0, 3, 3), np.uint8), torch.zeros(9)):
        with pytest.raises(ValueError, match="images"):
            colours()(wrong)
    with pytest.raises(ValueError, match=r"images\[1\]"):
        colours()([noise(8, 8), None])

    noise(64, 48).save(tmp_path / "bomb.png")
    for limit in (1500, 3000):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match="bomb.png.*DecompressionBomb"):
            colours()(tmp_path / "bomb.png")


# Decoders raise whatever they like at hostile bytes; the caller sees a ValueError with the file's name.
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"])
def test_damaged_files_are_named(kind, tmp_path):
    whole = io.BytesIO()
    noise(32, 24).save(whole, kind)
    generator, path = np.random.default_rng(0), tmp_path / "damaged"
    for _ in range(60):
        data = bytearray(whole.getvalue())
        for position in generator.integers(0, len(data), 8):
            data[position] = generator.integers(256)
        path.write_bytes(data[: generator.integers(1, len(data) + 1)])
        try:
            open_image(path)
        except ValueError as error:
            assert str(path) in str(error)


# --- Boxes


@pytest.mark.parametrize(
    "boxes, message",
    [
        ([[0, 0, 65, 50]], "outside"),
        ([[-3, 0, 8, 8]], "outside"),
        ([[8, 8, 2, 9]], "upside down"),
        ([[8, 8, 8, 9]], "no area"),
        ([[0, 0, 8]], "shape"),
        ([[0, 0, 8, np.nan]], "NaN"),
    ],
)
def test_wrong_boxes_name_the_image(boxes, message):
    good = [[0, 0, 8, 8]]
    with pytest.raises(ValueError, match=f"Image 'second'.*{message}"):
        colours()([noise(64, 48), noise(64, 48)], boxes=[good, boxes], image_ids=["first", "second"])


def test_wrong_calls():
    with pytest.raises(ValueError, match="give boxes"):
        colours(proposals=GivenBoxes())(noise(8, 8))
    with pytest.raises(ValueError, match="box_format"):
        colours()(noise(8, 8), boxes=[[0, 0, 1, 1]], box_format="yxyx")
    with pytest.raises(ValueError, match="boxes must be 2"):
        colours()([noise(8, 8)] * 2, boxes=[[[0, 0, 1, 1]]])
    with pytest.raises(ValueError, match="proposals"):
        colours(proposals="grid")
    with pytest.raises(ValueError, match="0 x 3"):
        Grid(0, 3)
    with pytest.raises(ValueError, match=r"map \[1, C, h, w\]"):
        RegionExtractor(lambda images: images.mean((2, 3)))
    with pytest.raises(ValueError, match="swapped"):
        RegionExtractor(lambda images: images.mT)
    with pytest.raises(ValueError, match="known are"):
        RegionExtractor("resnet50")
    with pytest.raises(ValueError, match="must be a name"):
        RegionExtractor(7)


def test_boxes_may_leave_by_a_pixel_and_be_none():
    regions = colours()([noise(64, 48)] * 2, boxes=[[[-1, -1, 65, 49]], np.zeros((0, 4))])
    np.testing.assert_allclose(regions[0].features[0], np.asarray(noise(64, 48)).mean((0, 1)) / 255, atol=5e-3)
    assert len(regions[1]) == 0 and regions[1].features.shape == (0, 3)


# --- Backbones


def small_resnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=7)


def timm_model(name: str, **options):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, **options)


def transformers_resnet(kind: str):
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1] * 4, layer_type="basic", num_labels=5
    )
    return getattr(transformers, kind)(config)


def sized(name: str, patch: int = 8, **options):
    """A tiny Transformers model with patches."""
    model, config = getattr(transformers, f"{name}Model"), getattr(transformers, f"{name}Config")
    return model(config(patch_size=patch, image_size=4 * patch, **TINY, **options))


# What makes the backbone, its feature size, and its number of classes where it classifies regions.
BACKBONES = {
    "torchvision": (small_resnet, 512, 7),
    "torchvision graph": (lambda: create_feature_extractor(small_resnet(), {"layer3": "x"}), 256, None),
    "torchvision swin": (lambda: torchvision.models.swin_t(weights=None), 768, 1000),
    "torchvision convnext": (lambda: torchvision.models.convnext_tiny(weights=None), 768, 1000),
    "torchvision vgg": (lambda: torchvision.models.vgg11(weights=None).requires_grad_(False), 512, None),
    "timm resnet": (lambda: timm_model("test_resnet"), 96, 1000),
    "timm convnext": (lambda: timm_model("test_convnext"), 64, 1000),
    "timm efficientnet": (lambda: timm_model("test_efficientnet"), 256, 1000),
    "timm swin": (lambda: timm_model("swin_tiny_patch4_window7_224"), 768, 1000),
    "timm vit": (lambda: timm_model("test_vit"), 64, None),
    "timm vit of one size": (lambda: timm_model("vit_tiny_patch16_224"), 192, None),
    "timm features": (lambda: timm_model("test_resnet", features_only=True), 96, None),
    "timm vit features": (lambda: timm_model("test_vit", features_only=True), 64, None),
    "resnet": (lambda: transformers_resnet("ResNetModel"), 20, None),
    "resnet backbone": (lambda: transformers_resnet("ResNetBackbone"), 20, None),
    "resnet classifier": (lambda: transformers_resnet("ResNetForImageClassification"), 20, 5),
    "dinov2": (lambda: sized("Dinov2", 14), 24, None),
    "dinov2 registers": (lambda: sized("Dinov2WithRegisters", 14, num_register_tokens=3), 24, None),
    "dinov3": (lambda: sized("DINOv3ViT", 16, num_register_tokens=3, intermediate_size=32), 24, None),
    "vit": (lambda: sized("ViT"), 24, None),
    "deit": (lambda: sized("DeiT"), 24, None),
    "siglip": (lambda: sized("SiglipVision"), 24, None),
    "clip": (lambda: sized("CLIPVision"), 24, None),
    "swin": (
        lambda: transformers.SwinModel(
            transformers.SwinConfig(image_size=64, embed_dim=8, depths=[1, 1], num_heads=[1, 2])
        ),
        16,
        None,
    ),
    "callable": (lambda: lambda images: images[:, :2, ::8, ::8], 2, None),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone(name):
    make, feature_size, classes = BACKBONES[name]
    torch.manual_seed(0)
    extractor = RegionExtractor(make(), Grid(2, 3), short_side=112, long_side=224, batch_size=2)
    assert extractor.feature_size == feature_size
    pictures = [noise(200, 120), noise(90, 150, 1), noise(200, 120, 2), noise(200, 120, 3)]
    batch = extractor(pictures)
    for picture, regions in zip(pictures, batch):
        single = extractor(picture)
        assert regions.features.shape == (6, feature_size) and regions.features.dtype == np.float32
        np.testing.assert_allclose(regions.features, single.features, atol=2e-4, rtol=1e-3)
        assert regions.source == extractor.source and "grid 2 x 3" in regions.source
        if classes is None:
            assert regions.class_probs is None
        else:
            assert regions.class_probs.shape == (6, classes)
            np.testing.assert_allclose(regions.class_probs.sum(1), 1, rtol=1e-4)
    assert not np.allclose(batch[0].features[0], batch[0].features[1])


@pytest.mark.parametrize("name", ["dinov2", "dinov2 registers", "vit", "timm vit", "timm vit of one size", "swin"])
def test_patch_tokens_lie_where_their_patch_is(name):
    torch.manual_seed(0)
    extractor = RegionExtractor(BACKBONES[name][0](), Grid(2, 4), short_side=112, long_side=224)
    box = (50, 0, 100, 50)  # the second cell of the first row
    change = np.abs(extractor(bright(200, 100, box)).features - extractor(Image.new("RGB", (200, 100))).features).mean(
        1
    )
    assert change.argmax() == 1


def test_the_whole_image_is_what_the_model_classifies():
    model = small_resnet()
    extractor = RegionExtractor(model, Grid(1, 1), short_side=96, class_names=list("abcdefg"))
    regions = extractor(noise(160, 96))
    images = torch.from_numpy(np.array(noise(160, 96))).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (backbones.IMAGENET_MEAN, backbones.IMAGENET_STD))
    with torch.no_grad():
        expected = model((images - mean) / std).softmax(-1)
    np.testing.assert_allclose(regions.class_probs, expected, atol=1e-5)
    assert regions.labels == ["abcdefg"[expected.argmax()]]
    settings = {"short_side": 96, "class_names": list("abcdefg"), "labelled": False}
    unlabelled = RegionExtractor(model, Grid(1, 1), **settings)(noise(160, 96))
    assert unlabelled.labels is None and unlabelled.class_probs is not None


def test_layers():
    for layer, size in (("layer2", 128), ("layer4.0.relu_1", 512), (None, 512)):
        assert RegionExtractor(small_resnet(), layer=layer).feature_size == size
    assert RegionExtractor(transformers_resnet("ResNetModel"), layer=1).feature_size == 8
    assert RegionExtractor(sized("Dinov2", 14), layer=1).feature_size == 24
    assert RegionExtractor(timm_model("test_resnet", features_only=True), layer=0).feature_size == 32
    with pytest.raises(ValueError, match="features_only"):
        RegionExtractor(timm_model("test_resnet"), layer=1)
    with pytest.raises(ValueError, match="name a layer"):
        RegionExtractor(torchvision.models.squeezenet1_1(weights=None))


def test_a_classifier_of_ones_own():
    classifier = nn.Linear(3, 5)
    regions = colours(classifier=classifier, proposals=Grid(1, 2))(noise(64, 48))
    expected = classifier(torch.from_numpy(regions.features)).softmax(-1).detach()
    np.testing.assert_allclose(regions.class_probs, expected, atol=1e-6)


def test_dtype_and_mode():
    model = small_resnet()
    exact = RegionExtractor(model, Grid(2, 2), short_side=64)(noise(96, 64))
    half = RegionExtractor(model, Grid(2, 2), short_side=64, dtype=torch.bfloat16, device="cpu")
    model.train()
    rounded = half(noise(96, 64))
    assert rounded.features.dtype == np.float32 and not np.array_equal(exact.features, rounded.features)
    np.testing.assert_allclose(rounded.features, exact.features, atol=0.1, rtol=0.1)


def test_features_that_overflow_name_the_image():
    with pytest.raises(ValueError, match="'x' hold NaN or infinity"):
        RegionExtractor(lambda images: images / 0)(noise(8, 8), image_ids="x")


# --- Detectors


class Fixed(nn.Module):
    """A torchvision detection model whose boxes are known."""

    def __init__(self, boxes, scores, labels):
        super().__init__()
        self.found = {"boxes": torch.tensor(boxes), "scores": torch.tensor(scores), "labels": torch.tensor(labels)}
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen = []

    def forward(self, images):
        self.seen += [tuple(image.shape) for image in images]
        return [self.found for _ in images]


BOXES = [[0.0, 0, 50, 50], [1, 0, 50, 50], [0, 0, 50, 49], [60, 10, 90, 40], [10, 60, 40, 75], [70, 60, 120, 90]]
SCORES, LABELS = [0.9, 0.8, 0.7, 0.3, 0.15, 0.1], [1, 1, 2, 1, 1, 3]


@pytest.mark.parametrize(
    "options, kept",
    [
        ({"min_boxes": 0}, [0, 2, 3]),  # the second overlaps the first, of its class; the third is of another
        ({"min_boxes": 4}, [0, 2, 3, 4]),
        ({"min_boxes": 10}, [0, 2, 3, 4, 5]),
        ({"min_boxes": 0, "max_boxes": 2}, [0, 2]),
        ({"min_boxes": 0, "nms": 1.0}, [0, 1, 2, 3]),
        ({"min_boxes": 0, "score_threshold": 0.85}, [0]),
        ({"min_boxes": 0, "score_threshold": 0.95}, []),
    ],
)
def test_which_boxes_are_kept(options, kept):
    detector = Detector(Fixed(BOXES, SCORES, LABELS), class_names=["none", "cat", "dog", "hat"], **options)
    regions = colours(proposals=detector)(noise(100, 80))
    expected = np.clip(np.array(BOXES)[kept].reshape(-1, 4), 0, [100, 80, 100, 80])
    np.testing.assert_allclose(regions.boxes, expected)
    np.testing.assert_allclose(regions.scores, np.array(SCORES)[kept])
    assert regions.labels == [["none", "cat", "dog", "hat"][LABELS[number]] for number in kept]


def test_a_large_image_is_reduced_for_the_detector():
    model = Fixed(BOXES, SCORES, LABELS)
    found = Detector(model, long_side=100, min_boxes=0).propose(noise(400, 200))
    assert model.seen == [(3, 50, 100)]
    assert found["boxes"][0].tolist() == [0, 0, 200, 200] and found["labels"] == [1, 2, 1]


def faster_rcnn() -> nn.Module:
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    return FasterRCNN(backbone, num_classes=4, min_size=96, max_size=160, box_score_thresh=0.0)


def detr():
    config = transformers.DetrConfig(
        backbone_config=transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, layer_type="basic", out_features=["stage4"]
        ),
        use_pretrained_backbone=False,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=20,
        num_labels=3,
    )
    torch.manual_seed(0)
    return transformers.DetrForObjectDetection(config)


def yolos():
    config = transformers.YolosConfig(
        image_size=[64, 96], intermediate_size=32, num_detection_tokens=12, num_labels=3, **TINY
    )
    torch.manual_seed(0)
    return transformers.YolosForObjectDetection(config)


@pytest.mark.parametrize("make", [faster_rcnn, detr, yolos], ids=lambda make: make.__name__)
def test_real_detectors(make):
    options = {} if make is faster_rcnn else {"image_processor": transformers.DetrImageProcessor(size=DETR_SIZE)}
    detector = Detector(make(), min_boxes=3, max_boxes=9, nms=1.0, **options)
    pictures = [noise(160, 120), noise(70, 100, 1), noise(160, 120, 2)]
    batch = colours(proposals=detector)(pictures)
    for picture, regions in zip(pictures, batch):
        assert 3 <= len(regions) <= 9
        assert (np.diff(regions.scores) <= 0).all()
        assert len(regions.labels) == len(regions)
        assert isinstance(regions.labels[0], int if make is faster_rcnn else str)
        single = colours(proposals=detector)(picture)
        assert np.array_equal(single.boxes, regions.boxes) and regions.labels == single.labels
        np.testing.assert_allclose(single.features, regions.features, atol=1e-6)
    assert detector.__class__.__name__ not in batch[0].source and "3 to 9" in batch[0].source


def test_a_detectors_own_backbone():
    model = faster_rcnn()
    extractor = RegionExtractor(model.backbone, Detector(model, min_boxes=2), layer="0")
    assert extractor(noise(160, 120)).features.shape[1] == extractor.feature_size == 256


def test_wrong_detectors():
    with pytest.raises(ValueError, match="image_processor"):
        Detector(detr())
    with pytest.raises(ValueError, match="min_boxes"):
        Detector(faster_rcnn(), min_boxes=40)
    with pytest.raises(ValueError, match="nms"):
        Detector(faster_rcnn(), nms=0)
    with pytest.raises(ValueError, match="detector 'yolo' is not known"):
        Detector("yolo")


@pytest.mark.parametrize("make", [faster_rcnn, detr], ids=lambda make: make.__name__)
@pytest.mark.parametrize("size", [(1, 1), (1, 300)])
def test_detectors_see_the_smallest_images(make, size):
    options = {} if make is faster_rcnn else {"image_processor": transformers.DetrImageProcessor(size=DETR_SIZE)}
    regions = colours(proposals=Detector(make(), min_boxes=1, **options))(Image.new("RGB", size, "white"))
    np.testing.assert_allclose(regions.features, 1, atol=1e-6)


def test_names_fit_the_classes():
    with pytest.raises(ValueError, match="2 class_names for 7 classes"):
        RegionExtractor(small_resnet(), class_names=["a", "b"])
    with pytest.raises(ValueError, match="class_names need a classifier"):
        colours(class_names=["a", "b"])
    detector = Detector(Fixed(BOXES, SCORES, LABELS), class_names=["none", "cat"], min_boxes=0)
    with pytest.raises(ValueError, match="label 2, and there are 2 class_names"):
        colours(proposals=detector)(noise(100, 80))


# --- Names, saving, missing packages


def test_an_extractor_by_name_is_made_again(tmp_path):
    transformers_resnet("ResNetForImageClassification").save_pretrained(tmp_path / "resnet")
    transformers.ConvNextImageProcessor(image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path / "resnet")
    detr().save_pretrained(tmp_path / "detr")
    transformers.DetrImageProcessor(size=DETR_SIZE).save_pretrained(tmp_path / "detr")
    for proposals in (Grid(2, 3), GivenBoxes(), Detector(f"transformers:{tmp_path / 'detr'}", min_boxes=4, nms=0.7)):
        extractor = RegionExtractor(f"transformers:{tmp_path / 'resnet'}", proposals, short_side=64, batch_size=3)
        assert list(extractor.backbone.image_mean) == [0.1, 0.2, 0.3]
        settings = json.loads(json.dumps(extractor.to_dict()))
        again = RegionExtractor.from_dict(settings)
        boxes = [[0, 0, 40, 20]] if isinstance(proposals, GivenBoxes) else None
        one, other = (each(noise(80, 60), boxes) for each in (extractor, again))
        assert np.array_equal(one.features, other.features) and np.array_equal(one.boxes, other.boxes)
        assert one.labels == other.labels and one.source == other.source == again.source
    with pytest.raises(ValueError, match="backbone is a name"):
        colours().to_dict()
    with pytest.raises(ValueError, match="detector is a name"):
        RegionExtractor(f"transformers:{tmp_path / 'resnet'}", Detector(faster_rcnn())).to_dict()
    with pytest.raises(ValueError, match="kind"):
        RegionExtractor.from_dict({**settings, "proposals": {"kind": "random"}})


def test_boxes_of_a_call_change_the_source():
    extractor = colours(proposals=Grid(2, 2))
    assert extractor(noise(8, 8)).source == extractor.source
    assert extractor(noise(8, 8), boxes=[[0, 0, 1, 1]]).source.endswith("given boxes")
    assert colours(source="mine")(noise(8, 8)).source == "mine"


def test_a_source_tells_what_changes_features():
    sources = {
        RegionExtractor(nn.AvgPool2d(32), **options).source
        for options in (
            {},
            {"short_side": 224},
            {"long_side": 800},
            {"image_mean": (0.5, 0.5, 0.5)},
            {"image_mean": (0.5, 0.5, 0.25)},
            {"image_std": (0.5, 0.5, 0.5)},
            {"size_divisor": 64},
            {"crop_size": 64},
            {"crop_size": 96},
            {"proposals": Grid(2, 3)},
            *({"proposals": Detector(Fixed(BOXES, SCORES, LABELS), **own)} for own in ({}, {"long_side": 800})),
        )
    }
    assert len(sources) == 12
    plain = RegionExtractor(nn.AvgPool2d(32)).source
    assert plain == "AvgPool2d last map, at most 320 x 640 px; grid 6 x 6" and plain in sources
    # What a backbone does anyway need not be said, and what only rounds is not another source.
    own = {"image_mean": backbones.IMAGENET_MEAN, "image_std": list(backbones.IMAGENET_STD), "size_divisor": 32}
    assert RegionExtractor(nn.AvgPool2d(32), **own, dtype=torch.bfloat16, batch_size=3).source == plain


def test_efficientnet_by_name_knows_photos():
    data = pytest.importorskip("skimage.data")
    extractor = RegionExtractor("efficientnet-lite0", Grid(1, 1), short_side=224)
    cat, coffee = extractor([data.chelsea(), data.coffee()])
    assert extractor.feature_size == 1280 and cat.class_probs.shape == (1, 1000)
    assert cat.labels[0].lower().endswith("cat") and coffee.labels[0] in ("espresso", "cup", "coffee mug", "eggnog")


def test_the_example_draws_every_photo(tmp_path):
    pytest.importorskip("skimage.data")
    noise(60, 40).save(tmp_path / "mine.png")
    for arguments, drawn in (([], 6), ([tmp_path / "mine.png"], 7)):
        script = [sys.executable, EXAMPLES / "your_own_image.py", *arguments, "--output", tmp_path / "runs"]
        result = subprocess.run(script, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert "1280 features each" in result.stdout
        pictures = list((tmp_path / "runs").glob("*.png"))
        assert len(pictures) == drawn and all(Image.open(picture).width > 1000 for picture in pictures)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm"):
        RegionExtractor("timm:resnet18")
    extractor = colours()
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    with pytest.raises(ImportError, match=r"pip install \"modeling-vilbert\[extract\]\""):
        extractor(noise(8, 8))
    with pytest.raises(ImportError, match="nowhere is needed here: pip install nowhere"):
        optional_packages.need("nowhere.at_all")


# --- Many images


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for number in range(11):
        place = folder / "below" if number % 2 else folder
        noise(40 + 10 * (number % 3), 50, number).save(place / f"{number:02}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def backbone(tmp_path) -> str:
    transformers_resnet("ResNetForImageClassification").save_pretrained(tmp_path / "resnet")
    transformers.ConvNextImageProcessor().save_pretrained(tmp_path / "resnet")
    return f"transformers:{tmp_path / 'resnet'}"


def content(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.iterdir())}


def command(pictures: Path, backbone: str, store: Path, *more: str) -> list[str]:
    options = ["--backbone", backbone, "--short-side", "64", "--batch-size", "1", "--records-per-shard", "2"]
    return ["extract", str(pictures), "--output", str(store), *options, *more]


def test_extract(pictures, backbone, tmp_path, capsys):
    (pictures / "03bad.png").write_text("no picture")
    assert main(command(pictures, backbone, tmp_path / "store", "--grid", "2x3")) == 1
    captured = capsys.readouterr()
    assert "11 of 12 images" in captured.out and "03bad.png" in captured.err
    store = open_regions(tmp_path / "store")
    assert sorted(store) == [f"{number:02}" for number in range(11)]
    regions = store["04"]
    extractor = RegionExtractor(backbone, Grid(2, 3), short_side=64, long_side=128)
    expected = extractor(pictures / "04.png")
    np.testing.assert_allclose(regions.features, expected.features, atol=1e-5)
    assert regions.source == expected.source and regions.image_size == (50, 50)
    assert regions.labels is not None and regions.class_probs.shape == (6, 5)

    # The same command again finds it done, and says again what is missing.
    before = content(tmp_path / "store")
    assert main(command(pictures, backbone, tmp_path / "store", "--grid", "2x3")) == 1
    assert "03bad" in capsys.readouterr().err and content(tmp_path / "store") == before
    for more, said in (
        (["--grid", "2x2"], "proposals.columns was 3, and is now 2"),
        (["--grid", "2x3", "--dtype", "float16"], "dtype was 'float32', and is now 'float16'"),
        (["--grid", "2x3", "--short-side", "96"], "short_side was 64, and is now 96"),
        (["--grid", "2x3", "--source", "mine"], "source was None, and is now 'mine'"),
        (["--grid", "2x3", "--records-per-shard", "3"], "records_per_shard was 2, and is now 3"),
    ):
        assert main(command(pictures, backbone, tmp_path / "store", *more)) == 1
        captured = capsys.readouterr()
        assert "other images or settings" in captured.err and said in captured.err and not captured.out
    assert content(tmp_path / "store") == before


def test_extract_says_what_it_is_told_of_the_source(pictures, backbone, tmp_path):
    assert main(command(pictures, backbone, tmp_path / "store", "--source", "a small ResNet")) == 0
    assert open_regions(tmp_path / "store")["04"].source == "a small ResNet"
    assert main(command(pictures, backbone, tmp_path / "store", "--source", "a small ResNet")) == 0


def test_a_finished_store_is_of_one_extractor(pictures, tmp_path):
    images = {path.stem: path for path in sorted(pictures.rglob("*.png"))}
    options = {"proposals": Grid(1, 2), "source": "mine"}
    assert extract_to_folder(images, tmp_path / "store", colours(**options)) == {}
    assert extract_to_folder(images, tmp_path / "store", colours(**options)) == {}
    for other, said in (({"long_side": 500}, "long_side"), ({"image_mean": (1, 0, 0)}, "image_mean")):
        with pytest.raises(ValueError, match=f"other images or settings: settings.extractor.{said} was"):
            extract_to_folder(images, tmp_path / "store", colours(**options, **other))
    (tmp_path / "store" / "data-00000.arrow").write_bytes(b"")
    with pytest.raises(ValueError, match="data-00000.arrow"):
        extract_to_folder(images, tmp_path / "store", colours(**options))


def test_extract_in_given_boxes(pictures, backbone, tmp_path, capsys):
    boxes = {f"{number:02}": [[1, 2, 10 + number, 20]] for number in range(11)}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    more = ["--boxes", str(tmp_path / "boxes.json"), "--box-format", "xywh"]
    assert main(command(pictures, backbone, tmp_path / "store", *more)) == 0
    assert open_regions(tmp_path / "store")["07"].boxes.tolist() == [[1, 2, 18, 22]]
    del boxes["05"], boxes["06"]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    assert main(command(pictures, backbone, tmp_path / "other", *more)) == 1
    assert "2 of 11 images have no boxes, among them ['06', '05']" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_images_in_which_nothing_is_found(pictures, tmp_path):
    class Half(Detector):
        """Finds nothing in pictures of one width."""

        def propose(self, image):
            self.settings["score_threshold"] = 0.99 if image.width == 40 else 0.2
            return super().propose(image)

    detector = Half(Fixed(BOXES[:2], SCORES[:2], LABELS[:2]), class_names=["none", "cat"], min_boxes=0)
    images = {path.stem: path for path in sorted(pictures.rglob("*.png"), key=lambda path: path.stem)}
    extractor = colours(proposals=detector, source="ours")
    assert extract_to_folder(images, tmp_path / "store", extractor) == {}
    store = open_regions(tmp_path / "store")
    assert [len(store[image_id]) for image_id in ("00", "01", "02", "03")] == [0, 1, 1, 0]
    assert store["01"].labels == ["cat"] and store["01"].scores is not None


def test_wrong_extractions(pictures, backbone, tmp_path, capsys):
    shutil.copy(pictures / "00.png", pictures / "below" / "00.png")
    assert main(command(pictures, backbone, tmp_path / "store")) == 1
    assert "would both be image '00'" in capsys.readouterr().err
    assert main(command(pictures / "nowhere*.png", backbone, tmp_path / "store")) == 1
    assert "no pattern that finds any" in capsys.readouterr().err
    assert main(command(pictures / "below", backbone, tmp_path / "store", "--grid", "6")) == 1
    assert "ROWSxCOLUMNS" in capsys.readouterr().err
    assert main(command(pictures / "notes.txt", backbone, tmp_path / "store")) == 1
    assert "None of 1 images" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_processes_share_the_images(pictures, backbone, tmp_path):
    (pictures / "03bad.png").write_text("no picture")
    assert main(command(pictures, backbone, tmp_path / "one")) == 1
    assert main(command(pictures, backbone, tmp_path / "two", "--processes", "2")) == 1
    one, two = open_regions(tmp_path / "one"), open_regions(tmp_path / "two")
    assert list(one) == list(two)
    for image_id in one:
        np.testing.assert_allclose(one[image_id].features, two[image_id].features, atol=1e-5)


def test_a_run_that_fails_is_taken_up(pictures, backbone, tmp_path, monkeypatch):
    assert main(command(pictures, backbone, tmp_path / "whole")) == 0
    original, calls = extraction.RegionExtractor.results, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return original(*arguments)

    monkeypatch.setattr(extraction.RegionExtractor, "results", failing)
    with pytest.raises(MemoryError):
        main(command(pictures, backbone, tmp_path / "store"))
    assert not (tmp_path / "store").exists()
    assert main(command(pictures, backbone, tmp_path / "store")) == 0
    # 3 calls, then the third chunk: the first two were kept.
    assert len(calls) == 4
    assert content(tmp_path / "store") == content(tmp_path / "whole")


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_run_that_is_killed_is_taken_up(processes, pictures, backbone, tmp_path):
    for number in range(11, 150):
        noise(60, 50, number).save(pictures / f"{number}.png")
    arguments = command(pictures, backbone, tmp_path / "store", "--processes", processes)
    # A process pool runs the script again in its processes.
    script = f'import sys\nfrom modeling_vilbert.cli import main\nif __name__ == "__main__":\n    main({arguments!r})\n'
    (tmp_path / "run.py").write_text(script)
    # Sums depend on the number of threads.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    run = subprocess.Popen([sys.executable, tmp_path / "run.py"], env=environment, stderr=subprocess.DEVNULL)
    partial, deadline = tmp_path / "store.partial", time.monotonic() + 200
    while len(list(partial.glob("data-*.arrow"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    workers = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    workers = workers.read_text().split() if workers.exists() else []
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "store").exists()
    assert 5 <= len(list(partial.glob("data-*.arrow"))) < 75

    assert main(command(pictures, backbone, tmp_path / "whole")) == 0
    assert main(command(pictures, backbone, tmp_path / "store")) == 0
    assert not partial.exists()
    whole, store = content(tmp_path / "whole"), content(tmp_path / "store")
    assert whole.keys() == store.keys()
    if processes == "1":
        assert whole == store
    else:
        # Processes share the threads, and so may sum in another order.
        whole, store = open_regions(tmp_path / "whole"), open_regions(tmp_path / "store")
        assert list(whole) == list(store)
        for image_id in whole:
            np.testing.assert_allclose(whole[image_id].features, store[image_id].features, atol=1e-5)
        # Nothing is left running.
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers)
