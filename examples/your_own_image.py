"""Regions of real photos: the boxes you give and a grid, their features, and what an ImageNet classifier sees in each.

    python examples/your_own_image.py                       # photos that scikit-image ships
    python examples/your_own_image.py one.jpg another.png   # your own, on a grid

Every photo becomes one picture under --output. Some seconds on a CPU; nothing is downloaded.
"""

import argparse
import textwrap
from pathlib import Path

import matplotlib
import skimage.data
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from modeling_vilbert import Regions
from modeling_vilbert.extraction import Grid, RegionExtractor, open_image


# Boxes in pixels, (x1, y1, x2, y2), drawn by hand.
PHOTOS = {
    "astronaut": [[345, 0, 475, 290], [275, 335, 512, 512], [20, 190, 355, 512]],
    "camera": [[250, 120, 340, 205], [225, 295, 405, 512]],
    "chelsea": [[20, 0, 400, 300]],
    "coffee": [[75, 15, 475, 385]],
    "rocket": [[295, 125, 345, 427], [0, 0, 90, 427]],
    "stereo_motorcycle": [[70, 90, 690, 460], [345, 5, 735, 100]],
}
COLOURS = matplotlib.colormaps["Set2"].colors
OUTLINE = [withStroke(linewidth=2.2, foreground="#20242a")]
# Cells less sure than this bear no name.
NAMED_FROM = 0.3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", help="your own photos; default: those of scikit-image")
    parser.add_argument("--output", type=Path, default=Path("runs/your_own_image"))
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--grid", type=int, default=6, help="rows and columns; default: %(default)s")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    # 224 pixels are what the classifier was trained on; the map is then 7 cells high.
    extractor = RegionExtractor(options.backbone, Grid(options.grid, options.grid), short_side=224, long_side=448)
    if options.images:
        photos = {Path(path).stem: (path, None) for path in options.images}
        if len(photos) < len(options.images):
            parser.error("images: some have the same name, as their pictures in --output would.")
    else:
        photos = {name: (photo(name), boxes) for name, boxes in PHOTOS.items()}

    for name, (image, boxes) in photos.items():
        picture = open_image(image)
        # Without boxes, one around it all.
        given = extractor(picture, boxes=[[0, 0, *picture.size]] if boxes is None else boxes, image_ids=name)
        grid = extractor(picture, image_ids=name)
        if given.labels is None:
            parser.error(f"--backbone {options.backbone} has no names of classes, which is what the pictures show.")
        draw(picture, given, grid).savefig(options.output / f"{name}.png", dpi=110)
        seen = ", ".join(f"{label} {probs.max():.0%}" for label, probs in zip(given.labels, given.class_probs))
        print(f"{name}: {len(given)} boxes ({seen}) and {len(grid)} cells, {grid.features.shape[1]} features each")
    print(f"Pictures in {options.output}. Features: {grid.source}.")


def photo(name: str):
    """A picture of scikit-image; of a stereo pair, the left one."""
    image = getattr(skimage.data, name)()
    return image[0] if isinstance(image, tuple) else image


def draw(picture, given: Regions, grid: Regions) -> Figure:
    """The photo twice, side by side: with the given boxes, and with the grid."""
    width, height = picture.size
    figure = Figure(figsize=(13, 6.5 * height / width + 0.5), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    for axes, title in ((left, "given boxes"), (right, "a grid, named where the classifier is sure")):
        axes.imshow(picture)
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        axes.set_title(title, loc="left", fontsize=13, color="#444444")

    for number, (box, label, probs) in enumerate(zip(given.boxes, given.labels, given.class_probs)):
        x1, y1, x2, y2 = box
        colour = COLOURS[number % len(COLOURS)]
        left.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="#20242a", linewidth=5, alpha=0.6))
        left.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=2.8))
        left.annotate(
            f"{label}  {probs.max():.0%}",
            (x1, y2),
            (6, 7),
            textcoords="offset points",
            fontsize=12,
            color="#20242a",
            bbox={"boxstyle": "round,pad=0.3", "facecolor": colour, "edgecolor": "none", "alpha": 0.95},
        )

    # One colour for each class, the most certain classes first; the surer, the stronger.
    sure = grid.class_probs.max(1)
    classes = list(dict.fromkeys(grid.labels[number] for number in (-sure).argsort()))
    for (x1, y1, x2, y2), label, share in zip(grid.boxes, grid.labels, sure):
        colour = COLOURS[classes.index(label) % len(COLOURS)]
        right.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, facecolor=colour, alpha=0.5 * share, linewidth=0))
        right.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white", alpha=0.35, linewidth=0.8))
        if share >= NAMED_FROM:
            text = textwrap.fill(label, 11) + f"\n{share:.0%}"
            place = {"ha": "center", "va": "center", "color": "white", "path_effects": OUTLINE}
            right.text((x1 + x2) / 2, (y1 + y2) / 2, text, fontsize=9.5, **place)
    return figure


if __name__ == "__main__":
    main()
