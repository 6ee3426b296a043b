"""Stores of regions: every format written as its own tools write it and read back; damage; workers; interruptions."""

import base64
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import lmdb
import msgpack
import msgpack_numpy
import numpy as np
import pytest
import torch
from datasets.arrow_writer import ArrowWriter
from items import Items
from torch.utils.data import DataLoader

from modeling_vilbert import cli
from modeling_vilbert.plain_pickles import load_npy, load_pickle
from modeling_vilbert.regions import (
    FORMATS,
    RecordError,
    Regions,
    RegionStack,
    RegionWriter,
    convert_regions,
    inspect_regions,
    join_regions,
    open_regions,
    write_regions,
)


FEATURES, CLASSES, WIDTH, HEIGHT = 7, 6, 100, 80
IDS = ["42", "7", "300104"]
COUNTS = [3, 5, 4]


def make_records(counts=tuple(COUNTS), ids=tuple(IDS)) -> list[dict]:
    generator = np.random.default_rng(0)
    records = []
    for image_id, count in zip(ids, counts):
        # Eighths are exact in float16, and so are their shares of a power of two.
        corners = generator.integers(0, 30, (count, 2)) + 0.125
        boxes = np.concatenate([corners, corners + generator.integers(1, 30, (count, 2))], 1).astype(np.float32)
        records.append(
            {
                "image_id": image_id,
                "boxes": boxes,
                "features": generator.normal(size=(count, FEATURES)).astype(np.float32),
                "class_probs": generator.random((count, CLASSES), np.float32),
                "labels": generator.integers(0, 1600, count),
                "scores": generator.random(count, np.float32),
                "attributes": generator.integers(0, 400, count),
                "attribute_scores": generator.random(count, np.float32),
            }
        )
    return records


def b64(array, dtype=np.float32) -> str:
    return base64.b64encode(np.asarray(array, dtype).tobytes()).decode()


def shares(record) -> np.ndarray:
    """UNITER's: (x1, y1, x2, y2, w, h), as shares of the image."""
    scaled = record["boxes"] / np.float32([WIDTH, HEIGHT, WIDTH, HEIGHT])
    return np.concatenate([scaled, scaled[:, 2:] - scaled[:, :2]], 1)


# How each format is written, to the layout of the tool it comes from. Each returns the path.


def tsv(folder, rows, name="features.tsv") -> Path:
    path = folder / name
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return path


def bua_row(r):
    return [r["image_id"], WIDTH, HEIGHT, len(r["boxes"]), b64(r["boxes"]), b64(r["features"])]


def lxmert_row(r):
    objects = [b64(r["labels"], np.int64), b64(r["scores"])]
    attributes = [b64(r["attributes"], np.int64), b64(r["attribute_scores"])]
    regions = [len(r["boxes"]), b64(r["boxes"]), b64(r["features"])]
    return [r["image_id"], HEIGHT, WIDTH, *objects, *attributes, *regions]


def write_bua(folder, records):
    return tsv(folder, map(bua_row, records))


def write_bua_cls_prob(folder, records):
    return tsv(folder, ([*bua_row(r), b64(r["class_probs"])] for r in records))


def write_lxmert(folder, records):
    return tsv(folder, map(lxmert_row, records))


def write_volta_tsv(folder, records):
    return tsv(folder, ([*lxmert_row(r), b64(r["class_probs"])] for r in records))


def write_oscar(folder, records):
    rows = ((r, np.concatenate([r["features"], shares(r)], 1)) for r in records)
    return tsv(folder, ([r["image_id"], len(features), b64(features)] for r, features in rows))


def write_vinvl(folder, records):
    def line(r):
        objects = [
            {"rect": box.tolist(), "class": str(label), "conf": float(score), "feature": b64(feature)}
            for box, label, score, feature in zip(r["boxes"], r["labels"], r["scores"], r["features"])
        ]
        return [r["image_id"], json.dumps({"image_w": WIDTH, "image_h": HEIGHT, "objects": objects})]

    return tsv(folder, map(line, records), "predictions.tsv")


def write_lmdb(folder, values: dict[bytes, bytes], subdir=True, map_size=2**24) -> Path:
    path = folder / "features.lmdb"
    environment = lmdb.open(str(path), map_size=map_size, subdir=subdir)
    with environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    environment.close()
    return path


def with_keys(values: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {**values, b"keys": pickle.dumps(list(values))}


def write_vilbert_lmdb(folder, records):
    fields = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features", "cls_prob")
    rows = (dict(zip(fields, map(str, [*bua_row(r), b64(r["class_probs"])]))) for r in records)
    return write_lmdb(folder, with_keys({row["image_id"].encode(): pickle.dumps(row) for row in rows}))


def write_12in1_lmdb(folder, records):
    rows = (
        # As in the original, the number of boxes is wrong.
        {"image_id": int(r["image_id"]), "image_h": HEIGHT, "image_w": WIDTH, "num_boxes": 99}
        | {"boxes": r["boxes"], "features": r["features"]}
        for r in records
    )
    values = {str(row["image_id"]).encode(): pickle.dumps(row) for row in rows}
    return write_lmdb(folder, with_keys(values), subdir=False)


def mmf_info(r):
    return {
        "bbox": r["boxes"],
        "num_boxes": np.int64(len(r["boxes"])),
        "objects": r["labels"],
        "cls_prob": r["class_probs"],
        "image_width": WIDTH,
        "image_height": HEIGHT,
    }


def write_mmf_lmdb(folder, records):
    rows = ({"feature_path": r["image_id"], "features": r["features"], **mmf_info(r)} for r in records)
    return write_lmdb(folder, with_keys({row["feature_path"].encode(): pickle.dumps(row) for row in rows}))


def uniter(r, dtype):
    fields = {"features": r["features"], "norm_bb": shares(r), "conf": r["scores"], "soft_labels": r["class_probs"]}
    return {name: value.astype(dtype) for name, value in fields.items()}


def write_uniter_lmdb(folder, records):
    dumps = {f"{r['image_id']}.npz": uniter(r, np.float32) for r in records}
    values = {
        key.encode(): msgpack.packb(dump, default=msgpack_numpy.encode, use_bin_type=True)
        for key, dump in dumps.items()
    }
    return write_lmdb(folder, {**values, b"__keys__": json.dumps(list(dumps)).encode()})


def write_uniter_compressed_lmdb(folder, records):
    values = {}
    for r in records:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **uniter(r, np.float32), allow_pickle=True)
        values[f"{r['image_id']}.npz".encode()] = buffer.getvalue()
    return write_lmdb(folder, {**values, b"__keys__": json.dumps([key.decode() for key in values]).encode()})


def write_tensorpack(folder, records):
    values = {}
    for number, r in enumerate(records):
        arrays = [r["features"], r["class_probs"], r["boxes"]]
        value = [*arrays, len(r["boxes"]), HEIGHT, WIDTH, r["image_id"], "a caption"]
        values[f"{number:08d}".encode()] = msgpack.packb(value, default=msgpack_numpy.encode, use_bin_type=True)
    return write_lmdb(folder, {**values, b"__keys__": msgpack.packb(list(values), use_bin_type=True)})


def write_volta_h5(folder, records):
    with h5py.File(folder / "features.h5", "w", track_order=True) as file:
        for r in records:
            group = file.create_group(r["image_id"])
            group["features"], group["boxes"] = r["features"], r["boxes"]
            group["obj_id"], group["obj_conf"] = r["labels"], r["scores"]
            group["attr_id"], group["attr_conf"] = r["attributes"], r["attribute_scores"]
            group["img_w"], group["img_h"] = WIDTH, HEIGHT
    return folder / "features.h5"


def write_12in1_npy(folder, records):
    for r in records:
        info = {**mmf_info(r), "objects": np.zeros(1), "image_id": r["image_id"], "features": r["features"]}
        np.save(folder / f"{r['image_id']}.npy", info)
    return folder


def write_mmf_npy(folder, records):
    for r in records:
        np.save(folder / f"{r['image_id']}.npy", r["features"])
        np.save(folder / f"{r['image_id']}_info.npy", mmf_info(r))
    return folder


def write_mmf_frcnn_npy(folder, records):
    for r in records:
        np.save(folder / f"{r['image_id']}.npy", r["features"])
        np.save(folder / f"{r['image_id']}_info.npy", {**mmf_info(r), "num_boxes": 100, "cls_prob": r["scores"]})
        full = {"roi_features": torch.from_numpy(r["features"]), "boxes": torch.from_numpy(r["boxes"])}
        np.save(folder / f"{r['image_id']}_full.npy", full)
    return folder


def vinvl_info(r):
    fields = {"bbox": shares(r), "labels": r["labels"], "scores": r["scores"], "box_features": r["features"]}
    return {**fields, "attr_labels": np.zeros((len(r["boxes"]), 9)), "image_width": WIDTH, "image_height": HEIGHT}


def write_mmf_vinvl_npy(folder, records):
    for r in records:
        np.save(folder / f"{r['image_id']}.npy", np.concatenate([r["features"], shares(r)], 1))
        np.save(folder / f"{r['image_id']}_info.npy", vinvl_info(r))
    return folder


def write_milvlg(folder, records):
    for r in records:
        info = {"objects_id": r["labels"], "objects_conf": r["scores"]}
        info |= {"attrs_id": r["attributes"], "attrs_conf": r["attribute_scores"]}
        sizes = {"image_h": HEIGHT, "image_w": WIDTH, "num_bbox": len(r["boxes"])}
        np.savez(folder / f"{r['image_id']}.npz", x=r["features"], bbox=r["boxes"], **sizes, info=info)
    return folder


def write_milvlg_d2(folder, records):
    for r in records:
        attributes = {"attrs_id": np.zeros((len(r["boxes"]), 9)), "attrs_scores": np.zeros((len(r["boxes"]), 9))}
        info = {"objects": r["labels"], "cls_prob": r["class_probs"], **attributes}
        np.savez(folder / f"{r['image_id']}.npz", x=r["features"], bbox=r["boxes"], image_h=80, image_w=100, info=info)
    return folder


def write_openvqa(folder, records):
    for r in records:
        np.savez(folder / f"{r['image_id']}.npz", x=r["features"].T, bbox=r["boxes"], image_h=HEIGHT, image_w=WIDTH)
    return folder


def write_uniter_npz(folder, records):
    for r in records:
        np.savez_compressed(folder / f"{r['image_id']}.npz", **uniter(r, np.float32))
    return folder


def frcnn(records, most=6):
    def padded(values):
        return np.stack([np.pad(v, [(0, most - len(v))] + [(0, 0)] * (v.ndim - 1)) for v in values])

    return {
        "obj_ids": padded([r["labels"] for r in records]),
        "obj_probs": padded([r["scores"] for r in records]),
        "attr_ids": padded([r["attributes"] for r in records]),
        "attr_probs": padded([r["attribute_scores"] for r in records]),
        "boxes": padded([r["boxes"] for r in records]),
        "normalized_boxes": padded([shares(r)[:, :4] for r in records]),
        # Those of the resized image.
        "sizes": np.array([[8 * HEIGHT, 8 * WIDTH]] * len(records)),
        "preds_per_image": np.array([len(r["boxes"]) for r in records]),
        "roi_features": padded([r["features"] for r in records]),
    }


def write_frcnn_npz(folder, records):
    np.savez(folder / "frcnn.npz", **frcnn(records), img_id=np.array([int(r["image_id"]) for r in records]))
    return folder / "frcnn.npz"


def write_frcnn_pickles(folder, records):
    for r in records:
        (folder / f"{r['image_id']}.pkl").write_bytes(pickle.dumps(frcnn([r])))
    return folder


def write_frcnn_pt(folder, records):
    tensors = {name: torch.from_numpy(value) for name, value in frcnn(records).items()}
    torch.save({**tensors, "img_id": torch.tensor([int(r["image_id"]) for r in records])}, folder / "frcnn.pt")
    return folder / "frcnn.pt"


def write_frcnn_npy(folder, records):
    for r in records:
        np.save(folder / f"{r['image_id']}.npy", frcnn([r]))
    return folder


def write_frcnn_arrow(folder, records):
    """As the detector's own script exports it: shares of the image under the name of boxes, and no true size."""
    columns = frcnn(records)
    columns["boxes"] = columns.pop("normalized_boxes")
    columns["img_id"] = [int(r["image_id"]) for r in records]
    writer = ArrowWriter(path=str(folder / "frcnn.datasets"))
    for row in range(len(records)):
        writer.write({name: np.asarray(value[row]).tolist() for name, value in columns.items()})
    writer.finalize()
    return folder / "frcnn.datasets"


def write_table(folder, records):
    full = (Regions(image_size=(WIDTH, HEIGHT), source="a detector", **r) for r in records)
    write_regions(full, folder / "store", records_per_shard=2)
    return folder / "store"


PROBS, LABELS, SCORES = "class_probs", "labels", "scores"
ATTRIBUTES = ("attributes", "attribute_scores")
SIZES = {"image_sizes": {int(image_id): (WIDTH, HEIGHT) for image_id in IDS}}
# Writer, row of FORMATS, what else it stores, arguments of open_regions.
CASES = [
    (write_table, "table", (PROBS, LABELS, SCORES, *ATTRIBUTES), {}),
    (write_bua, "bua-tsv", (), {}),
    (write_bua_cls_prob, "bua-tsv-cls-prob", (PROBS,), {}),
    (write_lxmert, "lxmert-tsv", (LABELS, SCORES, *ATTRIBUTES), {}),
    (write_volta_tsv, "volta-tsv", (PROBS, LABELS, SCORES, *ATTRIBUTES), {}),
    (write_oscar, "oscar-tsv", (), SIZES),
    (write_vinvl, "vinvl-tsv", (LABELS, SCORES), {}),
    (write_vilbert_lmdb, "vilbert-lmdb", (PROBS,), {}),
    (write_12in1_lmdb, "12in1-lmdb", (), {}),
    (write_mmf_lmdb, "mmf-lmdb", (PROBS, LABELS), {}),
    (write_uniter_lmdb, "uniter-lmdb", (PROBS, SCORES), SIZES),
    (write_uniter_compressed_lmdb, "uniter-lmdb", (PROBS, SCORES), SIZES),
    (write_tensorpack, "tensorpack-lmdb", (PROBS,), {}),
    (write_volta_h5, "volta-h5", (LABELS, SCORES, *ATTRIBUTES), {}),
    (write_12in1_npy, "12in1-npy", (PROBS,), {}),
    (write_mmf_npy, "mmf-npy", (PROBS, LABELS), {}),
    (write_mmf_frcnn_npy, "mmf-npy", (LABELS, SCORES), {}),
    (write_mmf_vinvl_npy, "mmf-npy", (LABELS, SCORES), {}),
    (write_milvlg, "milvlg-npz", (LABELS, SCORES, *ATTRIBUTES), {}),
    (write_milvlg_d2, "milvlg-npz", (PROBS, LABELS), {}),
    (write_openvqa, "milvlg-npz", (), {}),
    (write_uniter_npz, "uniter-npz", (PROBS, SCORES), SIZES),
    (write_frcnn_npz, "frcnn", (LABELS, SCORES, *ATTRIBUTES), {}),
    (write_frcnn_pickles, "frcnn", (LABELS, SCORES, *ATTRIBUTES), {}),
    (write_frcnn_pt, "frcnn", (LABELS, SCORES, *ATTRIBUTES), {}),
    (write_frcnn_npy, "frcnn", (LABELS, SCORES, *ATTRIBUTES), {}),
    (write_frcnn_arrow, "frcnn-arrow", (LABELS, SCORES, *ATTRIBUTES), SIZES),
]
BY_WRITER = pytest.mark.parametrize("write, name, more, options", CASES, ids=[case[0].__name__ for case in CASES])


def same(one, two) -> bool:
    return np.asarray(one).dtype.kind == np.asarray(two).dtype.kind and np.array_equal(one, two)


def check(regions: Regions, record: dict, more):
    assert regions.image_id == record["image_id"] and regions.image_size == (WIDTH, HEIGHT)
    # Boxes that are stored as shares of the image are multiplied out again.
    np.testing.assert_allclose(regions.boxes, record["boxes"], rtol=1e-6)
    assert same(regions.features, record["features"])
    for name in (PROBS, LABELS, SCORES, *ATTRIBUTES):
        stored = getattr(regions, name)
        if name not in more:
            assert stored is None, name
        elif name == LABELS and isinstance(stored[0], str):
            assert list(stored) == [str(label) for label in record[name]]
        else:
            assert same(stored, record[name]), name


def test_every_row_is_tested():
    assert {name for _, name, _, _ in CASES} | {"vln-tsv"} == {row.name for row in FORMATS}


@BY_WRITER
def test_read_back(tmp_path, write, name, more, options):
    records = make_records()
    store = open_regions(write(tmp_path, records), **options)
    assert store.format == name and len(store) == len(IDS) and sorted(store) == sorted(IDS)
    for record in records:
        image_id = record["image_id"]
        for key in (image_id, int(image_id), image_id.encode(), np.int64(image_id)):
            assert key in store
            check(store[key], record, more)
    if not options and write is not write_mmf_vinvl_npy:
        assert all(same(store[r["image_id"]].boxes, r["boxes"]) for r in records)
    assert store["42"].source == ("a detector" if name == "table" else f"unknown ({name})")
    with pytest.raises(KeyError, match="no record of image '43'"):
        store[43]
    assert 43 not in store and None not in store


@BY_WRITER
def test_a_store_travels_to_other_processes_and_converts(tmp_path, write, name, more, options):
    store = open_regions(write(tmp_path, make_records()), **options)
    again = pickle.loads(pickle.dumps(store))
    new = convert_regions(store.path, tmp_path / "ours", **options, records_per_shard=2)
    assert list(again) == list(new) == list(store)
    for image_id in store:
        for other in (again[image_id], new[image_id]):
            for field in ("boxes", "features", "image_size", PROBS, LABELS, SCORES, *ATTRIBUTES, "source", "image_id"):
                assert np.array_equal(getattr(other, field), getattr(store[image_id], field)), field
    assert not inspect_regions(new).problems


@pytest.mark.parametrize("write", [write_bua, write_12in1_lmdb, write_volta_h5, write_table, write_frcnn_npz])
def test_iteration_is_in_file_order(tmp_path, write):
    assert list(open_regions(write(tmp_path, make_records()))) == IDS or write is write_12in1_lmdb


def test_shares_without_a_size_are_on_the_unit_square(tmp_path):
    record = make_records()[0]
    regions = open_regions(write_uniter_npz(tmp_path, [record]))["42"]
    assert regions.image_size == (1, 1) and same(regions.boxes, shares(record)[:, :4])
    np.testing.assert_allclose(regions.locations()[:, :4], shares(record)[:, :4])


def test_oscar_may_carry_the_size_or_no_boxes(tmp_path):
    record = make_records()[0]
    size = np.tile(np.float32([WIDTH, HEIGHT]), (3, 1))
    wide = np.concatenate([record["features"], shares(record)[:, :4], size], 1)
    check(open_regions(tsv(tmp_path, [["42", 3, b64(wide)]]))["42"], record, ())
    path = tsv(tmp_path, [["42", 3, b64(record["features"])]], "narrow.tsv")
    with pytest.raises(RecordError, match="boxes: there are none"):
        open_regions(path)["42"]
    assert same(open_regions(path, missing_boxes="whole_image")["42"].features, record["features"])


def test_a_panorama_is_found_by_scan_and_viewpoint(tmp_path):
    def row(r, attributes=401):
        arrays = [r["features"], r["boxes"], r["class_probs"], np.zeros((len(r["boxes"]), attributes))]
        return ["2t7WUuJeko7", r["image_id"], WIDTH, HEIGHT, 80, *map(b64, [*arrays, *[r["scores"]] * 5])]

    records = make_records()
    store = open_regions(tsv(tmp_path, map(row, records)))
    assert store.format == "vln-tsv" and list(store) == [f"2t7WUuJeko7_{image_id}" for image_id in IDS]
    for record in records:
        name = f"2t7WUuJeko7_{record['image_id']}"
        check(store[name], {**record, "image_id": name}, (PROBS,))
    assert not inspect_regions(store).problems


def test_files_that_belong_to_others_are_no_records(tmp_path):
    write_mmf_frcnn_npy(tmp_path, make_records())
    (tmp_path / "7.npy").unlink()
    store = open_regions(tmp_path)
    assert sorted(store) == ["300104", "42"]
    (problem,) = store.problems
    assert "7_info.npy, record '7', field features: 7.npy" in str(problem)
    assert inspect_regions(store).problems == [problem] and cli.main(["inspect", str(tmp_path)]) == 1
    with pytest.raises(RecordError, match="7_info.npy"):
        convert_regions(tmp_path, tmp_path / "ours")
    with pytest.raises(KeyError, match="Of 1 problems the first: .*7_info.npy"):
        store["7"]
    for file in ("42.npy", "300104.npy"):
        (tmp_path / file).unlink()
    with pytest.raises(ValueError, match="_info.npy"):
        open_regions(tmp_path)


def test_an_image_may_be_called_full(tmp_path):
    np.save(tmp_path / "1.npy", np.ones((1, 7)))
    for name in ("1", "1_full"):
        np.save(tmp_path / f"{name}.npy", np.ones((1, 7)))
        np.save(tmp_path / f"{name}_info.npy", {"bbox": [[0, 0, 9, 9]], "image_width": 10, "image_height": 10})
    assert sorted(open_regions(tmp_path)) == ["1", "1_full"]


def test_the_given_size_counts_where_the_detectors_own_is_stored(tmp_path):
    store = open_regions(write_mmf_frcnn_npy(tmp_path, make_records()), image_sizes=dict.fromkeys(IDS, (90, 70)))
    assert store["42"].image_size == (90, 70)


def test_a_size_that_may_not_be_the_images_is_said(tmp_path, caplog):
    store = open_regions(write_mmf_frcnn_npy(tmp_path, make_records()))
    import transformers

    transformers.utils.logging.enable_propagation()
    transformers.utils.logging.warning_once.cache_clear()
    try:
        assert store["42"].image_size == (WIDTH, HEIGHT) and "give image_sizes=" in caplog.text
    finally:
        transformers.utils.logging.disable_propagation()


def test_vinvl_as_captioning_reads_it(tmp_path):
    records, rows = make_records(), []
    for r in records:
        features = np.concatenate([r["features"], shares(r)], 1)
        rows.append([r["image_id"], json.dumps({"num_boxes": len(features), "features": b64(features)})])
    sizes = dict.fromkeys(IDS, (WIDTH, HEIGHT))
    store = open_regions(tsv(tmp_path, rows, "features.tsv"), image_sizes=sizes)
    for r in records:
        check(store[r["image_id"]], r, ())
    for content, named in (({"num_boxes": 5, "features": b64(np.ones(7))}, "7 numbers are not those of 5 regions"),
                           ({"objects": []}, "field objects: there are none")):  # fmt: skip
        path = tsv(tmp_path, [rows[0], ["1", json.dumps(content)]], "bad.tsv")
        with pytest.raises(RecordError, match=named):
            open_regions(path, image_sizes=sizes)["1"]


def test_a_shard_that_cannot_be_written_is_not_lost_without_a_word(tmp_path):
    """Who goes on after the error gets it again, and no store that lacks a record."""

    def regions(name: str, classes: int) -> Regions:
        probs = np.full((1, classes), 1 / classes)
        return Regions([[0, 0, 9, 9]], np.ones((1, 3)), (9, 9), image_id=name, class_probs=probs)

    writer = RegionWriter(tmp_path / "store", records_per_shard=1)
    writer.write(regions("a", 2))
    for name, classes in (("b", 3), ("c", 2)):
        with pytest.raises(ValueError, match="class_probs"):
            writer.write(regions(name, classes))
    with pytest.raises(ValueError, match="class_probs"):
        writer.close()
    assert not (tmp_path / "store").exists()


def test_vinvl_boxes_in_an_lmdb_of_mmf(tmp_path):
    record = make_records()[0]
    row = {"feature_path": "42", "features": np.concatenate([record["features"], shares(record)], 1)}
    row |= {"bbox": shares(record), "image_width": WIDTH, "image_height": HEIGHT, "cls_prob": None, "objects": None}
    path = write_lmdb(tmp_path, with_keys({b"42": pickle.dumps(row)}))
    check(open_regions(path)["42"], record, ())
    row["bbox"] = row["bbox"] / 2
    path = write_lmdb(tmp_path, with_keys({b"42": pickle.dumps(row)}))
    with pytest.raises(RecordError, match="field features: .*last 6 columns"):
        open_regions(path)["42"]


def test_oscar_decides_once_what_its_last_columns_are(tmp_path):
    records = make_records((3, 5, 4, 2), (*IDS, "8"))
    with_boxes = [np.concatenate([r["features"], shares(r)], 1) for r in records]
    without = [np.random.default_rng(0).random((len(r["boxes"]), FEATURES + 6)) + 1 for r in records]
    for number in range(4):
        mixed = [*with_boxes[:number], without[number], *with_boxes[number + 1 :]]
        path = tsv(
            tmp_path, ([r["image_id"], len(rows), b64(rows)] for r, rows in zip(records, mixed)), f"{number}.tsv"
        )
        for store in (open_regions(path), pickle.loads(pickle.dumps(open_regions(path)))):
            for r in records:
                if r is not records[number]:
                    assert same(store[r["image_id"]].features, r["features"])
            with pytest.raises(RecordError, match=f"'{records[number]['image_id']}' in line .*normalized_boxes"):
                store[records[number]["image_id"]]
        mixed = [*without[:number], with_boxes[number], *without[number + 1 :]]
        path = tsv(
            tmp_path, ([r["image_id"], len(rows), b64(rows)] for r, rows in zip(records, mixed)), f"{number}.tsv"
        )
        store = open_regions(path, missing_boxes="whole_image")
        assert {store[image_id].features.shape[1] for image_id in store} == {FEATURES + 6}


def test_an_oscar_store_may_have_images_without_regions(tmp_path):
    rows = np.concatenate([make_records()[0]["features"], shares(make_records()[0])], 1)
    store = open_regions(tsv(tmp_path, [["7", 0, ""], ["42", 3, b64(rows)]]))
    assert len(store["7"]) == 0 and store["42"].features.shape == (3, FEATURES)


def test_empty_columns_of_attributes(tmp_path):
    rows = [lxmert_row(r) for r in make_records()]
    for row in rows:
        row[5] = row[6] = ""
    regions = open_regions(tsv(tmp_path, rows))["42"]
    assert regions.attributes is None and regions.attribute_scores is None and regions.labels is not None


def test_fp16_stays_fp16_where_it_is_stored_and_is_widened_exactly(tmp_path):
    record = make_records()[0]
    np.savez(tmp_path / "42.npz", **uniter(record, np.float16))
    stored = open_regions(tmp_path)["42"].features
    assert stored.dtype == np.float16
    assert same(convert_regions(tmp_path, tmp_path / "ours")["42"].features, stored.astype(np.float32))
    half = convert_regions(tmp_path, tmp_path / "half", dtype="float16", format="uniter-npz")["42"].features
    assert half.dtype == np.float16 and same(half, stored)


def test_missing_boxes_are_an_error_unless_asked(tmp_path):
    record = make_records()[0]
    np.save(tmp_path / "42.npy", record["features"])
    np.save(tmp_path / "42_info.npy", {"image_width": WIDTH, "image_height": HEIGHT})
    with pytest.raises(RecordError, match="42.npy, record '42', field boxes: .*whole_image"):
        open_regions(tmp_path)["42"]
    regions = open_regions(tmp_path, missing_boxes="whole_image")["42"]
    assert regions.boxes.tolist() == [[0, 0, WIDTH, HEIGHT]] * 3


def test_the_callers_source_counts_and_a_size_that_differs_is_another_image(tmp_path):
    path = write_bua(tmp_path, make_records())
    assert open_regions(path, source="X-152, fc6, 10-100 boxes")["42"].source == "X-152, fc6, 10-100 boxes"
    with pytest.raises(RecordError, match=r"field image_size: stored is \(100.0, 80.0\), image_sizes says \(9, 9\)"):
        open_regions(path, image_sizes={"42": (9, 9)})["42"]


def test_image_sizes_are_of_all_images(tmp_path):
    path = write_uniter_npz(tmp_path, make_records())
    for sizes, missing in (({42: (WIDTH, HEIGHT)}, "'300104', '7'"), ({42: (1, 1), 7: (1, 1)}, "'300104'")):
        with pytest.raises(ValueError, match=f"image_sizes .* of 3 are not in it: {missing}. "):
            open_regions(path, image_sizes=sizes)
    sizes = tmp_path / "sizes.json"
    sizes.write_text('{"42": [100, 80]}')
    assert cli.main(["inspect", str(path), "--image-sizes", str(sizes)]) == 1
    # Where sizes are stored, those given are compared with them.
    (tmp_path / "bua").mkdir()
    store = open_regions(write_bua(tmp_path / "bua", make_records()), image_sizes={42: (WIDTH, HEIGHT)})
    assert len({store[image_id].image_size for image_id in store}) == 1


def test_records_and_stores_may_be_empty(tmp_path):
    records = make_records((0, 3, 0))
    path = write_bua(tmp_path, records)
    for store in (open_regions(path), convert_regions(path, tmp_path / "ours")):
        assert [len(store[image_id]) for image_id in IDS] == [0, 3, 0]
        assert [problem.problem for problem in inspect_regions(store).problems] == ["the record has no region."] * 2
    assert write_regions([], tmp_path / "empty") == 0 and len(open_regions(tmp_path / "empty")) == 0


def between_two_batches(file):
    file.write_bytes(file.read_bytes()[:-8])


@pytest.mark.parametrize("damage", [between_two_batches, lambda file: truncate(file), Path.unlink, os.truncate])
def test_a_damaged_file_of_a_table_is_named_and_the_others_are_read(tmp_path, damage):
    records = make_records()
    path = write_table(tmp_path, records)
    before = open_regions(path)
    file = path / "data-00000.arrow"
    damage(file, 0) if damage is os.truncate else damage(file)
    store = open_regions(path)
    assert list(store) == ["300104"] and same(store["300104"].features, records[2]["features"])
    assert [problem.file for problem in store.problems] == [str(file)] and "problems: 1" in repr(store)
    assert list(map(str, inspect_regions(path).problems)) == list(map(str, store.problems))
    with pytest.raises(KeyError, match="data-00000.arrow"):
        store["42"]
    with pytest.raises(RecordError, match="data-00000.arrow"):
        convert_regions(path, tmp_path / "again")
    # Where a worker opens it anew, rows would have other numbers.
    assert list(pickle.loads(pickle.dumps(store))) == ["300104"]
    with pytest.raises(RecordError, match="data-00000.arrow"):
        pickle.loads(pickle.dumps(before))
    truncate(path / "data-00001.arrow")
    with pytest.raises(RecordError, match="data-0000"):
        open_regions(path)


@pytest.mark.parametrize("name", [LABELS, "attributes"])
def test_names_are_kept_as_they_are_or_refused(tmp_path, name):
    def record(image_id, names):
        return Regions([[0, 0, 9, 9]] * 2, np.ones((2, 3)), (10, 10), image_id=image_id, **{name: names})

    for number, (names, kept) in enumerate(
        [
            (["cat", "3"], ["cat", "3"]),
            (np.array(["cat", "ear"]), ["cat", "ear"]),
            ([np.int64(3), 4], [3, 4]),
            (torch.tensor([2**62, 4]), [2**62, 4]),
            (np.float32([3, 4]), [3, 4]),
        ]
    ):
        write_regions([record(1, names)], tmp_path / f"{number}")
        assert list(getattr(open_regions(tmp_path / f"{number}")[1], name)) == kept
    for wrong in (["cat", 3], [3, "cat"], [1.5, 2], [None, "cat"], [np.nan, 1], [2**63, 1], [[1], [2]], [True, False]):
        with pytest.raises(ValueError, match=f"{name} of image 1 must be all text or all whole numbers"):
            write_regions([record(1, wrong)], tmp_path / "wrong")
    for one, other, said in ((["cat", "ear"], [3, 4], "numbers, those before text"), ([3, 4], ["3", "4"], "text")):
        with pytest.raises(ValueError, match=f"{name} of image 2 are {said}"):
            write_regions([record(1, one), record(2, other)], tmp_path / "wrong")


def test_our_table_is_one_of_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = datasets.load_from_disk(str(write_table(tmp_path, make_records())))
    assert len(table) == 3 and table[1]["image_id"] == "7" and table.with_format("numpy")[1]["features"].shape == (5, 7)
    table.select([2, 0]).save_to_disk(str(tmp_path / "chosen"))
    assert list(open_regions(tmp_path / "chosen")) == ["300104", "42"]


# Hostile files.


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_every_protocol(protocol):
    value = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": [np.float32(2), "text", b"bytes", {1, 2}],
        "c": np.array(["x", None]),
    }
    loaded = load_pickle(io.BytesIO(pickle.dumps(value, protocol)))
    assert same(loaded["a"], value["a"]) and loaded["b"] == value["b"] and loaded["c"].tolist() == ["x", None]
    old = pickle.dumps(value, protocol).replace(b"numpy._core", b"numpy.core")
    if protocol < 4:  # later protocols frame their text by length
        assert same(load_pickle(io.BytesIO(old))["a"], value["a"])


class Call:
    """A pickle that calls what is allowed to be named."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        Call(np.ndarray, (1,), "O", b"A" * 8),
        Call(np.dtype, [("a", "O")]),
        {"late": Call(np.dtype, "V8", False, True), "array": np.zeros(2, [("a", "f4")])},
    ],
    ids=["an array over bytes as pointers", "a dtype of fields", "an array of fields"],
)
def test_arrays_are_not_made_of_pointers(call):
    with pytest.raises(pickle.UnpicklingError):
        load_pickle(io.BytesIO(pickle.dumps(call)))


@pytest.mark.parametrize("where", ["lmdb", "keys", "npy", "info", "npz", "frcnn", "msgpack"])
def test_a_hostile_file_runs_nothing(tmp_path, where):
    marker, record = tmp_path / "ran", make_records()[0]
    folder = tmp_path / "store"
    folder.mkdir()
    bomb, options = pickle.dumps(Bomb(marker)), {}
    if where == "lmdb":
        good = pickle.dumps({"boxes": record["boxes"], "features": record["features"], "image_w": 100, "image_h": 80})
        write_lmdb(folder, with_keys({b"7": good, b"42": bomb}), subdir=True)
        folder = folder / "features.lmdb"
        assert same(open_regions(folder)["7"].features, record["features"])
    elif where == "keys":
        folder = write_lmdb(folder, {b"42": bomb, b"keys": bomb})
    elif where == "npy":
        np.save(folder / "42.npy", {"features": Bomb(marker)})
    elif where == "info":
        np.save(folder / "42.npy", record["features"])
        np.save(folder / "42_info.npy", np.array(Bomb(marker), object))
    elif where == "npz":
        np.savez(folder / "42.npz", x=record["features"], bbox=record["boxes"], info=np.array(Bomb(marker), object))
    elif where == "frcnn":
        (folder / "42.pkl").write_bytes(bomb)
    else:
        array = {b"nd": True, b"type": "O", b"kind": b"O", b"shape": (1,), b"data": bomb}
        row = {"features": array, "norm_bb": array}
        folder = write_lmdb(folder, {b"42": msgpack.packb(row, use_bin_type=True), b"__keys__": b'["42"]'})
        options = {"format": "uniter-lmdb"}
    with pytest.raises(ValueError, match=r"mkdir|Python objects") as caught:
        open_regions(folder, **options)["42"]
    assert str(folder) in str(caught.value) and not marker.exists()


def test_object_arrays_of_numpy_stay_data(tmp_path):
    np.save(tmp_path / "a.npy", np.array(["x", 3, None], object))
    with open(tmp_path / "a.npy", "rb") as file:
        assert load_npy(file).tolist() == ["x", 3, None]


# Damage. Each case plants it among good records, and says what the error names.


def cut_line(path):
    path.write_bytes(path.read_bytes()[:-40])


def change_row(row_of, change):
    def write(folder, records):
        rows = [row_of(r) for r in records]
        change(rows[-1])
        return tsv(folder, rows)

    return write


def put(column, value):
    return lambda row: row.__setitem__(column, value(row[column]))


def change_npz(change):
    def write(folder, records):
        path = write_milvlg(folder, records)
        file = path / f"{records[-1]['image_id']}.npz"
        change(file, records[-1])
        return path

    return write


def resave(**changes):
    def change(file, record):
        fields = {"x": record["features"], "bbox": record["boxes"], "image_h": HEIGHT, "image_w": WIDTH}
        np.savez(file, **{**fields, **{name: value(record) for name, value in changes.items()}})

    return change


def truncate(file, record=None):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def spoiled(name, value):
    def change(record):
        array = record[name].copy()
        array[1] = value
        return array

    return change


DAMAGES = {
    "bad base64": (change_row(bua_row, put(5, lambda text: text[:-2] + "!=")), "features", "not base64"),
    "wrong padding": (change_row(bua_row, put(4, lambda text: text.rstrip("=")[:-1])), "boxes", "base64|bytes"),
    "cut in base64": (change_row(bua_row, put(5, lambda text: text[:-8])), "features", "do not make"),
    "too few columns": (change_row(bua_row, lambda row: row.pop()), "features", "5 fields"),
    "count disagrees": (change_row(bua_row, put(3, lambda count: count + 1)), "features", "do not make 5 regions"),
    "count is no number": (change_row(bua_row, put(3, lambda count: "many")), "num_boxes", "whole number"),
    "width is no number": (change_row(bua_row, put(1, lambda count: "wide")), "width", "number"),
    "height before width": (
        change_row(bua_row, lambda row: row.__setitem__(slice(1, 3), (20, 10))),
        "boxes",
        "outside their image",
    ),
    "json is cut": (lambda f, r: (lambda p: (cut_line(p), p)[1])(write_vinvl(f, r)), "json", "no JSON"),
    "npz is cut": (change_npz(truncate), None, "zip"),
    "rows disagree": (change_npz(resave(x=lambda r: r["features"][1:])), "boxes", "3 regions"),
    "width changes": (change_npz(resave(x=lambda r: r["features"][:, 1:])), "features", "6 wide, those of '300104' 7"),
    "NaN": (change_npz(resave(x=spoiled("features", np.nan))), "features", "NaN"),
    "upside down": (change_npz(resave(bbox=spoiled("boxes", [9, 9, 3, 3]))), "boxes", "upside down"),
    "outside": (change_npz(resave(bbox=spoiled("boxes", [9, 9, 300, 30]))), "boxes", "outside their image"),
    "no size": (change_npz(lambda f, r: np.savez(f, x=r["features"], bbox=r["boxes"])), "image_size", "image_sizes="),
}


@pytest.mark.parametrize("write, field, said", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named_and_the_rest_stays_readable(tmp_path, write, field, said):
    records = make_records(ids=("300104", "42", "7"))
    store = open_regions(write(tmp_path, records))
    bad = records[-1]["image_id"]
    for record in records[:-1]:
        assert same(store[record["image_id"]].features, record["features"])
    with pytest.raises(RecordError, match=said) as caught:
        store[bad]
    assert caught.value.field == field and bad in caught.value.record and str(tmp_path) in str(caught.value)
    with pytest.raises(RecordError):
        convert_regions(store.path, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()
    shutil.rmtree(tmp_path / "converted.partial")
    problems = inspect_regions(store).problems
    assert [(problem.field, bad in problem.record) for problem in problems] == [(field, True)]


@pytest.mark.parametrize("odd", [0, 2, 5])
def test_the_odd_record_is_the_one_that_is_named(tmp_path, odd):
    records = make_records([3] * 6, tuple("abcdef"))
    records[odd]["features"] = records[odd]["features"][:, 1:]
    store = open_regions(tsv(tmp_path, map(bua_row, records)))
    for number, record in enumerate(records):
        if number != odd:
            assert same(store[record["image_id"]].features, record["features"])
    with pytest.raises(
        RecordError, match=f"'{'abcdef'[odd]}' in line {odd + 1}, field features: they are 6 wide, .* 7"
    ):
        store["abcdef"[odd]]
    assert ["abcdef"[odd] in problem.record for problem in inspect_regions(store).problems] == [True]


def test_a_bad_first_record_does_not_hide_what_a_store_is(tmp_path):
    rows = [bua_row(r) for r in make_records()]
    rows[0].pop()
    store = open_regions(tsv(tmp_path, [["image_id", "image_w"], *rows]))
    assert store.format == "bua-tsv" and list(store) == IDS and len(store["7"]) == 5
    with pytest.raises(RecordError, match="'42' in line 2, field features: .*5 fields"):
        store["42"]
    (tmp_path / "frcnn").mkdir()
    (write_frcnn_pickles(tmp_path / "frcnn", make_records()) / "300104.pkl").write_bytes(b"\x80")
    store = open_regions(tmp_path / "frcnn")
    assert list(store) == ["42", "7"] and "300104.pkl" in str(store.problems[0])


def test_shares_taken_for_pixels_are_found_by_inspect(tmp_path):
    shares = Regions([[0, 0, 0.5, 0.5], [0.2, 0.1, 1, 1]], np.ones((2, 3)), (640, 480), image_id="1")
    write_regions([shares], tmp_path / "store")
    (problem,) = inspect_regions(tmp_path / "store").problems
    assert "all lie within one pixel" in str(problem)


def test_flat_boxes_are_found_by_inspect(tmp_path):
    write = change_npz(resave(bbox=spoiled("boxes", [9, 9, 9, 30])))
    (problem,) = inspect_regions(write(tmp_path, make_records())).problems
    assert problem.field == "boxes" and "no area" in problem.problem and problem.record == "'300104'"


def test_ids_that_collide(tmp_path):
    one, two, three = make_records()
    path = tsv(tmp_path, [bua_row(one), bua_row(two), bua_row({**three, "image_id": "42"})])
    store = open_regions(path)
    assert list(store) == ["42", "7"] and same(store["7"].features, two["features"])
    with pytest.raises(RecordError, match="field image_id: 2 records have this id: .*line 1.*line 3"):
        store["42"]
    assert [problem.field for problem in inspect_regions(path).problems] == ["image_id"]

    mixed = [{**one, "image_id": 42}, {**two, "image_id": "42"}]
    with pytest.raises(RecordError, match="2 records have this id"):
        open_regions(write_tensorpack(tmp_path, mixed))["42"]
    with pytest.raises(ValueError, match="Two records have the image_id '42'"):
        write_table(tmp_path, mixed)


@pytest.mark.parametrize(
    "key, stored",
    [
        ("COCO_train2014_000000000139", 139),
        ("139", "COCO_train2014_000000000139.jpg"),
        ("000000000139", "139"),
        ("train2014/000000000139", "/data/val2017/139.jpg"),
        ("COCO_train2014_139", "train2014_000000000139"),
        ("n161313", 161313),
        ("nlvr2/dev-850-0-img0.png", "dev-850-0-img0"),
        ("v1.5_a", "v1.5_a"),
        ("A_cat", "a cat"),
        ("#", "#"),
    ],
)
def test_names_of_one_image(tmp_path, key, stored):
    record = {**make_records()[0], "image_id": stored}
    row = dict(zip(("image_id", "image_w", "image_h", "num_boxes", "boxes", "features"), bua_row(record)))
    path = write_lmdb(tmp_path, with_keys({key.encode(): pickle.dumps(row)}))
    assert len(open_regions(path)[key]) == 3


@pytest.mark.parametrize(
    "key, stored",
    [
        ("train-12-3-img0", "dev-850-0-img0"),
        ("train-850-0-img0", "dev-850-0-img0"),
        ("dev-850-0-img0", "test1-850-0-img0"),
        ("dev-850-0-img0", "dev-850-0-img1"),
        ("COCO_train2014_000000000139", "COCO_val2014_000000000139"),
        ("COCO_train2014_000000000139", 39),
        ("COCO_train2014_000000000139", 2014),
        ("v1.5_a", "v1.6_a"),
        ("12", "2"),
        ("#", "##"),
        ("#", "139"),
    ],
)
def test_names_of_two_images(tmp_path, key, stored):
    record = {**make_records()[0], "image_id": stored}
    row = dict(zip(("image_id", "image_w", "image_h", "num_boxes", "boxes", "features"), bua_row(record)))
    path = write_lmdb(tmp_path, with_keys({key.encode(): pickle.dumps(row)}))
    with pytest.raises(RecordError, match="field image_id: it is stored under"):
        open_regions(path)[key]


def test_a_record_of_another_image(tmp_path):
    write_12in1_npy(tmp_path, make_records())
    (tmp_path / "42.npy").rename(tmp_path / "43.npy")
    with pytest.raises(RecordError, match="43.npy, record '43', field image_id: .*says '42'"):
        open_regions(tmp_path)["43"]
    # LMDBs are keyed anew by number.
    (tmp_path / "7.npy").rename(tmp_path / "COCO_val2014_000000000007.npy")
    assert len(open_regions(tmp_path)["COCO_val2014_000000000007"]) == 5


@pytest.mark.parametrize("write", [write_12in1_lmdb, write_mmf_lmdb, write_volta_h5], ids=lambda w: w.__name__)
def test_a_cut_store_is_named(tmp_path, write, capsys):
    ids = tuple(map(str, range(60)))
    path = write(tmp_path, make_records([9] * 60, ids))
    truncate(path / "data.mdb" if path.is_dir() else path)
    with pytest.raises(ValueError, match=path.name):
        open_regions(path)
    assert cli.main(["inspect", str(path)]) == 1
    printed = capsys.readouterr()
    assert path.name in printed.out and "Traceback" not in printed.err


def test_a_key_without_a_record(tmp_path):
    path = write_lmdb(tmp_path, {b"42": pickle.dumps(mmf_info(make_records()[0])), b"keys": pickle.dumps([b"7"])})
    with pytest.raises(ValueError, match="nothing under it"):
        open_regions(path, format="12in1-lmdb")["7"]


@pytest.mark.parametrize(
    "content, said",
    [
        (b"hello", "none of the formats"),
        (b"\x93NUMPY\x09\x09", "cannot be read"),
        (b"PK\x03\x04 cut", "cannot be read"),
    ],
)
def test_what_is_no_store(tmp_path, content, said):
    path = tmp_path / ("x.npy" if content.startswith(b"\x93") else "x.npz" if content.startswith(b"PK") else "x.dat")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        open_regions(path)


def test_arguments_are_checked(tmp_path):
    path = write_bua(tmp_path, make_records())
    for arguments, said in (
        ({"format": "tsv"}, "format must be one of"),
        ({"missing_boxes": "guess"}, "missing_boxes must be one of"),
    ):
        with pytest.raises(ValueError, match=said):
            open_regions(path, **arguments)
    with pytest.raises(ValueError, match="does not exist"):
        open_regions(tmp_path / "nothing")
    with pytest.raises(ValueError, match="dtype must be one of"):
        write_regions([], tmp_path / "x", dtype="int8")
    big = Regions([[0, 0, 9, 9]], [[1e6]], (10, 10), image_id=1)
    with pytest.raises(ValueError, match="beyond float16"):
        write_regions([big], tmp_path / "x", dtype="float16")
    with pytest.raises(ValueError, match="without image_id"):
        write_regions([Regions([[0, 0, 9, 9]], [[1.0]], (10, 10))], tmp_path / "x")


@pytest.mark.parametrize(
    "package, write",
    [
        ("lmdb", write_12in1_lmdb),
        ("h5py", write_volta_h5),
        ("pyarrow", write_table),
        ("msgpack", write_uniter_lmdb),
        ("msgpack", write_tensorpack),
    ],
)
def test_a_missing_package_says_which_extra(tmp_path, monkeypatch, package, write):
    path = write(tmp_path, make_records())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "modeling-vilbert\[regions\]"'):
        open_regions(path)


# Workers.


@pytest.mark.parametrize(
    "write, context",
    # A spawned worker takes seconds to start, and what it does before it reads is in the test of pickling.
    [
        *((write, "fork") for write in (write_table, write_bua, write_12in1_lmdb, write_volta_h5, write_milvlg)),
        *((write, "spawn") for write in (write_table, write_12in1_lmdb)),
    ],
)
def test_workers_read_what_the_parent_has_open(tmp_path, write, context):
    records = make_records()
    store = open_regions(write(tmp_path, records))
    store["42"]
    workers = {"fork": 2, "spawn": 1}[context]
    loader = DataLoader(Items(store), batch_size=None, num_workers=workers, multiprocessing_context=context)
    sums = {r["image_id"]: float(r["features"].sum()) for r in records}
    got = list(loader)
    assert len(got) == 15 and all(abs(value - sums[image_id]) < 1e-5 for image_id, value in got)


def test_an_error_of_a_worker_arrives(tmp_path):
    path = DAMAGES["NaN"][0](tmp_path, make_records())
    with pytest.raises(ValueError, match="field features: .*NaN"):
        list(DataLoader(Items(open_regions(path)), batch_size=None, num_workers=1))


# Annotations.


def test_join(tmp_path):
    datasets = pytest.importorskip("datasets")
    store = open_regions(write_table(tmp_path, make_records()))
    questions = datasets.Dataset.from_dict({"image_id": [7, 42, 7], "question": list("abc")})
    joined = join_regions(questions, store)
    assert len(joined) == 3 and joined.column_names == questions.column_names
    assert [regions.image_id for regions in joined[1:]["regions"]] == ["42", "7"]
    assert joined.shuffle(seed=0).select([0, 1])[0]["regions"].features.shape[1] == FEATURES
    pairs = datasets.Dataset.from_dict({"images": [["7", "42"], ["42", "42"]]})
    assert [[r.image_id for r in row["regions"]] for row in join_regions(pairs, store, "images")][0] == ["7", "42"]
    with pytest.raises(ValueError, match="12 of 13 image ids .*'100', '101'.* and 2 more"):
        join_regions(datasets.Dataset.from_dict({"image_id": [42, *range(100, 112)]}), store)
    with pytest.raises(ValueError, match="column must be one of"):
        join_regions(questions, store, "image")
    # Any mapping is a store.
    assert [row["regions"].image_id for row in join_regions(questions, dict(store))] == ["7", "42", "7"]
    with pytest.raises(ValueError, match=r"1 of 2 image ids .* not in store: '42'. Its ids look like \['7'\]"):
        join_regions(questions, {"7": store["7"]})


@pytest.mark.parametrize("workers", [0, 2])
def test_join_with_a_stream(tmp_path, workers):
    datasets = pytest.importorskip("datasets")
    store = open_regions(write_table(tmp_path, make_records()))
    questions = datasets.Dataset.from_dict({"image_id": [7, 42, 7, 8], "question": list("abcd")})
    stream = questions.to_iterable_dataset(num_shards=2)
    joined = join_regions(stream.take(3) if workers == 0 else stream.filter(lambda row: row["image_id"] != 8), store)
    rows = list(DataLoader(joined, batch_size=None, num_workers=workers))
    assert sorted((row["question"], row["regions"].image_id) for row in rows) == [("a", "7"), ("b", "42"), ("c", "7")]
    assert same(rows[0]["regions"].features, store[rows[0]["image_id"]].features)
    # Nothing is read before it is asked for.
    rows = iter(join_regions(stream.with_format("torch"), store))
    assert [next(rows)["question"] for _ in range(3)] == list("abc")
    with pytest.raises(KeyError, match="no record of image '8'"):
        next(rows)
    with pytest.raises(ValueError, match="column must be one of .*'question'.* got 'image'"):
        join_regions(stream, store, "image")
    nameless = datasets.IterableDataset.from_generator(lambda: iter([{"images": ["7", "42"]}]))
    assert [[r.image_id for r in row["regions"]] for row in join_regions(nameless, store, "images")] == [["7", "42"]]
    with pytest.raises(ValueError, match="column must be one of .*'images'.* got 'image'"):
        next(iter(join_regions(nameless, store, "image")))


# Stacks.


def write_stack(folder, change=lambda record: record) -> list[Path]:
    """Boxes of a detector for three images, and given ones, without scores, for two of them and a fourth."""
    given = make_records((2, 1, 2), ("8", *IDS[:2]))
    records = (Regions(image_size=(WIDTH, HEIGHT), **{**r, "scores": None}, source="given boxes") for r in given)
    write_regions(map(change, records), folder / "given")
    return [write_table(folder, make_records()), folder / "given"]


def test_a_stack_has_the_regions_of_all_its_stores(tmp_path):
    paths = write_stack(tmp_path)
    stack = open_regions(paths)
    one, two = map(open_regions, paths)
    assert isinstance(stack, RegionStack) and list(stack) == ["42", "7"] and len(stack) == 2 and 42 in stack
    for key in ("42", 42, b"42"):
        regions = stack[key]
        assert same(regions.features, np.concatenate([one[42].features, two[42].features]))
        assert same(regions.boxes, np.concatenate([one[42].boxes, two[42].boxes]))
        assert regions.scores.tolist() == [*one[42].scores.tolist(), 1.0]
        assert regions.labels == [*one[42].labels, *two[42].labels] and regions.image_id == "42"
        assert regions.source == "a detector + given boxes"
    assert 8 not in stack and 300104 not in stack
    for missing, where in ((8, "store"), (300104, "given")):
        with pytest.raises(KeyError, match=f"{where} has no record of image '{missing}'"):
            stack[missing]
    assert list(pickle.loads(pickle.dumps(stack))) == list(stack)
    assert "RegionStack" in repr(stack) and "2 records" in repr(stack)
    write_regions([Regions([[0, 0, 9, 9]], np.ones((1, 3)), (9, 9), image_id="x")], tmp_path / "other")
    with pytest.raises(ValueError, match="stores have no image in common: "):
        open_regions([paths[0], tmp_path / "other"])


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_a_stack(tmp_path, context):
    stack = open_regions(write_stack(tmp_path))
    got = list(DataLoader(Items(stack), batch_size=None, num_workers=1, multiprocessing_context=context))
    sums = {image_id: float(stack[image_id].features.sum()) for image_id in stack}
    assert len(got) == 10 and all(abs(value - sums[image_id]) < 1e-5 for image_id, value in got)


def test_a_stack_joins_and_converts(tmp_path):
    datasets = pytest.importorskip("datasets")
    paths = write_stack(tmp_path)
    stack = open_regions(paths)
    questions = datasets.Dataset.from_dict({"image_id": [7, 42, 7]})
    assert [len(row["regions"]) for row in join_regions(questions, stack)] == [7, 4, 7]
    assert [len(row["regions"]) for row in join_regions(questions.to_iterable_dataset(), stack)] == [7, 4, 7]
    with pytest.raises(ValueError, match="1 of 2 image ids .* are not in .*store [+] .*given: '8'"):
        join_regions(datasets.Dataset.from_dict({"image_id": [8, 42]}), stack)
    new = convert_regions(paths, tmp_path / "ours")
    assert list(new) == list(stack) and same(new[42].features, stack[42].features)
    assert new[42].source == "a detector + given boxes"


def test_stores_that_do_not_fit_together(tmp_path):
    def squared(regions):
        return Regions(regions.boxes, regions.features, (WIDTH, WIDTH), image_id=regions.image_id, source="squares")

    stack = open_regions(write_stack(tmp_path, squared))
    with pytest.raises(RecordError, match=r"store [+] .*given, record '42': .*\(100, 80\).*\(100, 100\)"):
        stack[42]
    with pytest.raises(ValueError, match="at least one"):
        open_regions([])
    with pytest.raises(ValueError, match="does not exist"):
        open_regions([tmp_path / "given", tmp_path / "nothing"])
    with pytest.raises(ValueError, match="one by one"):
        inspect_regions(stack)
    # Sizes are needed of the images that all have.
    for name, records in (("one", make_records()), ("two", make_records()[:1])):
        (tmp_path / name).mkdir()
        write_uniter_npz(tmp_path / name, records)
    pair = [tmp_path / "one", tmp_path / "two"]
    assert open_regions(pair, image_sizes={42: (WIDTH, HEIGHT)})[42].image_size == (WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="image_sizes"):
        open_regions(pair, image_sizes={7: (WIDTH, HEIGHT)})


# Interruptions.


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "regions.json"}


def convert_in_a_process(path: Path, output: Path) -> subprocess.Popen:
    code = "import sys; from modeling_vilbert.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "convert-regions", path, output, "--records-per-shard", "20"]
    return subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_killed_and_restarted_it_ends_like_an_undisturbed_run(tmp_path):
    ids = tuple(map(str, range(2000)))
    path = tsv(tmp_path, map(bua_row, make_records([4] * 2000, ids)))
    convert_regions(path, tmp_path / "undisturbed", records_per_shard=20)
    output, partial = tmp_path / "killed", tmp_path / "killed.partial"
    process = convert_in_a_process(path, output)
    while process.poll() is None and len(list(partial.glob("data-*.arrow"))) < 5:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists() and partial.exists()
    with pytest.raises(ValueError):
        open_regions(partial)
    before = {file.name: file.stat().st_mtime_ns for file in partial.glob("data-*.arrow")}
    # What a file looks like that was being written.
    (partial / "data-00099.123.tmp").write_bytes(b"half a file")
    again = convert_in_a_process(path, output)
    _, said = again.communicate()
    assert again.returncode == 0, said.decode()
    assert b"2000" in said and not partial.exists()
    assert content(output) == content(tmp_path / "undisturbed")
    kept = {name: (output / name).stat().st_mtime_ns for name in before}
    assert kept == before


def test_a_run_does_not_go_on_from_another_one(tmp_path):
    path = write_bua(tmp_path, make_records())
    records = make_records()
    broken = tsv(tmp_path, [bua_row(records[0]), bua_row(records[1])[:-1]], "broken.tsv")
    with pytest.raises(RecordError):
        convert_regions(broken, tmp_path / "ours", records_per_shard=1)
    with pytest.raises(
        ValueError, match="other settings: settings.paths was .*broken.tsv.*, and is now .*features.tsv"
    ):
        convert_regions(path, tmp_path / "ours", records_per_shard=1)
    tsv(tmp_path, map(bua_row, records[:2]), "broken.tsv")
    assert list(convert_regions(broken, tmp_path / "ours", records_per_shard=1)) == ["42", "7"]
    with pytest.raises(ValueError, match="exists"):
        convert_regions(path, tmp_path / "ours")


# The command.


def test_commands(tmp_path, capsys):
    path = write_lxmert(tmp_path, make_records())
    assert cli.main(["inspect", str(path), "--picture", str(tmp_path / "boxes.png")]) == 0
    printed = capsys.readouterr().out
    assert all(
        said in printed for said in ("lxmert-tsv", "records   3", "7 (3 records)", "3 to 5, mean 4.0", "problems  0")
    )
    assert (tmp_path / "boxes.png").read_bytes().startswith(b"\x89PNG")
    arguments = [
        "convert-regions",
        str(path),
        str(tmp_path / "ours"),
        "--dtype",
        "float16",
        "--source",
        "R-101, 36 boxes",
    ]
    assert cli.main(arguments) == 0
    store = open_regions(tmp_path / "ours")
    assert store[7].features.dtype == np.float16 and store[7].source == "R-101, 36 boxes"
    assert cli.main(arguments) == 1 and "exists" in capsys.readouterr().err
    cut_line(path)
    assert cli.main(["inspect", str(path)]) == 1
    assert "line 3" in capsys.readouterr().out

    sizes = tmp_path / "sizes.json"
    sizes.write_text(json.dumps({image_id: [WIDTH, HEIGHT] for image_id in IDS}))
    (tmp_path / "uniter").mkdir()
    write_uniter_npz(tmp_path / "uniter", make_records())
    assert cli.main(["inspect", str(tmp_path / "uniter"), "--image-sizes", str(sizes)]) == 0
