# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""An explanation as one HTML page, which needs no server and no network.

Markup, style and script are `explanation_page.html`, `.css` and `.js` beside this file. All text is put in by Jinja2,
which escapes it; the numbers follow as JSON. The page's content security policy names the hashes of its own style and
script: nothing else runs in it, and nothing is fetched.

Shapes: T words, R regions, L co-attention layers, H heads.
"""

import base64
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np


FIELDS = (
    "words word_is_special regions image image_size image_number num_images target answers predicted_region attention "
    "relevance heads"
).split()
# A direction -> what the page calls it. Its queries look at its keys.
DIRECTIONS = {"text_to_vision": "words look at regions", "vision_to_text": "regions look at words"}
# A statistic of heads -> what the page calls it.
STATISTICS = {
    "entropy": "entropy (low: looks at few)",
    "special": "share on special words",
    "global_region": "share on the whole image",
}
# So many answers are shown.
NUM_ANSWERS = 5


def write_page(contents: Mapping[str, Any], path: str | Path):
    """Write the page of an explanation.

    Args:
        contents: as `Explanation.to_dict()` returns them.
        path: the file; one that is there is written over.

    Raises:
        ValueError: as `explanation_page` and `check_page_path` do.
    """
    check_page_path(path)
    # Text from a command line may hold halves of characters, which UTF-8 has no place for.
    Path(path).write_bytes(explanation_page(contents).encode("utf-8", "replace"))


def check_page_path(path: str | Path):
    """Raise a ValueError if no page can be written there, before any work is done for it."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"The page cannot be written to {path}, which is a folder; name a file, such as page.html.")
    if not path.parent.is_dir():
        raise ValueError(f"The page cannot be written to {path}: there is no folder {path.parent}.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"The page cannot be written to {path}: permission denied.")


def check_places(boxes: np.ndarray):
    """Raise a ValueError if boxes [R, 4] are all one: a record without boxes has nothing that could be drawn."""
    if len(boxes) > 2 and (boxes[1:] == boxes[:1]).all():
        raise ValueError(
            "All regions cover the same box, so that there is nothing to draw: their record has no boxes. Supply "
            "Regions.boxes [N, 4], in pixels."
        )


def embedded_picture(picture: Any, longest_side: int = 1000) -> str:
    """A PIL image as a data URI, made smaller if it is larger: JPEG, or PNG if it has few colours, as drawings do."""
    picture = picture.convert("RGB")
    kind, settings = ("jpeg", {"quality": 85}) if picture.getcolors(1000) is None else ("png", {})
    picture.thumbnail((longest_side, longest_side))
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def explanation_page(contents: Mapping[str, Any]) -> str:
    """The page of an explanation, as text.

    Args:
        contents: as `Explanation.to_dict()` returns them.

    Raises:
        ValueError: if a field is missing, does not fit the words and regions, or holds NaN or infinity; and as
            `check_places` does.
    """
    if missing := [name for name in FIELDS if name not in contents]:
        raise ValueError(f"contents must be what Explanation.to_dict() returns; they have no {missing}.")
    words, special = [str(word) for word in contents["words"]], [bool(one) for one in contents["word_is_special"]]
    regions, image, predicted = contents["regions"], contents["image"], contents["predicted_region"]
    if not words or not regions or len(special) != len(words):
        raise ValueError(
            f"words, word_is_special and regions must not be empty, and the first two of one length, got {len(words)}, "
            f"{len(special)} and {len(regions)}."
        )
    if image is not None and not str(image).startswith("data:image/"):
        raise ValueError(f"image must be a data URI that begins with data:image/, or None, got {str(image)[:40]!r}.")
    if predicted is not None and not 0 <= predicted < len(regions):
        raise ValueError(f"predicted_region must be one of the {len(regions)} regions, got {predicted}.")
    size = _numbers("image_size", contents["image_size"], (2,))
    boxes = _numbers("boxes of regions", [region["box"] for region in regions], (len(regions), 4))
    check_places(boxes)
    boxes = boxes * np.tile(size, 2)
    answers = contents["answers"][:NUM_ANSWERS]
    scores = _numbers("scores of answers", [one["score"] for one in answers], (len(answers),)).clip(0, 1)

    names = [_region_name(number, region) for number, region in enumerate(regions)]
    data = _data(contents, len(words), len(regions))
    html, css, js = (
        resources.files(__package__).joinpath(f"explanation_page.{kind}").read_text("utf-8")
        for kind in ("html", "css", "js")
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    spoken = [word for word, is_special in zip(words, special) if not is_special] or words
    spoken = " ".join(spoken).replace(" ##", "")
    number, count = contents["image_number"], contents["num_images"]
    return environment.from_string(html).render(
        title=spoken if len(spoken) <= 80 else f"{spoken[:79]}…",
        image_of=f", image {number} of {count}" if count > 1 else "",
        words=list(zip(words, special)),
        regions=[
            {
                "number": number,
                "name": names[number],
                "is_global": bool(region["is_global"]),
                "box": boxes[number].round(6).tolist(),
            }
            for number, region in enumerate(regions)
        ],
        # Small boxes lie on top, where a pointer can reach them.
        by_area=np.argsort((boxes[:, 0] - boxes[:, 2]) * (boxes[:, 3] - boxes[:, 1]), kind="stable").tolist(),
        size=size.tolist(),
        image=image,
        predicted=predicted,
        answers=[(str(one["label"]), score) for one, score in zip(answers, scores.tolist())],
        directions=DIRECTIONS,
        statistics=STATISTICS,
        data={
            **data,
            "words": words,
            "special": special,
            "regions": names,
            "labels": ["" if region["label"] is None else str(region["label"]) for region in regions],
            "target": str(contents["target"]),
        },
        css=css,
        js=js,
        hashes=[base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (css, js)],
    )


def _region_name(number: int, region: Mapping[str, Any]) -> str:
    if region["is_global"]:
        return "the whole image"
    return f"region {number}" if region["label"] is None else f"region {number} ({region['label']})"


def _data(contents: Mapping[str, Any], words: int, regions: int) -> dict[str, Any]:
    """What the script reads beside the texts: maps and statistics."""
    shapes = {"text_to_vision": (words, regions), "vision_to_text": (regions, words)}
    attention = {direction: np.asarray(contents["attention"][direction], np.float64) for direction in shapes}
    layers, heads = (*attention["text_to_vision"].shape, 0, 0)[:2]
    if not layers or not heads:
        raise ValueError(
            "attention must be [layers, heads, words, regions], of a co-attention layer at least; got none."
        )
    relevance = contents["relevance"]
    relevance_shapes = {} if relevance is None else {**shapes, "words": (words,), "regions": (regions,)}
    return {
        "layers": layers,
        "heads": heads,
        "global": [number for number, region in enumerate(contents["regions"]) if region["is_global"]],
        "attention": {
            direction: _packed(f"attention {direction}", attention[direction], (layers, heads, *shape))
            for direction, shape in shapes.items()
        },
        "relevance": {
            name: _packed(f"relevance {name}", relevance[name], shape) for name, shape in relevance_shapes.items()
        },
        # A statistic that does not apply in a direction is 0 for all heads, and not offered there.
        "statistics": {
            direction: {
                name: _numbers(f"{name} of heads", contents["heads"][direction][name], (layers, heads)).tolist()
                for name in STATISTICS
                if np.any(contents["heads"][direction][name])
            }
            for direction in shapes
        },
    }


def _numbers(name: str, values: Sequence, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite and of shape {list(shape)}, got shape {list(array.shape)}.")
    return array


def _packed(name: str, values: Sequence, shape: tuple[int, ...]) -> dict[str, Any]:
    """Numbers in two bytes each: the root of their share of the highest."""
    # Roots, since a row may hold small numbers alone, and is divided by its sum. Below 0 are errors of rounding.
    array = _numbers(name, values, shape).clip(0)
    high = array.max()
    codes = (np.sqrt(array / (high or 1)) * np.iinfo(np.uint16).max).round().astype("<u2")
    return {"high": high, "codes": base64.b64encode(codes.tobytes()).decode()}
