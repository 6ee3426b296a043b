# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""How fast, and in how much memory: ViLBERT beside Transformers' LXMERT and VisualBERT, and our ways of common jobs
beside the plain loops that they replace. Random weights and inputs, nothing to download.

    pip install ".[examples]"
    python examples/benchmark.py                                     # everything, base size
    python examples/benchmark.py --parts forward training --compile --repeat 5 --plot benchmark.png
    python examples/benchmark.py --small --repeat 1                  # does it work? The numbers mean nothing

Parts:
    machine      matrix products: a big square one, whose rate is the 100 % of "of peak", and some of the model's layers
    forward      8 x 23 words x 101 regions without padding, base size, with a VQA head
    training     a step on the same, with dropout and AdamW; bf16 is autocast
    vqa          a set of questions of 4-20 words about 10-100 regions
    pretraining  steps through captions of about 10 words with 10-36 regions, limits 36 and 37: five batches of the
                 fifty that 3,200 captions fall into by length, from the smallest to the largest; and the middle one
    retrieval    captions of 5-30 words x images of 10-36 regions, all pairs
    processes    the same in one and in two processes of one thread each; and what the machine itself gains by a second
                 process: square products, which share nothing
    flat         10^3 to 10^5 pairs of a small model: do cost of a pair and memory stay?

Each round of each row is a process of its own, so that rows do not disturb one another; rounds are interleaved: every
row of a part once, then every row again. A process warms up, and then measures its work and the square product in
turns.

Columns:
    seconds, +-   of one run: the median of rounds, and half of what lies between the fastest and the slowest round
    per second    examples, questions, captions, pairs or products
    of peak       useful FLOPs a second, as a share of the rate of the square products before and after, in the same
                  dtype and process; for what counts as useful see benchmark_models.py
    speed         how many times as fast as the row that has "1.00" before it: for models the same model in fp32,
                  uncompiled; for jobs the first row in fp32; for processes the same in one
    peak MB       the most memory that the process held during the run; with several, the first of them
    work MB       how much of that was for the run, above weights and what else was there before; in brackets as a
                  share of that of the row with which speed is compared
"""

import argparse
import ctypes
import dataclasses
import gc
import json
import multiprocessing
import os
import platform
import resource
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import benchmark_models as models
import benchmark_ways as ways
import torch
import transformers
from benchmark_models import Sizes
from benchmark_ways import Row, Work


# Rows


def rows_of(
    part: str, sizes: Sizes, dtypes: Sequence[str], compiled: bool, attention: str = "sdpa"
) -> list[tuple[Row, Row | None]]:
    """The rows of a part, each with the one that its speed and its memory are compared with."""
    if part == "machine":
        return [(Row(part, shape, dtype, ""), None) for dtype in dtypes for shape in ways.machine_shapes(sizes)]
    if part in ("forward", "training"):
        return [
            (Row(part, name, dtype, each, compiling), Row(part, name, "fp32", each))
            for dtype in dtypes
            for compiling in ((False, True) if compiled else (False,))
            for name, attentions in models.MODELS.items()
            for each in attentions
        ]
    if part == "processes":
        one, two = (
            [
                Row(part, f"{way}, {count} process{'es' * (count > 1)}", "fp32", attention, count=count)
                for way in ways.PROCESS_WAYS
            ]
            for count in (1, 2)
        )
        return [*zip(one, one), *zip(two, one)]
    if part == "flat":
        counts = (10**2, 10**3) if sizes.small else (10**3, 10**4, 10**5)
        found = [Row(part, f"{n:,} pairs", "fp32", attention, count=n) for n in counts]
    else:
        names = {"vqa": ways.QUESTION_WAYS, "pretraining": ways.PRETRAINING_WAYS, "retrieval": ways.RETRIEVAL_WAYS}
        found = [Row(part, name, dtype, attention) for dtype in dtypes for name in names[part]]
    return [(row, dataclasses.replace(found[0], dtype="fp32")) for row in found]


# Measuring

# Every process begins as a copy of one that has these. That one does not look into this folder.
IMPORTED_ONCE = [
    "torch._dynamo",
    "accelerate",
    "modeling_vilbert.retrieval",
    "transformers.models.lxmert.modeling_lxmert",
    "transformers.models.visual_bert.modeling_visual_bert",
]


def memory() -> tuple[float, float | None]:
    """The most that this process held, and what it holds now, in MB; None where the system does not say."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmHWM", "VmRSS"))
    except (OSError, KeyError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (2**20 if sys.platform == "darwin" else 2**10), None


def forget_peak() -> bool:
    """Give back what was freed, and let the most that this process held begin anew; false where that cannot be."""
    gc.collect()
    if sys.platform != "linux":
        return False
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def seconds_of(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rate_of(product: Work) -> float:
    """FLOPs a second, the median of some."""
    return product.flops / statistics.median(seconds_of(product.run) for _ in range(5))


def measure(row: Row, sizes: Sizes, threads: int) -> dict[str, Any]:
    """One round of a row, in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    work = ways.WORK[row.part](row, sizes)
    square = ways.machine(Row("machine", ways.machine_shapes(sizes)[0], row.dtype), sizes)
    for _ in range(2 if row.compiled else 1):
        (work.warm_up or work.run)()
    # Rates of machines that others share change within seconds, so what is compared is measured in turns.
    taken, rates, shares, peak = [], [rate_of(square)], [], None
    forgotten = forget_peak()
    _, rest = memory()
    while not taken or sum(taken) < sizes.least_seconds:
        if work.before is not None:
            work.before()
        several = [seconds_of(work.run)]
        while sum(several) < sizes.least_seconds / 10:
            several.append(seconds_of(work.run))
        if peak is None:
            peak, _ = memory()
        taken += several
        rates.append(rate_of(square))
        if work.flops:
            shares.append(work.flops / statistics.median(several) / statistics.mean(rates[-2:]))
        # Several processes must all run equally often.
        if row.part == "processes":
            break
    if torch.get_num_threads() != threads:
        raise RuntimeError(f"measured with {torch.get_num_threads()} threads in place of {threads}")
    return {
        "seconds": statistics.median(taken),
        "items": work.items,
        "unit": work.unit,
        "flops": work.flops,
        "square_rate": statistics.median(rates),
        "of_peak": statistics.median(shares) if shares else None,
        "peak_mb": peak,
        "work_mb": peak - rest if forgotten else None,
    }


def answer_to(connection: Any, row: Row, sizes: Sizes, threads: int, environment: dict[str, str], folder: str):
    """What a process of its own does: send what was measured, or why it was not."""
    os.environ.update(environment)
    os.chdir(folder)
    try:
        result = measure(row, sizes, threads)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        result = {"failed": f"{type(error).__name__}: {first}"}
    if connection is not None:
        connection.send(result)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def one_round(row: Row, sizes: Sizes, threads: int) -> dict[str, Any]:
    """One round of a row in processes of its own -> what the first one measured, or "failed" and why."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_ONCE)
    count, environment = 1, {}
    if row.part == "processes":
        # What torchrun tells its processes. Accelerate gives each all cores, unless it is told of the threads.
        count, threads = row.count, 1
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        environment = {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": str(threads),
            "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        }  # fmt: skip
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        started = []
        try:
            for rank in range(count):
                own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)} if environment else {}
                connection = sender if rank == 0 else None
                started.append(context.Process(target=answer_to, args=(connection, row, sizes, threads, own, folder)))
                started[-1].start()
            sender.close()
            try:
                result = receiver.recv()
            except EOFError:
                started[0].join()
                result = {"failed": ended_by(started[0].exitcode)}
            if "failed" not in result:
                for process in started:
                    process.join()
            return result
        finally:
            for process in started:
                process.kill()
                process.join()


def ended_by(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    hint = ", out of memory?" if -code == signal.SIGKILL else ""
    return f"ended by {signal.Signals(-code).name}{hint}"


# The table


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of all rounds of a row: medians, and the greatest memory."""
    if failed := [one for one in rounds if "failed" in one]:
        return failed[0]
    seconds = [one["seconds"] for one in rounds]
    last = rounds[-1]
    shares = [one["of_peak"] for one in rounds if one["of_peak"]]
    works = [one["work_mb"] for one in rounds if one["work_mb"] is not None]
    return {
        "seconds": statistics.median(seconds),
        "spread": (max(seconds) - min(seconds)) / 2 / statistics.median(seconds),
        "per_second": last["items"] / statistics.median(seconds),
        "unit": last["unit"],
        "flops": last["flops"],
        "gflops_per_second": last["flops"] / statistics.median(seconds) / 1e9 if last["flops"] else None,
        "square_gflops_per_second": statistics.median(one["square_rate"] for one in rounds) / 1e9,
        "of_peak": statistics.median(shares) if shares else None,
        "peak_mb": max(one["peak_mb"] for one in rounds),
        "work_mb": max(works) if works else None,
        "rounds": list(rounds),
    }


COLUMNS = (
    ("part", 11), ("what", 36), ("dtype", 5), ("attention", 14), ("seconds", 8), ("+-", 5), ("per second", 18),
    ("GFLOP/s", 8), ("of peak", 7), ("speed", 6), ("peak MB", 8), ("work MB", 14),
)  # fmt: skip


def cells(row: Row, result: dict[str, Any], reference: dict[str, Any] | None) -> list[str]:
    names = [row.part, row.way, row.dtype, f"{row.attention}{', compiled' * row.compiled}"]
    if "failed" in result:
        return [*names, f"failed: {result['failed']}"]
    speed = share = ""
    if reference and "failed" not in reference:
        speed = f"{result['per_second'] / reference['per_second']:.2f}"
        if result["work_mb"] is not None and reference["work_mb"]:
            share = f" ({result['work_mb'] / reference['work_mb']:.0%})"
    rate, seconds = result["per_second"], result["seconds"]
    return [
        *names,
        f"{seconds:.3f}" if seconds >= 0.01 else f"{1000 * seconds:.2f}m",
        f"{result['spread']:.0%}",
        f"{rate:,.0f} {result['unit']}s" if rate >= 100 else f"{rate:.2f} {result['unit']}s",
        f"{result['gflops_per_second']:,.1f}" if result["gflops_per_second"] else "",
        f"{result['of_peak']:.1%}" if result["of_peak"] else "",
        speed,
        f"{result['peak_mb']:,.0f}",
        "" if result["work_mb"] is None else f"{result['work_mb']:,.0f}{share}",
    ]


def line(values: Sequence[str], markdown: bool) -> str:
    if markdown:
        return f"| {' | '.join([*values, *[''] * (len(COLUMNS) - len(values))])} |"
    # Names to the left, numbers to the right; why a row has failed takes what it needs.
    width = len(values)
    return "  ".join(
        value
        if width < len(COLUMNS) and place == width - 1
        else f"{value:<{size}}"
        if place < 4
        else f"{value:>{size}}"
        for place, (value, (_, size)) in enumerate(zip(values, COLUMNS))
    ).rstrip()


def machine_facts(threads: int) -> dict[str, Any]:
    processor, flags = platform.processor() or platform.machine(), ""
    if Path("/proc/cpuinfo").exists():
        facts = Path("/proc/cpuinfo").read_text().splitlines()
        for entry in facts:
            name, _, value = entry.partition(":")
            if name.strip() == "model name":
                processor = value.strip()
            elif name.strip() == "flags":
                flags = value
    return {
        "processor": processor,
        "instructions": [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags.split()],
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def plot(path: Path, rows: Sequence[tuple[Row, dict[str, Any]]], facts: dict[str, Any]):
    """Bars: shares of the machine's rate for models, and how many times as fast as plain for jobs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    done = [(row, result) for row, result in rows if "failed" not in result]
    shares = [(row, result) for row, result in done if row.part in ("forward", "training")]
    jobs = [(row, result) for row, result in done if result.get("speed") and row.part not in ("forward", "training")]
    panels = [
        (some, field, title)
        for some, field, title in (
            (shares, "of_peak", "useful FLOPs, share of the machine's matrix-product rate"),
            (jobs, "speed", "items a second, times those of the part's first row"),
        )
        if some
    ]
    if not panels:
        return
    height = max(len(some) for some, _, _ in panels)
    figure, axes = pyplot.subplots(1, len(panels), figsize=(8.5 * len(panels), 1.4 + 0.3 * height), squeeze=False)
    colours = {"fp32": "#4477aa", "bf16": "#ee8866"}
    for axis, (some, field, title) in zip(axes[0], panels):
        labels = [
            f"{row.part}: {row.way}" + f", {row.attention}{', compiled' * row.compiled}" * (field == "of_peak")
            for row, _ in some
        ]
        values = [result[field] for _, result in some]
        bars = axis.barh(range(len(some)), values, color=[colours[row.dtype] for row, _ in some])
        axis.bar_label(bars, [f"{value:.0%}" if field == "of_peak" else f"{value:.2f}" for value in values], padding=2)
        axis.set_yticks(range(len(some)), labels)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.15 * max(values))
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(
        handles=[pyplot.Rectangle((0, 0), 1, 1, color=c, label=d) for d, c in colours.items()], loc="best"
    )
    figure.suptitle(f"{facts['processor']}, {facts['threads']} threads, torch {facts['torch']}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


# One command


def at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(ways.WORK), default=list(ways.WORK), help="default: all")
    parser.add_argument(
        "--dtypes", nargs="+", choices=list(models.DTYPES), default=list(models.DTYPES), help="default: both"
    )
    parser.add_argument("--attention", choices=["eager", "sdpa"], default="sdpa", help="of the jobs; default: sdpa")
    parser.add_argument("--compile", action="store_true", help="models also by torch.compile")
    parser.add_argument("--repeat", type=at_least_one, default=3, help="rounds; default: %(default)s")
    parser.add_argument("--threads", type=at_least_one, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--batch", type=at_least_one, help=f"of forward and training; default: {models.BASE.batch}")
    parser.add_argument("--small", action="store_true", help="small models and few examples: only to see that it works")
    parser.add_argument("--json", type=Path, help="a file for all numbers, of every round")
    parser.add_argument("--markdown", action="store_true", help="the table in Markdown")
    parser.add_argument("--plot", type=Path, help="a picture file for bars")
    options = parser.parse_args(arguments)
    for path in (options.json, options.plot):
        if path is not None and not path.parent.is_dir():
            parser.error(f"there is no folder {path.parent} for {path.name}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_of(arguments)
    sizes = models.SMALL if options.small else models.BASE
    if options.batch:
        sizes = dataclasses.replace(sizes, batch=options.batch)
    facts = machine_facts(options.threads)
    print(", ".join(f"{name} {' '.join(v) if isinstance(v, list) else v}" for name, v in facts.items()), flush=True)
    if options.small:
        print("Small models: these numbers mean nothing.")
    print(f"Rounds: {options.repeat}.\n")
    print(line([name for name, _ in COLUMNS], options.markdown))
    if options.markdown:
        print("|" + "---|" * 4 + "---:|" * (len(COLUMNS) - 4))

    finished: dict[Row, dict[str, Any]] = {}
    for part in dict.fromkeys(options.parts):
        rows = rows_of(part, sizes, list(dict.fromkeys(options.dtypes)), options.compile, options.attention)
        rounds: dict[Row, list[dict[str, Any]]] = {row: [] for row, _ in rows}
        for number in range(1, options.repeat + 1):
            for place, (row, reference) in enumerate(rows, 1):
                if not any("failed" in one for one in rounds[row]):
                    say(f"round {number} of {options.repeat}, {part} {place} of {len(rows)}: {row.way} {row.dtype}")
                    rounds[row].append(one_round(row, sizes, options.threads))
                if number == options.repeat:
                    say("")
                    finished[row] = summary(rounds[row])
                    compared = finished.get(reference)
                    print(line(cells(row, finished[row], compared), options.markdown), flush=True)
                    if compared and "failed" not in compared and "failed" not in finished[row]:
                        finished[row]["speed"] = finished[row]["per_second"] / compared["per_second"]
                    if options.json:
                        write(options.json, facts, sizes, finished)
    if options.plot:
        plot(options.plot, list(finished.items()), facts)
    failed = [row for row, result in finished.items() if "failed" in result]
    if failed:
        print(f"{len(failed)} of {len(finished)} rows failed.", file=sys.stderr)
    return 1 if failed else 0


def say(text: str):
    """What is being done, in one line of a terminal that is written over; elsewhere in lines."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def write(path: Path, facts: dict[str, Any], sizes: Sizes, finished: dict[Row, dict[str, Any]]):
    rows = [{**dataclasses.asdict(row), **result} for row, result in finished.items()]
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.write_text(
        json.dumps({"machine": facts, "sizes": dataclasses.asdict(sizes), "rows": rows}, indent=1) + "\n"
    )
    os.replace(unfinished, path)


if __name__ == "__main__":
    sys.exit(main())
