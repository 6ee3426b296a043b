# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""The command `vilbert`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoProcessor, AutoTokenizer, PreTrainedModel

from .bulk_extraction import IMAGE_IDS, extract_to_folder, find_images
from .configuration_vilbert import ViLBertConfig
from .conversion_vilbert import load_original
from .explanation import explain
from .explanation_page import check_page_path, embedded_picture, write_page
from .explanation_record import Explanation
from .export import SUFFIXES, checked_path, export_onnx, export_torch, greatest_difference, replacing
from .heads_vilbert import ViLBertForMultiTask, ViLBertTaskModel
from .image_processing_vilbert import ViLBertImageProcessor, check_features
from .modeling_vilbert import ViLBertModel
from .optional_packages import need
from .pipeline_vilbert import (
    ViLBertGroundingPipeline,
    ViLBertMatchingPipeline,
    ViLBertPipeline,
    ViLBertQuestionAnsweringPipeline,
    model_loader,
)
from .pretraining_vilbert import ViLBertForPreTraining
from .processing_vilbert import ViLBertProcessor
from .proposals import open_image
from .region_records import MISSING_BOXES, RecordError
from .region_table import DTYPES
from .regions import FORMATS, RegionStore, convert_regions, inspect_regions, open_regions
from .regions_vilbert import BOX_FORMATS, Regions
from .retrieval import ImageTextScorer
from .search import read_captions, search


MODELS = {
    model.__name__: model
    for model in (ViLBertModel, ViLBertForPreTraining, ViLBertForMultiTask, *ViLBertTaskModel.__subclasses__())
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status, 0 for success and 1 for an error that was reported."""
    parser = argparse.ArgumentParser(prog="vilbert", description="Tools for ViLBERT models.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_convert(commands)
    add_extract(commands)
    add_inspect(commands)
    add_convert_regions(commands)
    add_answer(commands)
    add_ground(commands)
    add_search(commands)
    add_export(commands)
    add_explain(commands)
    options = parser.parse_args(arguments)
    try:
        status = options.run(options)
    # An ImportError says which extra is missing; the last is what a config with a wrong value raises.
    except (ValueError, OSError, ImportError, StrictDataclassError) as error:
        print(f"vilbert: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return status or 0


def add_convert(commands: argparse._SubParsersAction):
    parser = commands.add_parser(
        "convert",
        help="turn an original checkpoint into a folder that from_pretrained loads",
        description="Turn a checkpoint of the original ViLBERT, 12-in-1, VOLTA or MMF into a folder with "
        "model.safetensors, config.json and conversion_report.txt, which says what became of every tensor.",
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="the original file of tensors (.bin, .pth, .tar)"
    )
    parser.add_argument("--config", type=Path, required=True, help="its JSON config, with the original's own fields")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--architecture",
        choices=MODELS,
        metavar="CLASS",
        help=f"class to convert for, one of {', '.join(MODELS)}; default: the one that takes most of it",
    )
    parser.add_argument("--tokenizer", help="also write a processor, with this tokenizer (a name or a folder)")
    parser.set_defaults(run=convert)


def convert(options: argparse.Namespace):
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output {options.output} is a file; give a folder.")
    # All that can fail comes before anything is written.
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer) if options.tokenizer else None
    conversion = load_original(options.checkpoint, options.config, options.architecture)
    MODELS[conversion.architecture].from_conversion(conversion).save_pretrained(options.output)
    (options.output / "conversion_report.txt").write_text(conversion.report() + "\n", encoding="utf-8")
    if tokenizer is not None:
        ViLBertProcessor(ViLBertImageProcessor(), tokenizer).save_pretrained(options.output)
    print(
        f"{conversion.architecture} in {options.output}: {len(conversion.renamed)} tensors renamed, "
        f"{len(conversion.dropped)} left out, {len(conversion.new)} new. conversion_report.txt there names each."
    )


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


def add_answer(commands: argparse._SubParsersAction):
    parser = commands.add_parser(
        "answer",
        help="answer a question about an image",
        description="Print the best answers to a question about an image, with their scores.",
    )
    add_pair_options(parser, "question")
    parser.add_argument("--top-k", type=int, default=5, metavar="N", help="answers to print; default: %(default)s")
    add_store_options(parser)
    parser.set_defaults(run=answer)


def answer(options: argparse.Namespace):
    pipe, regions = read_pair(ViLBertQuestionAnsweringPipeline, options)
    for found in pipe(image=regions, question=options.question, top_k=options.top_k):
        print(f"{found['score']:.4f}  {found['answer']}")


def add_ground(commands: argparse._SubParsersAction):
    parser = commands.add_parser(
        "ground",
        help="find the region of an image that a phrase means",
        description="Print the box of the region that a phrase means, in pixels, and draw it on the image.",
    )
    add_pair_options(parser, "phrase")
    parser.add_argument("--output", type=Path, required=True, metavar="PNG", help="picture to write")
    add_store_options(parser)
    parser.set_defaults(run=ground)


def ground(options: argparse.Namespace):
    if options.output.suffix.lower() != ".png":
        raise ValueError(f"--output must end in .png, got {options.output}.")
    pipe, regions = read_pair(ViLBertGroundingPipeline, options)
    found = pipe(image=regions, text=options.phrase)
    draw_box(regions, found["box"], options.image if Path(options.image).is_file() else None, options.output)
    print(f"box      {' '.join(f'{side:.1f}' for side in found['box'])}  (x1 y1 x2 y2, of {regions.image_size})")
    print(f"score    {found['score']:.4f}")
    if found["label"] is not None:
        print(f"label    {found['label']}")
    print(f"picture  {options.output}")


def add_search(commands: argparse._SubParsersAction):
    parser = commands.add_parser(
        "search",
        help="find the images of a store that a text describes",
        description="Print the ids of the images that match a text best, with their scores. Each image has a forward "
        "of its own: of a large store, read only what a first stage has chosen by captions.",
    )
    parser.add_argument("query", metavar="QUERY", help="a text")
    parser.add_argument("--regions", type=Path, required=True, metavar="STORE", help="of any known format")
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="a saved model and its processor")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="images to print; default: %(default)s")
    parser.add_argument(
        "--captions",
        type=Path,
        metavar="JSON",
        help="a file of {image id: caption or captions}: score only the images whose captions have most words in "
        "common with the text",
    )
    parser.add_argument("--shortlist", type=int, metavar="N", help="how many those are; default: 100")
    parser.add_argument("--head", metavar="NAME", help="of a model of many tasks; default: its matching head")
    parser.add_argument("--task-token", type=int, metavar="N", help="of a model with task tokens; default: the head's")
    add_store_options(parser)
    parser.set_defaults(run=run_search)


def run_search(options: argparse.Namespace):
    folder = model_folder(options)
    if options.shortlist is not None and options.captions is None:
        raise ValueError("--shortlist is of the images that --captions describe: give that, too.")
    shortlist = 100 if options.shortlist is None else options.shortlist
    store = open_regions(options.regions, options.format, options.missing_boxes, read_image_sizes(options.image_sizes))
    captions = None if options.captions is None else read_captions(options.captions)
    model = model_loader(ViLBertMatchingPipeline).from_pretrained(folder)
    scorer = ImageTextScorer(
        model, AutoProcessor.from_pretrained(folder), head=options.head, task_token=options.task_token
    )
    found = search(scorer, options.query, store, options.top, captions, shortlist, sys.stderr.isatty())
    for image_id, score in found:
        print(f"{score:.4f}  {image_id}")


def model_folder(options: argparse.Namespace) -> Path:
    if not (options.model / "config.json").is_file():
        raise ValueError(f"--model {options.model} is not the folder of a saved model: it has no config.json.")
    return options.model


def add_explain(commands: argparse._SubParsersAction):
    parser = commands.add_parser(
        "explain",
        help="show who looks at what, as a page",
        description="Print what a model says of an image and a text, and write a page for any browser: which regions "
        "its words look at, which words its regions look at, and what of it mattered.",
    )
    add_pair_options(parser, "text")
    parser.add_argument("--output", type=Path, required=True, metavar="HTML", help="page to write")
    parser.add_argument("--target", help="answer, or number of a region, to explain; default: what the model says")
    parser.add_argument("--task", metavar="NAME", help="of a model of many tasks, which head")
    add_store_options(parser)
    parser.set_defaults(run=run_explain)


def run_explain(options: argparse.Namespace):
    if options.output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--output must end in .html, got {options.output}.")
    check_page_path(options.output)
    processor, regions = read_regions(options)
    picture = open_image(options.image) if Path(options.image).is_file() else None
    if picture is not None:
        check_picture(picture.size, regions)
    model = read_model(options.model)
    check_features(regions, model.config)
    inputs = processor(images=regions, text=options.text, return_tensors="pt")

    def explained(target: str | int | None) -> Explanation:
        return explain(model, inputs, regions, target, processor=processor, task=options.task)

    try:
        explanation = explained(options.target)
    except ValueError:
        # A label may be a number itself, such as one of counts, and goes first.
        if options.target is None or not options.target.isdecimal():
            raise
        explanation = explained(int(options.target))
    contents = explanation.to_dict()
    if picture is not None:
        contents |= {"image": embedded_picture(picture), "image_size": picture.size}
    write_page(contents, options.output)
    for found in explanation.answers[:5]:
        print(f"{found['score']:.4f}  {found['label']}")
    if (row := explanation.predicted_region) is not None:
        box = (side * scale for side, scale in zip(explanation.boxes[row], regions.image_size * 2))
        print(f"box      {' '.join(f'{side:.1f}' for side in box)}  (x1 y1 x2 y2, of {regions.image_size})")
    if explanation.target:
        print(f"target   {explanation.target}")
    print(f"page     {options.output}")


def check_picture(size: tuple[int, int], regions: Regions):
    """The picture may be a smaller copy of the one that the boxes are of, but not another. Shares fit any."""
    width, height = regions.image_size
    # A copy's sides are rounded to pixels.
    if regions.image_size != (1, 1) and abs(width * size[1] - height * size[0]) > max(width, height):
        raise ValueError(
            f"The image is of {size[0]} x {size[1]} pixels, its regions are of one of {width:g} x {height:g}: give the "
            "picture that the boxes were found in, or a smaller copy."
        )


def read_model(folder: Path, **options) -> PreTrainedModel:
    names = ViLBertConfig.from_pretrained(folder).architectures or [ViLBertModel.__name__]
    if names[0] not in MODELS:
        raise ValueError(f"--model {folder} holds a {names[0]}; known are {', '.join(MODELS)}.")
    return MODELS[names[0]].from_pretrained(folder, **options).eval()


def add_pair_options(parser: argparse.ArgumentParser, words: str):
    parser.add_argument("image", metavar="IMAGE", help="a file; with --regions an image id, or a file called like one")
    parser.add_argument(words, metavar=words.upper())
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="a saved model and its processor")
    parser.add_argument(
        "--regions",
        type=Path,
        metavar="STORE",
        help="take the image's regions from a store of any known format; default: extract them, by the processor",
    )


def read_pair(pipeline_class: type[ViLBertPipeline], options: argparse.Namespace) -> tuple[ViLBertPipeline, Regions]:
    """The pipeline of `--model`, and the regions of the image."""
    processor, regions = read_regions(options)
    return pipeline_class(model_loader(pipeline_class).from_pretrained(options.model), processor), regions


def read_regions(options: argparse.Namespace) -> tuple[ViLBertProcessor, Regions]:
    """The processor of `--model`, and the regions of the image."""
    folder = model_folder(options)
    processor = AutoProcessor.from_pretrained(folder)
    if options.regions is not None:
        sizes = read_image_sizes(options.image_sizes)
        store = open_regions(options.regions, options.format, options.missing_boxes, sizes)
        name = options.image if options.image in store else Path(options.image).stem
        if name not in store:
            raise ValueError(
                f"--regions {options.regions} has no image {options.image!r}; it has {list(store)[:3]}, ..."
            )
        regions = store[name]
    elif processor.region_extractor is None:
        raise ValueError(
            f"The processor in {folder} has no region_extractor, which makes regions of a picture. Take them from a "
            "store by --regions, or attach one: processor.region_extractor = RegionExtractor(...), and save it."
        )
    else:
        regions = processor.to_regions(options.image)
    return processor, regions


def draw_box(regions: Regions, box: Sequence[float], picture: str | None, output: Path):
    """Draw a box on its picture, or, without one, on white between the other regions' boxes."""
    width, height = regions.image_size
    if picture is None:
        scale = 640 / max(width, height)
        canvas = need("PIL.Image").new("RGB", (round(width * scale) or 1, round(height * scale) or 1), "white")
    else:
        canvas = open_image(picture)
    pen = need("PIL.ImageDraw").Draw(canvas)
    # Boxes may be shares of an image whose size nobody stored, and a picture may be a smaller copy.
    scales = (canvas.width / width, canvas.height / height) * 2
    line = max(2, max(canvas.size) // 160)
    for other in regions.boxes.tolist() if picture is None else []:
        pen.rectangle([side * scale for side, scale in zip(other, scales)], outline="lightgrey")
    pen.rectangle([side * scale for side, scale in zip(box, scales)], outline="red", width=line)
    canvas.save(output)


def add_export(commands: argparse._SubParsersAction):
    parser = commands.add_parser(
        "export",
        help="write a model as an ONNX or torch.export file",
        description="Write a saved model, in float32, as a file that runs without this package, for any batch, words "
        "and regions. The file is run on inputs of two other sizes before it replaces one that was there; outputs that "
        "differ from the model's by more than 1e-4 are an error.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="a saved model")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="file to write: .onnx, or .pt2")
    parser.add_argument("--task", metavar="NAME", help="head of a model of many tasks")
    parser.add_argument("--format", choices=SUFFIXES, default="onnx", help="default: %(default)s")
    parser.set_defaults(run=export)


def export(options: argparse.Namespace):
    if options.output.suffix != SUFFIXES[options.format]:
        raise ValueError(
            f"--output must end in {SUFFIXES[options.format]} with --format {options.format}, got {options.output}."
        )
    model = read_model(model_folder(options), dtype="float32")
    path = checked_path(options.output, options.format)
    write = {"onnx": export_onnx, "torch": export_torch}[options.format]
    # What was there before goes only when the new file is found good.
    with replacing(path) as place:
        write(model, place, options.task)
        size = sum(file.stat().st_size for file in place.parent.iterdir())
        try:
            difference = greatest_difference(model, place, options.task)
        except ImportError as error:
            difference = None
            print(f"vilbert: it was not checked: {error}", file=sys.stderr)
        if difference is not None and difference > 1e-4:
            raise ValueError(
                f"The file's outputs differ from the model's by {difference:.1e}, which is more than 1e-4: "
                f"{path} is not written."
            )
    print(f"{type(model).__name__} in {path}: {size / 1e6:.1f} MB.")
    if difference is not None:
        print(f"Its outputs differ from the model's by at most {difference:.1e}.")
