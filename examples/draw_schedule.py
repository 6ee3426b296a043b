# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Draw the order of layers, `config.schedule`, as an SVG picture.

    python examples/draw_schedule.py                   # the base model: docs/schedule.svg
    python examples/draw_schedule.py --model FOLDER    # another: schedule.svg in the current folder

Time runs from left to right. A layer stands in the row of its stream; co-attention spans both.
"""

import argparse
from pathlib import Path
from xml.sax.saxutils import escape

from modeling_vilbert import ViLBertConfig


# The base model, as the docs show it.
DRAWN = Path(__file__).parent.parent / "docs" / "schedule.svg"
WIDTH, HEIGHT, GAP = 44, 46, 12
TEXT_ROW, VISION_ROW, LEFT, TOP = 74, 178, 96, 24
# The picture brings its own paper, so that it can be read on a dark page.
PAPER, INK, GREY = "#fbfbf9", "#1f2430", "#c3c8cf"
COLOURS = {"text": "#2c5f8a", "vision": "#2a7f62", "coattention": "#9a5b13"}


def columns(schedule: list[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """(kind, index) of each step -> (kind, index, column): the streams go on side by side until they meet."""
    placed, free = [], {"text": 0, "vision": 0}
    for kind, index in schedule:
        streams = list(free) if kind == "coattention" else [kind]
        column = max(free[stream] for stream in streams)
        placed.append((kind, index, column))
        free.update(dict.fromkeys(streams, column + 1))
    return placed


def draw(config: ViLBertConfig) -> str:
    placed = columns(config.schedule)
    last = max((column for *_, column in placed), default=0)
    right = LEFT + (last + 1) * (WIDTH + GAP)
    width, height = right + 24, VISION_ROW + HEIGHT + 62
    rows = {"text": TEXT_ROW, "vision": VISION_ROW}
    counts = {kind: sum(kind == other for other, *_ in placed) for kind in COLOURS}
    title = (
        f"{counts['text']} text layers, {counts['vision']} vision layers and {counts['coattention']} co-attention "
        "layers in the order in which they run"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif" text-anchor="middle">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="{PAPER}"/></marker></defs>',
        f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}" stroke="{GREY}"/>',
        f'<text x="{LEFT - 12}" y="{TOP + 18}" text-anchor="start" font-size="14" fill="{INK}">'
        "From left to right: a layer reads what came before it in its row, co-attention in both.</text>",
    ]
    for (stream, y), name in zip(rows.items(), ("words", "regions")):
        middle = y + HEIGHT / 2
        parts += [
            f'<line x1="{LEFT - 10}" y1="{middle}" x2="{right}" y2="{middle}" stroke="{GREY}" stroke-width="2"/>',
            f'<text x="{LEFT - 18}" y="{middle + 5}" text-anchor="end" font-size="16" fill="{COLOURS[stream]}">'
            f"{name}</text>",
        ]
    for kind, index, column in placed:
        x = LEFT + column * (WIDTH + GAP)
        y = TEXT_ROW if kind == "coattention" else rows[kind]
        tall = VISION_ROW + HEIGHT - TEXT_ROW if kind == "coattention" else HEIGHT
        label = y + tall / 2 + 6
        parts.append(f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{tall}" rx="6" fill="{COLOURS[kind]}"/>')
        if kind == "coattention":
            # Each stream asks the other.
            for shift, (start, end) in ((-8, (y + 14, label - 24)), (8, (y + tall - 14, label + 14))):
                parts.append(
                    f'<line x1="{x + WIDTH / 2 + shift}" y1="{start}" x2="{x + WIDTH / 2 + shift}" y2="{end}" '
                    f'stroke="{PAPER}" stroke-width="2" marker-end="url(#end)"/>'
                )
        parts.append(f'<text x="{x + WIDTH / 2}" y="{label}" font-size="17" fill="{PAPER}">{index}</text>')
    x = LEFT - 12
    for kind, name in (("text", "text layer"), ("vision", "vision layer"), ("coattention", "co-attention layer")):
        y = VISION_ROW + HEIGHT + 24
        parts += [
            f'<rect x="{x}" y="{y}" width="16" height="16" rx="3" fill="{COLOURS[kind]}"/>',
            f'<text x="{x + 24}" y="{y + 13}" text-anchor="start" font-size="14" fill="{INK}">{name}</text>',
        ]
        x += 40 + 8 * len(name)
    return "\n".join([*parts, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or name of a model; default: the base model of the paper")
    parser.add_argument("--output", type=Path, metavar="SVG", help="default: see above")
    options = parser.parse_args()
    config = ViLBertConfig() if options.model is None else ViLBertConfig.from_pretrained(options.model)
    output = options.output or (DRAWN if options.model is None else Path("schedule.svg"))
    output.write_text(draw(config), encoding="utf-8")
    print(f"{len(config.schedule)} layers in {output}.")


if __name__ == "__main__":
    main()
