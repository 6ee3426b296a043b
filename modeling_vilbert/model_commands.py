# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Commands of `vilbert` that convert, ask, explain and export models."""

import argparse
import json
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, AutoTokenizer, PreTrainedModel

from .configuration_vilbert import ViLBertConfig
from .conversion_vilbert import Conversion, is_original, load_original
from .explanation import explain
from .explanation_page import check_page_path, embedded_picture, write_page
from .explanation_record import Explanation
from .export import SUFFIXES, checked_path, export_onnx, export_torch, greatest_difference, replacing
from .heads_vilbert import ViLBertForMultiTask, ViLBertTaskModel, check_task_token
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
from .plain_pickles import load_pickle
from .pretraining_vilbert import ViLBertForPreTraining
from .processing_vilbert import ViLBertProcessor
from .proposals import open_image
from .regions import open_regions
from .regions_vilbert import Regions
from .retrieval import ImageTextScorer
from .search import read_captions, search
from .store_commands import add_store_options, read_image_sizes


MODEL_CLASSES = {
    model.__name__: model
    for model in (ViLBertModel, ViLBertForPreTraining, ViLBertForMultiTask, *ViLBertTaskModel.__subclasses__())
}


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
        choices=MODEL_CLASSES,
        metavar="CLASS",
        help=f"class to convert for, one of {', '.join(MODEL_CLASSES)}; default: the one that takes most of it",
    )
    parser.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="[HEAD=]FILE",
        help="names of the outputs of a head, in order: a list in a .json or .pkl file (trainval_label2ans.pkl); of "
        "many heads that of HEAD, default: vqa. May be given several times",
    )
    parser.add_argument(
        "--feature-source", metavar="TEXT", help="what made the features that it was trained on: others will warn"
    )
    parser.add_argument("--tokenizer", help="also write a processor, with this tokenizer (a name or a folder)")
    parser.add_argument(
        "--no-global-region", action="store_true", help="the processor puts no whole image in front (MMF's models)"
    )
    parser.set_defaults(run=convert)


def convert(options: argparse.Namespace):
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output {options.output} is a file; give a folder.")
    # All that can fail comes before anything is written.
    if options.no_global_region and not options.tokenizer:
        raise ValueError("--no-global-region is of the processor that --tokenizer writes: give that, too.")
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer) if options.tokenizer else None
    labels = [read_labels(one) for one in options.labels]
    conversion = load_original(options.checkpoint, options.config, options.architecture)
    if options.feature_source:
        conversion.config.vision_config.feature_source = options.feature_source
    for head, names in labels:
        name_outputs(conversion, head, names)
    MODEL_CLASSES[conversion.architecture].from_conversion(conversion).save_pretrained(options.output)
    (options.output / "conversion_report.txt").write_text(conversion.report() + "\n", encoding="utf-8")
    if tokenizer is not None:
        images = ViLBertImageProcessor(add_global_region=not options.no_global_region)
        ViLBertProcessor(images, tokenizer).save_pretrained(options.output)
    print(
        f"{conversion.architecture} in {options.output}: {len(conversion.renamed)} tensors renamed, "
        f"{len(conversion.dropped)} left out, {len(conversion.new)} new. conversion_report.txt there names each."
    )


def read_labels(given: str) -> tuple[str, list[str]]:
    """`[HEAD=]FILE` -> the head and the names in the file."""
    head, _, name = given.rpartition("=")
    file = Path(name)
    try:
        if file.suffix == ".pkl":
            with open(file, "rb") as opened:
                labels = load_pickle(opened)
        else:
            labels = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"--labels {file} cannot be read: {error}") from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"--labels {file} must hold a list of names, got {labels!r:.80}.")
    return head, labels


def name_outputs(conversion: Conversion, head: str, labels: list[str]):
    """Write names into the config of a conversion; the head is one of many, or "" for the only or usual one."""
    config, names = conversion.config, dict(enumerate(labels))
    if conversion.architecture == ViLBertForMultiTask.__name__:
        if (head := head or "vqa") not in config.tasks:
            raise ValueError(f"--labels are for one of the heads {list(config.tasks)}, got {head!r}.")
        count = config.tasks[head].get("num_labels", 1)
        config.tasks[head]["id2label"] = {str(number): label for number, label in names.items()}
    elif head:
        raise ValueError(f"--labels of a {conversion.architecture} are of its only head: give the file alone.")
    else:
        count = config.num_labels
        config.id2label, config.label2id = names, {label: number for number, label in names.items()}
    if count != len(labels):
        raise ValueError(f"--labels must be {count} names, as many as the head has outputs, got {len(labels)}.")


def add_answer(commands: argparse._SubParsersAction):
    parser = commands.add_parser(
        "answer",
        help="answer a question about an image",
        description="Print the best answers to a question about an image, with their scores.",
    )
    add_pair_options(parser, "question")
    add_head_options(parser)
    parser.add_argument("--top-k", type=int, default=5, metavar="N", help="answers to print; default: %(default)s")
    add_store_options(parser)
    parser.set_defaults(run=answer)


def answer(options: argparse.Namespace):
    pipe, regions, _ = read_pair(ViLBertQuestionAnsweringPipeline, options)
    for found in pipe(image=regions, question=options.question, top_k=options.top_k):
        print(f"{found['score']:.4f}  {found['answer']}")


def add_ground(commands: argparse._SubParsersAction):
    parser = commands.add_parser(
        "ground",
        help="find the region of an image that a phrase means",
        description="Print the box of the region that a phrase means, in pixels, and draw it on the image.",
    )
    add_pair_options(parser, "phrase")
    add_head_options(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="PNG", help="picture to write")
    add_store_options(parser)
    parser.set_defaults(run=ground)


def ground(options: argparse.Namespace):
    if options.output.suffix.lower() != ".png":
        raise ValueError(f"--output must end in .png, got {options.output}.")
    pipe, regions, picture = read_pair(ViLBertGroundingPipeline, options)
    found = pipe(image=regions, text=options.phrase)
    draw_box(regions, found["box"], picture, options.output)
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
    add_head_options(parser)
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
    add_task_token(parser)
    add_store_options(parser)
    parser.set_defaults(run=run_explain)


def run_explain(options: argparse.Namespace):
    if options.output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--output must end in .html, got {options.output}.")
    check_page_path(options.output)
    processor, regions, picture = read_regions(options)
    model = read_model(options.model)
    check_features(regions, model.config)
    inputs = processor(images=regions, text=options.text, return_tensors="pt")
    if options.task_token is not None:
        check_task_token(model.config, options.task_token)
        inputs["task_ids"] = torch.tensor([options.task_token])

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
    names = ViLBertConfig.from_pretrained(folder).architectures
    if not names and is_original(folder):
        conversion = load_original(folder / "pytorch_model.bin", folder / "config.json")
        return MODEL_CLASSES[conversion.architecture].from_conversion(conversion, **options).eval()
    names = names or [ViLBertModel.__name__]
    if names[0] not in MODEL_CLASSES:
        raise ValueError(f"--model {folder} holds a {names[0]}; known are {', '.join(MODEL_CLASSES)}.")
    return MODEL_CLASSES[names[0]].from_pretrained(folder, **options).eval()


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


def add_head_options(parser: argparse.ArgumentParser):
    parser.add_argument("--head", metavar="NAME", help="of a model of many tasks, which; default: the usual one")
    add_task_token(parser)


def add_task_token(parser: argparse.ArgumentParser):
    parser.add_argument("--task-token", type=int, metavar="N", help="of a model with task tokens; default: the head's")


def read_pair(
    pipeline_class: type[ViLBertPipeline], options: argparse.Namespace
) -> tuple[ViLBertPipeline, Regions, Any]:
    """The pipeline of `--model`, the regions of the image, and the image as a PIL image if it is a file."""
    processor, regions, picture = read_regions(options)
    model = model_loader(pipeline_class).from_pretrained(options.model)
    return pipeline_class(model, processor, head=options.head, task_token=options.task_token), regions, picture


def read_regions(options: argparse.Namespace) -> tuple[ViLBertProcessor, Regions, Any]:
    """The processor of `--model`, the regions of the image, and the image as a PIL image if it is a file."""
    folder = model_folder(options)
    processor, is_file = AutoProcessor.from_pretrained(folder), Path(options.image).is_file()
    if options.regions is not None:
        sizes = read_image_sizes(options.image_sizes)
        store = open_regions(options.regions, options.format, options.missing_boxes, sizes)
        name = options.image if options.image in store else Path(options.image).stem
        if name not in store:
            raise ValueError(
                f"--regions {options.regions} has no image {options.image!r}; it has {list(store)[:3]}, ..."
            )
        if name != options.image and not is_file:
            raise ValueError(f"There is no file {options.image}. For its regions alone, give the id {name!r}.")
        regions = store[name]
    elif processor.region_extractor is None:
        raise ValueError(
            f"The processor in {folder} has no region_extractor, which makes regions of a picture. Take them from a "
            "store by --regions, or attach one: processor.region_extractor = RegionExtractor(...), and save it."
        )
    else:
        regions = processor.to_regions(options.image)
    picture = open_image(options.image) if is_file else None
    if picture is not None:
        check_picture(picture.size, regions)
    return processor, regions, picture


def draw_box(regions: Regions, box: Sequence[float], picture: Any, output: Path):
    """Draw a box on a PIL image, or, without one, on white between the other regions' boxes."""
    width, height = regions.image_size
    if picture is None:
        scale = 640 / max(width, height)
        canvas = need("PIL.Image").new("RGB", (round(width * scale) or 1, round(height * scale) or 1), "white")
    else:
        canvas = picture.copy()
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
