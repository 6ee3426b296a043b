# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints of VOLTA: its fields and its names of tensors, brought to those of the original.

VOLTA counts every attention and every feed-forward block as a sub-layer, in one row for both streams.
"""

import re
from typing import Any


# VOLTA keeps a head per task, numbered as in 12-in-1.
VOLTA_HEADS = {
    **dict.fromkeys(("1", "2"), "vil_prediction"),
    **dict.fromkeys(("3", "5", "6", "7", "8"), "vil_logit"),
    **dict.fromkeys(("4", "9", "10", "11", "17", "18"), "vision_logit"),
    **dict.fromkeys(("12", "16"), "vil_binary_prediction"),
    **dict.fromkeys(("13", "14"), "vil_tri_prediction"),
    "15": "vil_prediction_gqa",
}


def from_volta_config(volta: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Flat fields of the original, and what VOLTA's sub-layers are called there.

    The second holds "14" -> "layer.6" for words and "v14" -> "v_layer.0" for regions.
    """
    words, regions = set(volta["tt_attn_sublayers"]), set(volta["vv_attn_sublayers"])
    cross = set(volta["tv_attn_sublayers"])
    sizes, heads = volta.get("sublayer2attn_hidden_size", {}), volta.get("sublayer2num_attention_heads", {})
    inert = ("shared_sublayers", "single_ln_sublayers", "sublayer2intermediate_size", "sublayer2v_intermediate_size")
    if (
        any(volta.get(name) for name in inert)
        or cross != set(volta["vt_attn_sublayers"])
        or cross & (words | regions)
        or not set(sizes) | set(heads) <= {str(number) for number in cross}
    ):
        raise ValueError("This VOLTA config is not of a ViLBERT: its streams share or mix layers.")

    layers, text_coattention, vision_coattention, text, vision = {}, [], [], 0, 0
    for number in sorted(words | regions | cross):
        # The feed-forward block is the next sub-layer.
        both = (str(number), str(number + 1)), (f"v{number}", f"v{number + 1}")
        if number in cross:
            layers.update(dict.fromkeys(both[0] + both[1], f"c_layer.{len(text_coattention)}"))
            text_coattention.append(text)
            vision_coattention.append(vision)
        if number in words:
            layers.update(dict.fromkeys(both[0], f"layer.{text}"))
            text += 1
        if number in regions:
            layers.update(dict.fromkeys(both[1], f"v_layer.{vision}"))
            vision += 1

    def common(values: dict[str, int], default: int) -> int:
        found = {values.get(str(number), default) for number in cross}
        if len(found) > 1:
            raise ValueError(f"VOLTA's co-attention layers must be alike, got {sorted(found)}.")
        return found.pop() if found else default

    known = (
        "vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act", "hidden_dropout_prob",
        "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size", "initializer_range",
        "v_feature_size", "v_hidden_size", "v_num_attention_heads", "v_intermediate_size", "v_hidden_act",
        "v_hidden_dropout_prob", "v_attention_probs_dropout_prob", "fusion_method", "pooler_size",
    )  # fmt: skip
    fields = {name: volta[name] for name in known if name in volta}
    fields.update(
        num_hidden_layers=text,
        v_num_hidden_layers=vision,
        t_biattention_id=text_coattention,
        v_biattention_id=vision_coattention,
        bi_hidden_size=common(sizes, volta["hidden_size"]),
        bi_num_attention_heads=common(heads, volta["num_attention_heads"]),
        pooler_act=volta.get("fusion_act", "relu"),
        text_config={"layer_norm_eps": volta.get("layer_norm_eps", 1e-12)},
        vision_config={
            "layer_norm_eps": volta.get("layer_norm_eps", 1e-12),
            "location_size": volta.get("num_locs", 5),
        },
    )
    return fields, layers


def from_volta_name(name: str, layers: dict[str, str]) -> str:
    """VOLTA's name of a tensor -> the original's."""
    name = name.removeprefix("module.")
    name = name.replace("cls.imagePredictions.decoder_dict.0.", "cls.imagePredictions.decoder.")
    if match := re.match(r"clfs_dict\.TASK(\d+)\.", name):
        return name.replace(match[0], f"{VOLTA_HEADS.get(match[1], match[0])}.")
    match = re.match(r"(bert\.encoder\.)layer\.(\d+)\.(\w+)\.(v_)?(\w+)(\.\w+)$", name)
    if match is None:
        return name
    start, number, block, vision, part, leaf = match.groups()
    layer = layers.get(f"{'v' if vision else ''}{number}")
    if layer is None:
        return name
    one_or_two = "1" if vision else "2"
    if layer.startswith("c_layer"):
        stream = "v" if vision else "t"
        block, part = {
            "attention_self": ("biattention", part + one_or_two),
            "attention_output": ("biOutput", part + one_or_two),
        }.get(block, (f"{stream}_{block}", part))
    else:
        block = {"attention_self": "attention.self", "attention_output": "attention.output"}.get(block, block)
    return f"{start}{layer}.{block}.{part}{leaf}"
