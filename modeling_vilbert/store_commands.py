# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Commands of `vilbert` that make, read and convert stores of region features."""

import argparse
import json
import sys
from pathlib import Path

from .bulk_extraction import IMAGE_IDS, extract_to_folder, find_images
from .optional_packages import need
from .region_records import MISSING_BOXES, RecordError
from .region_table import DTYPES
from .regions import FORMATS, RegionStore, convert_regions, inspect_regions, open_regions
from .regions_vilbert import BOX_FORMATS


def add_extract(commands: argparse._SubParsersAction):
    parser = commands.add_parser(
        "extract",
        help="make region features from images",
        description="Make region features from images, on a grid, in given boxes or in those of a detector, and store "
        "them in our own format. A run that was interrupted is gone on with by the same command. An image that cannot "
        "be read is reported and left out, and the exit status is 1.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders or patterns")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument(
        "--backbone",
        default="efficientnet-lite0",
        metavar="NAME",
        help="efficientnet-lite0, torchvision:NAME, timm:NAME or transformers:NAME_OR_FOLDER; default: %(default)s",
    )
    places = parser.add_mutually_exclusive_group()
    places.add_argument("--grid", default="6x6", metavar="ROWSxCOLUMNS", help="default: %(default)s")
    places.add_argument("--boxes", type=Path, metavar="JSON", help="a file of {image id: [[x1, y1, x2, y2], ...]}")
    places.add_argument("--detector", metavar="NAME", help="torchvision:NAME or transformers:NAME_OR_FOLDER")
    parser.add_argument("--box-format", choices=BOX_FORMATS, default="xyxy", help="of --boxes; default: %(default)s")
    parser.add_argument("--score-threshold", type=float, default=0.2, help="of the detector; default: %(default)s")
    parser.add_argument("--min-boxes", type=int, default=10, metavar="N", help="of the detector; default: %(default)s")
    parser.add_argument("--max-boxes", type=int, default=36, metavar="N", help="of the detector; default: %(default)s")
    parser.add_argument("--short-side", type=int, default=320, metavar="PIXELS", help="of resized images; default: 320")
    parser.add_argument(
        "--crop-size", type=int, metavar="PIXELS", help="of boxes, each cut out: features see nothing beside their box"
    )
    parser.add_argument(
        "--source", help="what made the features; default: backbone, sizes and where the regions come from"
    )
    parser.add_argument("--ids", choices=IMAGE_IDS, default="stem", help="what of its file an image is called")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="default: %(default)s")
    parser.add_argument("--device", help="such as cpu or cuda")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="that share the images")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of stored features; default: %(default)s")
    parser.add_argument(
        "--records-per-shard",
        type=int,
        default=256,
        metavar="N",
        help="records of a file, and what an interruption costs at most; default: %(default)s",
    )
    parser.set_defaults(run=extract)


def extract(options: argparse.Namespace) -> int:
    images, boxes = find_images(options.images, options.ids), None
    if options.detector:
        bounds = {name: getattr(options, name) for name in ("score_threshold", "min_boxes", "max_boxes")}
        proposals = {"kind": "detector", "model": options.detector, **bounds}
    elif options.boxes:
        proposals, boxes = {"kind": "given"}, read_boxes(options.boxes)
    else:
        rows, _, columns = options.grid.partition("x")
        if not (rows.isdecimal() and columns.isdecimal()):
            raise ValueError(f"--grid must be ROWSxCOLUMNS, such as 6x6, got {options.grid!r}.")
        proposals = {"kind": "grid", "rows": int(rows), "columns": int(columns)}
    sizes = {"short_side": options.short_side, "long_side": 2 * options.short_side, "crop_size": options.crop_size}
    settings = {"backbone": options.backbone, "proposals": proposals, "source": options.source, **sizes}
    problems = extract_to_folder(
        images,
        options.output,
        settings,
        boxes,
        options.box_format,
        options.processes,
        options.device,
        options.batch_size,
        options.dtype,
        options.records_per_shard,
    )
    print(f"{len(images) - len(problems)} of {len(images)} images in {options.output}.")
    if problems:
        print(f"vilbert: {len(problems)} images were left out, among them {list(problems)[:10]}.", file=sys.stderr)
    return 1 if problems else 0


def read_boxes(path: Path) -> dict[str, list]:
    try:
        boxes = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"--boxes {path} is no JSON: {error}") from error
    if not isinstance(boxes, dict):
        raise ValueError(f"--boxes {path} must hold {{image id: [[x1, y1, x2, y2], ...]}}, not {type(boxes).__name__}.")
    return boxes


def add_inspect(commands: argparse._SubParsersAction):
    parser = commands.add_parser(
        "inspect",
        help="say what is in a store of region features, and what is wrong with it",
        description="Read a store of region features in any known format; print its format, records, widths, boxes, "
        "source and problems. The exit status is 1 if there is any problem.",
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a file or a folder")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="also draw the boxes of a few records")
    add_store_options(parser)
    parser.set_defaults(run=inspect)


def inspect(options: argparse.Namespace) -> int:
    image_sizes = read_image_sizes(options.image_sizes)
    try:
        store = open_regions(options.path, options.format, options.missing_boxes, image_sizes)
    except RecordError:
        # The file is damaged as a whole, and the report says so.
        store = options.path
    report = inspect_regions(store, options.format, options.missing_boxes, image_sizes, progress=sys.stderr.isatty())
    print(report)
    if options.picture and isinstance(store, RegionStore):
        draw_records(store, options.picture)
        print(f"picture   {options.picture}")
    return 1 if report.problems else 0


def draw_records(store: RegionStore, picture: Path, count: int = 6):
    """Draw the boxes of the first records that can be read, on the outline of their images."""
    matplotlib = need("matplotlib.figure")
    records = []
    for name in store:
        try:
            records.append(store[name])
        except RecordError:
            continue
        if len(records) == count:
            break
    figure = matplotlib.Figure(figsize=(12, 8), layout="constrained")
    for number, regions in enumerate(records, 1):
        width, height = regions.image_size
        axes = figure.add_subplot(2, 3, number, title=f"{regions.image_id}: {len(regions)} regions", aspect="equal")
        axes.set(xlim=(0, width), ylim=(height, 0))
        for row, (x1, y1, x2, y2) in enumerate(regions.boxes.tolist()):
            colour = f"C{row % 10}"
            axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=colour, linewidth=1)
            if regions.labels is not None and row < 10:
                axes.text(x1, y1, str(regions.labels[row]), color=colour, fontsize=7, va="bottom", clip_on=True)
    figure.savefig(picture)


def add_convert_regions(commands: argparse._SubParsersAction):
    parser = commands.add_parser(
        "convert-regions",
        help="carry region features of any format to our own",
        description="Carry a store of region features in any known format to our own, a table of `datasets`. "
        "A run that was interrupted is gone on with by the same command.",
    )
    parser.add_argument("path", type=Path, metavar="IN", help="a file or a folder")
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the features; default: %(default)s")
    parser.add_argument("--source", help="which detector, layer and box count made the features")
    parser.add_argument(
        "--records-per-shard",
        type=int,
        default=1000,
        metavar="N",
        help="records of a file, and what an interruption costs at most; default: %(default)s",
    )
    add_store_options(parser)
    parser.set_defaults(run=run_convert_regions)


def run_convert_regions(options: argparse.Namespace):
    store = convert_regions(
        options.path,
        options.output,
        dtype=options.dtype,
        source=options.source,
        format=options.format,
        missing_boxes=options.missing_boxes,
        image_sizes=read_image_sizes(options.image_sizes),
        records_per_shard=options.records_per_shard,
        progress=True,
    )
    print(f"{len(store)} records in {options.output}.")


def add_store_options(parser: argparse.ArgumentParser):
    parser.add_argument(
        "--format", choices=[row.name for row in FORMATS], metavar="NAME", help="its format; default: recognised"
    )
    parser.add_argument(
        "--missing-boxes",
        choices=MISSING_BOXES,
        default=MISSING_BOXES[0],
        help="what a region without a box is; default: %(default)s",
    )
    parser.add_argument(
        "--image-sizes", type=Path, metavar="JSON", help="a file of {image id: [width, height]}, where it is not stored"
    )


def read_image_sizes(path: Path | None) -> dict[str, tuple[float, float]] | None:
    if path is None:
        return None
    try:
        return {image_id: (float(size[0]), float(size[1])) for image_id, size in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"--image-sizes {path} must hold {{image id: [width, height]}}: {error}") from error
