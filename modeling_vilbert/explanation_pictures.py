# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""An explanation as a picture: the image with its boxes beside the words, the brighter the more.

Reading order: `draw`, the image, the words.

Shapes: T tokens, R regions.
"""

from typing import Any

import numpy as np

from .optional_packages import need


# Dark is little and bright is much, in every kind of colour vision and in grey.
COLORS = "cividis"
INK, GREY, ANSWER = "#1f2430", "#8a919c", "#e8590c"
# The veil over what got nothing lets this share of the image through.
LEAST = 0.15
# Boxes that are outlined and named by their share.
NAMED_BOXES = 3
FONT = "DejaVu Sans Mono"
# Width of its characters, and height of a line of words, as multiples of its size.
CHARACTER, LINE = 0.602, 2.6


def draw(
    explanation: Any,
    image: Any,
    words: np.ndarray | None,
    regions: np.ndarray | None,
    legend: str,
    word: int | None,
    region: int | None,
    dimmed: bool,
) -> Any:
    """A matplotlib figure.

    Args:
        explanation: the `Explanation` that the picture is about.
        image: a PIL image, or None for a blank canvas.
        words: [T], how bright each is, None to leave them unshaded.
        regions: [R], the same.
        legend: what the shading is.
        word: the word that was asked about, to be framed.
        region: the region that was asked about, to be framed.
        dimmed: whether what is no word, or is the whole image, stands aside.
    """
    figures = need("matplotlib.figure")
    width, height = explanation.image_size
    # In inches: the image, the words, and the lines above and below them.
    tall = float(np.clip(4.6 * height / width, 2.6, 6.0))
    wide = float(np.clip(tall * width / height, 2.0, 7.0))
    beside, above, below, margin = 4.4, 0.55, 1.0, 0.25
    size = (wide + beside + 3 * margin, tall + above + below)
    figure = figures.Figure(figsize=size, facecolor="white")

    def axes(left: float, bottom: float, across: float, up: float) -> Any:
        return figure.add_axes((left / size[0], bottom / size[1], across / size[0], up / size[1]))

    draw_regions(axes(margin, below, wide, tall), explanation, image, regions, region, dimmed)
    draw_words(axes(wide + 2 * margin, below, beside, tall), explanation, words, word, dimmed, (beside, tall))

    title = explanation.target and f"target: {explanation.target}"
    best = {answer["label"]: answer["score"] for answer in explanation.answers}
    if explanation.target in best:
        title += f" ({best[explanation.target]:.1%})"
    place = {"transform": figure.dpi_scale_trans, "color": INK, "parse_math": False}
    figure.text(margin, size[1] - 0.35, title, fontsize=14, weight="bold", **place)
    scale = axes(margin, 0.62, 2.0, 0.14)
    scale.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=COLORS)
    scale.set(xticks=[], yticks=[])
    figure.text(margin + 2.1, 0.63, "none → most, of words and of boxes each", fontsize=9, **place)
    figure.text(margin, 0.17, legend, fontsize=9, linespacing=1.4, **place)
    return figure


def draw_regions(axes: Any, explanation: Any, image: Any, values: Any, chosen: int | None, dimmed: bool):
    """The image under a veil that is thin where the values [R] are high; overlapping boxes show the highest."""
    width, height = explanation.image_size
    boxes = explanation.boxes * [width, height, width, height]
    extent = (0, width, height, 0)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal", facecolor="#f4f5f7")
    if image is not None:
        axes.imshow(image, extent=extent)
    rectangle = need("matplotlib.patches").Rectangle

    def frame(box: np.ndarray, color: Any, line: float, style: str = "-", order: int = 3):
        corner, across, up = box[:2], box[2] - box[0], box[3] - box[1]
        axes.add_patch(
            rectangle(corner, across, up, fill=False, color=color, linewidth=line, linestyle=style, zorder=order)
        )

    def name(box: np.ndarray, text: str, color: Any, ink: str):
        # In the box where there is room, else above or below it: inside the image, and apart from its neighbours'.
        inside, high = box[3] - box[1] > 0.12 * height, box[1] > 0.06 * height
        axes.text(
            box[0] + 0.01 * width, box[1] + 0.015 * height if inside else box[1] if high else box[3], text,
            va="top" if inside or not high else "bottom", fontsize=9, color=ink, zorder=6, parse_math=False,
            clip_on=True,
            bbox={"boxstyle": "square,pad=0.15", "facecolor": color, "edgecolor": "none"},
        )  # fmt: skip

    shown = ~explanation.region_is_global if dimmed else np.ones(len(boxes), bool)
    if values is not None:
        brightness = values / max(values.max(), 1e-12)
        # As fine as the image on paper, whatever its size in pixels.
        rows, columns = (max(1, round(400 * side / max(width, height))) for side in (height, width))
        light = np.zeros((rows, columns))
        for box, value in zip(explanation.boxes, brightness):
            x1, y1, x2, y2 = np.round(box * [columns, rows, columns, rows]).astype(int)
            part = light[y1:y2, x1:x2]
            np.maximum(part, value, out=part)
        veil = np.zeros((rows, columns, 4))
        veil[..., :3] = need("matplotlib").colormaps[COLORS](0.0)[:3]
        veil[..., 3] = (1 - LEAST) * (1 - light)
        axes.imshow(veil, extent=extent, zorder=2)
    for box in boxes[shown]:
        frame(box, "white", 0.5)
    if values is not None:
        colors = need("matplotlib").colormaps[COLORS]
        best = [row for row in np.argsort(-values, kind="stable")[:NAMED_BOXES] if values[row] > 0]
        for row in reversed(best):
            frame(boxes[row], colors(brightness[row]), 2.5, order=4)
            label = explanation.region_labels[row]
            text = f"{values[row]:.0%}" + ("" if label is None else f" {label}")
            if row != explanation.predicted_region:
                name(boxes[row], text, colors(brightness[row]), INK if brightness[row] > 0.5 else "white")
    if chosen is not None:
        frame(boxes[chosen], "white", 5, order=5)
        frame(boxes[chosen], INK, 2.5, "--", order=6)
    if explanation.predicted_region is not None:
        box = boxes[explanation.predicted_region]
        frame(box, "white", 5.5, order=5)
        frame(box, ANSWER, 3, order=6)
        label = explanation.region_labels[explanation.predicted_region]
        share = "" if values is None else f" {values[explanation.predicted_region]:.0%}"
        name(box, f"predicted{share}" + ("" if label is None else f" {label}"), ANSWER, "white")


def draw_words(axes: Any, explanation: Any, values: Any, chosen: int | None, dimmed: bool, inches: tuple):
    """The words in their order, on chips as bright as the values [T], over their shares."""
    colors, patches = need("matplotlib").colormaps[COLORS], need("matplotlib.patches")
    # The smallest number of characters in a line, thus the largest letters, with which all lines fit.
    for across in range(26, 200, 2):
        places, x, line = [], 0, 0
        for word in explanation.words:
            length = len(shortened(word)) + 1.6
            if x and x + length > across:
                x, line = 0, line + 1
            places.append((x, line))
            x += length
        points = inches[0] / across * 72 / CHARACTER
        step = LINE * points / 72  # inches
        if (line + 1) * step <= inches[1]:
            break
    step *= across / inches[0]  # characters
    axes.set(xlim=(0, across), ylim=(inches[1] * across / inches[0], 0))
    axes.axis("off")
    brightness = None if values is None else values / max(values.max(), 1e-12)
    for number, (word, (x, line)) in enumerate(zip(explanation.words, places)):
        aside = dimmed and explanation.word_is_special[number]
        length, top = len(shortened(word)) + 1.0, line * step + 0.1
        ink = GREY if aside else INK
        if brightness is not None and not aside:
            chip = patches.FancyBboxPatch(
                (x + 0.2, top), length - 0.1, 0.62 * step, boxstyle="round,pad=0,rounding_size=0.3",
                facecolor=colors(brightness[number]), edgecolor="none",
            )  # fmt: skip
            axes.add_patch(chip)
            ink = INK if brightness[number] > 0.5 else "white"
            share = f"{values[number]:.0%}"
            axes.text(x + 0.2 + length / 2, top + 0.8 * step, share, fontsize=0.62 * points, color=INK,
                      ha="center", va="center")  # fmt: skip
        if number == chosen:
            axes.add_patch(
                patches.Rectangle((x + 0.2, top), length - 0.1, 0.62 * step, fill=False, color=INK, linewidth=2.5,
                                  linestyle="--")
            )  # fmt: skip
        axes.text(
            x + 0.15 + length / 2, top + 0.31 * step, shortened(word), family=FONT, fontsize=0.92 * points, color=ink,
            ha="center", va="center_baseline", parse_math=False,
        )  # fmt: skip


def shortened(word: str) -> str:
    return word if len(word) <= 24 else f"{word[:23]}…"
