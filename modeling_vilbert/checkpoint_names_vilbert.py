# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""Names of tensors in the checkpoints of the original and of 12-in-1, and what they are called here.

Names stand without the trailing `.weight` or `.bias`; `#` is a layer's number, None a tensor that nothing reads.
"""

import re


LAYER_NAMES = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.self.dyLinear_q": "gates.query",
    "attention.self.dyLinear_k": "gates.key",
    "attention.output.dense": "attention.output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "intermediate",
    "output.dense": "output",
    "output.LayerNorm": "output_norm",
}

# In the original 1 is vision and 2 is text. Keys and values move to the half that looks at them.
COATTENTION_NAMES = {
    "biattention.query1": "vision.attention.query",
    "biattention.key1": "text.attention.key",
    "biattention.value1": "text.attention.value",
    "biattention.query2": "text.attention.query",
    "biattention.key2": "vision.attention.key",
    "biattention.value2": "vision.attention.value",
    "biOutput.dense1": "vision.attention.output",
    "biOutput.LayerNorm1": "vision.attention_norm",
    "biOutput.dense2": "text.attention.output",
    "biOutput.LayerNorm2": "text.attention_norm",
    "biOutput.q_dense1": None,
    "biOutput.q_dense2": None,
    "v_intermediate.dense": "vision.intermediate",
    "v_output.dense": "vision.output",
    "v_output.LayerNorm": "vision.output_norm",
    "t_intermediate.dense": "text.intermediate",
    "t_output.dense": "text.output",
    "t_output.LayerNorm": "text.output_norm",
}

# Head of the original -> the task it is for.
TASK_OF_HEAD = {
    "vil_prediction": "vqa",
    "vil_prediction_gqa": "gqa",
    "vil_binary_prediction": "image_pair",
    "vil_tri_prediction": "entailment",
    "vil_logit": "retrieval",
    "vision_logit": "grounding",
}

# Inside of a head: the classifiers of vilbert_beta, 12-in-1 and MMF, and one linear layer.
HEAD_NAMES = {
    ".main.0": "classifier.dense",
    ".main.3": "classifier.decoder",
    ".logit_fc.0": "classifier.dense",
    ".logit_fc.2": "classifier.norm",
    ".logit_fc.3": "classifier.decoder",
    ".0.dense": "classifier.dense",
    ".0.LayerNorm": "classifier.norm",
    ".1": "classifier.decoder",
    "": "classifier",
}

NAMES = {
    "bert.embeddings.word_embeddings": "vilbert.text_embeddings.word_embeddings",
    "bert.embeddings.position_embeddings": "vilbert.text_embeddings.position_embeddings",
    "bert.embeddings.token_type_embeddings": "vilbert.text_embeddings.token_type_embeddings",
    "bert.embeddings.task_embeddings": "vilbert.text_embeddings.task_embeddings",
    "bert.embeddings.LayerNorm": "vilbert.text_embeddings.norm",
    "bert.embeddings.position_ids": None,
    "bert.v_embeddings.image_embeddings": "vilbert.vision_embeddings.feature_projection",
    "bert.v_embeddings.image_location_embeddings": "vilbert.vision_embeddings.location_projection",
    "bert.v_embeddings.LayerNorm": "vilbert.vision_embeddings.norm",
    **{f"bert.encoder.layer.#.{old}": f"vilbert.encoder.text_layers.#.{new}" for old, new in LAYER_NAMES.items()},
    **{f"bert.encoder.v_layer.#.{old}": f"vilbert.encoder.vision_layers.#.{new}" for old, new in LAYER_NAMES.items()},
    **{
        f"bert.encoder.c_layer.#.{old}": new and f"vilbert.encoder.coattention_layers.#.{new}"
        for old, new in COATTENTION_NAMES.items()
    },
    "bert.t_pooler.dense": "vilbert.text_pooler.dense",
    "bert.v_pooler.dense": "vilbert.vision_pooler.dense",
    "cls.predictions": "text_head.decoder",
    "cls.predictions.decoder": "text_head.decoder",
    "cls.predictions.transform.dense": "text_head.dense",
    "cls.predictions.transform.LayerNorm": "text_head.norm",
    "cls.bi_seq_relationship": "alignment_head",
    "cls.imagePredictions.decoder": "region_head.decoder",
    "cls.imagePredictions.transform.dense": "region_head.dense",
    "cls.imagePredictions.transform.LayerNorm": "region_head.norm",
    "linguisic_logit": None,
    **{f"{head}{old}": f"heads.{task}.{new}" for head, task in TASK_OF_HEAD.items() for old, new in HEAD_NAMES.items()},
}


def rename(original: str) -> str | None:
    """The original's name of a tensor -> today's, None for one that nothing reads; KeyError for an unknown one."""
    stem, leaf = re.fullmatch(r"(.*?)(\.weight|\.bias)?", original).groups("")
    number = re.search(r"(?<=layer\.)\d+", stem)
    new = NAMES[re.sub(r"(?<=layer\.)\d+", "#", stem)]
    return new and f"{new.replace('#', number[0] if number else '')}{leaf}"
