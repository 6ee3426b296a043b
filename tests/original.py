"""A slow, readable twin of the original ViLBERT: plain functions over a state dict under the original names.

Written from the description of what that code computes, with loops where the package has one call, so that the two
agree only if both are right. `random_state_dict` makes such a checkpoint for any flat config.
"""

import math

import torch
from torch.nn import functional as F


ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu}

TINY = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 40,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 19, "type_vocab_size": 2, "initializer_range": 0.02, "v_feature_size": 14,
    "v_target_size": 9, "v_hidden_size": 20, "v_num_hidden_layers": 3, "v_num_attention_heads": 2,
    "v_intermediate_size": 28, "v_hidden_act": "gelu", "v_hidden_dropout_prob": 0.1,
    "v_attention_probs_dropout_prob": 0.1, "bi_hidden_size": 32, "bi_num_attention_heads": 4,
    "t_biattention_id": [1, 3], "v_biattention_id": [0, 2],
}  # fmt: skip


def random_state_dict(config: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """Trunk and pre-training heads under the original names, with values large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}

    def table(name: str, rows: int, columns: int):
        tensors[f"{name}.weight"] = torch.randn(rows, columns, generator=generator) * 0.3

    def linear(name: str, out_size: int, in_size: int):
        table(name, out_size, in_size)
        tensors[f"{name}.bias"] = torch.randn(out_size, generator=generator) * 0.1

    def norm(name: str, size: int):
        tensors[f"{name}.weight"] = 1 + torch.randn(size, generator=generator) * 0.1
        tensors[f"{name}.bias"] = torch.randn(size, generator=generator) * 0.1

    h, v, b = config["hidden_size"], config["v_hidden_size"], config["bi_hidden_size"]
    table("bert.embeddings.word_embeddings", config["vocab_size"], h)
    table("bert.embeddings.position_embeddings", config["max_position_embeddings"], h)
    table("bert.embeddings.token_type_embeddings", config["type_vocab_size"], h)
    if config.get("task_specific_tokens"):
        table("bert.embeddings.task_embeddings", 20, h)
    norm("bert.embeddings.LayerNorm", h)
    linear("bert.v_embeddings.image_embeddings", v, config["v_feature_size"])
    linear("bert.v_embeddings.image_location_embeddings", v, 5)
    norm("bert.v_embeddings.LayerNorm", v)
    for kind, count, size, inner in (
        ("layer", config["num_hidden_layers"], h, config["intermediate_size"]),
        ("v_layer", config["v_num_hidden_layers"], v, config["v_intermediate_size"]),
    ):
        for i in range(count):
            layer = f"bert.encoder.{kind}.{i}"
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                linear(f"{layer}.attention.{part}", size, size)
            norm(f"{layer}.attention.output.LayerNorm", size)
            linear(f"{layer}.intermediate.dense", inner, size)
            linear(f"{layer}.output.dense", size, inner)
            norm(f"{layer}.output.LayerNorm", size)
            if kind == "v_layer" and config.get("dynamic_attention"):
                linear(f"{layer}.attention.self.dyLinear_q", v, h)
                linear(f"{layer}.attention.self.dyLinear_k", v, h)
    for k in range(len(config["t_biattention_id"])):
        layer = f"bert.encoder.c_layer.{k}"
        for number, size, inner, stream in (
            (1, v, config["v_intermediate_size"], "v"),
            (2, h, config["intermediate_size"], "t"),
        ):
            for part in ("query", "key", "value"):
                linear(f"{layer}.biattention.{part}{number}", b, size)
            linear(f"{layer}.biOutput.dense{number}", size, b)
            linear(f"{layer}.biOutput.q_dense{number}", size, b)
            norm(f"{layer}.biOutput.LayerNorm{number}", size)
            linear(f"{layer}.{stream}_intermediate.dense", inner, size)
            linear(f"{layer}.{stream}_output.dense", size, inner)
            norm(f"{layer}.{stream}_output.LayerNorm", size)
    linear("bert.t_pooler.dense", b, h)
    linear("bert.v_pooler.dense", b, v)

    linear("cls.predictions.transform.dense", h, h)
    norm("cls.predictions.transform.LayerNorm", h)
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.bias"] = torch.randn(config["vocab_size"], generator=generator)
    linear("cls.bi_seq_relationship", 2, b)
    linear("cls.imagePredictions.transform.dense", v, v)
    norm("cls.imagePredictions.transform.LayerNorm", v)
    linear("cls.imagePredictions.decoder", config["v_target_size"], v)
    return tensors


def random_inputs(config: dict, batch: int = 3, tokens: int = 7, regions: int = 5, seed: int = 1) -> dict:
    """A batch with padding in both streams."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1, config["vocab_size"], (batch, tokens), generator=generator)
    mask, region_mask = torch.ones(batch, tokens, dtype=torch.long), torch.ones(batch, regions, dtype=torch.long)
    mask[1, 4:], region_mask[2, 3:] = 0, 0
    inputs = {
        "input_ids": words * mask,
        "attention_mask": mask,
        "token_type_ids": torch.randint(0, config["type_vocab_size"], (batch, tokens), generator=generator),
        "region_features": torch.randn(batch, regions, config["v_feature_size"], generator=generator),
        "region_locations": torch.rand(batch, regions, 5, generator=generator),
        "region_attention_mask": region_mask,
    }
    if config.get("task_specific_tokens"):
        inputs["task_ids"] = torch.randint(0, 20, (batch, 1), generator=generator)
    return inputs


class Original:
    """The trunk and the pre-training heads, as functions of a config and a state dict."""

    def __init__(self, config: dict, tensors: dict[str, torch.Tensor]):
        self.config, self.tensors = config, tensors

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-12) * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    @staticmethod
    def attend(query, key, value, heads: int, key_mask) -> torch.Tensor:
        """One head and one example after another."""
        size = query.shape[-1] // heads
        rows = []
        for q, k, v, mask in zip(query, key, value, key_mask):
            columns = []
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                scores = q[:, part] @ k[:, part].T / math.sqrt(size) + (1 - mask.float()) * -10000
                columns.append(scores.softmax(-1) @ v[:, part])
            rows.append(torch.cat(columns, -1))
        return torch.stack(rows)

    def layer(self, name: str, x, mask, heads: int, activation: str, words=None, words_mask=None):
        query, key, value = (self.linear(f"{name}.attention.self.{part}", x) for part in ("query", "key", "value"))
        if words is not None:
            kept = words_mask[..., None].float()
            mean = (words * kept).sum(1) / kept.sum(1)
            query = query * (1 + torch.sigmoid(self.linear(f"{name}.attention.self.dyLinear_q", mean)))[:, None]
            key = key * (1 + torch.sigmoid(self.linear(f"{name}.attention.self.dyLinear_k", mean)))[:, None]
        mixed = self.linear(f"{name}.attention.output.dense", self.attend(query, key, value, heads, mask))
        x = self.norm(f"{name}.attention.output.LayerNorm", x + mixed)
        return self.feed_forward(f"{name}.", x, activation)

    def feed_forward(self, prefix: str, x, activation: str):
        inner = ACTIVATIONS[activation](self.linear(f"{prefix}intermediate.dense", x))
        return self.norm(f"{prefix}output.LayerNorm", x + self.linear(f"{prefix}output.dense", inner))

    def coattention(self, name: str, text, vision, text_mask, vision_mask):
        heads = self.config["bi_num_attention_heads"]
        of_vision = [self.linear(f"{name}.biattention.{part}1", vision) for part in ("query", "key", "value")]
        of_text = [self.linear(f"{name}.biattention.{part}2", text) for part in ("query", "key", "value")]
        for_text = self.attend(of_text[0], of_vision[1], of_vision[2], heads, vision_mask)
        for_vision = self.attend(of_vision[0], of_text[1], of_text[2], heads, text_mask)
        vision = self.norm(f"{name}.biOutput.LayerNorm1", vision + self.linear(f"{name}.biOutput.dense1", for_vision))
        text = self.norm(f"{name}.biOutput.LayerNorm2", text + self.linear(f"{name}.biOutput.dense2", for_text))
        vision = self.feed_forward(f"{name}.v_", vision, self.config["v_hidden_act"])
        return self.feed_forward(f"{name}.t_", text, self.config["hidden_act"]), vision

    def embed(self, inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
        tables = self.tensors
        ids = inputs["input_ids"]
        text = tables["bert.embeddings.word_embeddings.weight"][ids]
        text = text + tables["bert.embeddings.position_embeddings.weight"][: ids.shape[1]]
        text = text + tables["bert.embeddings.token_type_embeddings.weight"][inputs["token_type_ids"]]
        if "task_ids" in inputs:
            task = tables["bert.embeddings.task_embeddings.weight"][inputs["task_ids"].view(-1, 1)]
            text = torch.cat([text[:, :1], task, text[:, 1:]], 1)
        vision = self.linear("bert.v_embeddings.image_embeddings", inputs["region_features"])
        vision = vision + self.linear("bert.v_embeddings.image_location_embeddings", inputs["region_locations"])
        return self.norm("bert.embeddings.LayerNorm", text), self.norm("bert.v_embeddings.LayerNorm", vision)

    def __call__(self, inputs: dict) -> dict[str, torch.Tensor]:
        config = self.config
        text, vision = self.embed(inputs)
        text_mask, vision_mask = inputs["attention_mask"], inputs["region_attention_mask"]
        if "task_ids" in inputs:
            text_mask = torch.cat([torch.ones_like(text_mask[:, :1]), text_mask], 1)

        def run_text(text, first: int, last: int):
            for i in range(first, last):
                name = f"bert.encoder.layer.{i}"
                text = self.layer(name, text, text_mask, config["num_attention_heads"], config["hidden_act"])
            return text

        def run_vision(vision, text, first: int, last: int):
            gate = (text, text_mask) if config.get("dynamic_attention") else (None, None)
            for i in range(first, last):
                name = f"bert.encoder.v_layer.{i}"
                heads, activation = config["v_num_attention_heads"], config["v_hidden_act"]
                vision = self.layer(name, vision, vision_mask, heads, activation, *gate)
            return vision

        text_at = vision_at = 0
        for k, (text_to, vision_to) in enumerate(zip(config["t_biattention_id"], config["v_biattention_id"])):
            text = run_text(text, text_at, text_to)
            vision = run_vision(vision, text, vision_at, vision_to)
            if config.get("with_coattention", True):
                text, vision = self.coattention(f"bert.encoder.c_layer.{k}", text, vision, text_mask, vision_mask)
            text_at, vision_at = text_to, vision_to
        vision = run_vision(vision, text, vision_at, config["v_num_hidden_layers"])
        text = run_text(text, text_at, config["num_hidden_layers"])

        text_pooled = self.linear("bert.t_pooler.dense", text[:, 0]).relu()
        vision_pooled = self.linear("bert.v_pooler.dense", vision[:, 0]).relu()
        fused = text_pooled + vision_pooled if config.get("fusion_method") == "sum" else text_pooled * vision_pooled
        activation = ACTIVATIONS[config["hidden_act"]]
        words = activation(self.linear("cls.predictions.transform.dense", text))
        words = self.norm("cls.predictions.transform.LayerNorm", words)
        regions = activation(self.linear("cls.imagePredictions.transform.dense", vision))
        regions = self.norm("cls.imagePredictions.transform.LayerNorm", regions)
        return {
            "text_last_hidden_state": text,
            "vision_last_hidden_state": vision,
            "text_pooler_output": text_pooled,
            "vision_pooler_output": vision_pooled,
            "prediction_logits": words @ self.tensors["cls.predictions.decoder.weight"].T
            + self.tensors["cls.predictions.bias"],
            "region_logits": self.linear("cls.imagePredictions.decoder", regions),
            "alignment_logits": self.linear("cls.bi_seq_relationship", fused),
        }
