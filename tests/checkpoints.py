"""Folders as the original codes left them: writing one, and the task heads of each family."""

import json
from pathlib import Path

import torch
from original import TINY
from torch import nn


POOLED = TINY["bi_hidden_size"]
LABELS = {"vqa": 13, "gqa": 11, "image_pair": 2, "entailment": 3, "retrieval": 1, "grounding": 1}


def write(folder: Path, config: dict, tensors: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def state(name: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": tensor.detach().clone() for key, tensor in module.state_dict().items()}


def mlp(size: int, hidden: int, labels: int) -> nn.Sequential:
    """The classifier of 12-in-1, VOLTA and MMF."""
    return nn.Sequential(nn.Linear(size, hidden), nn.GELU(), nn.LayerNorm(hidden, eps=1e-12), nn.Linear(hidden, labels))


def weight_normed(size: int, labels: int) -> nn.Sequential:
    """The classifier of the first code."""
    dense, decoder = (nn.utils.weight_norm(nn.Linear(*s), dim=None) for s in ((size, 2 * size), (2 * size, labels)))
    for layer in (dense, decoder):
        layer.weight_g.data.mul_(1.7)
    return nn.Sequential(dense, nn.ReLU(), nn.Identity(), decoder)


def heads_of(family: str, hidden: int = 2 * POOLED) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    linear = nn.Linear(TINY["hidden_size"], 1)
    result = {**state("vision_logit", nn.Linear(TINY["v_hidden_size"], 1)), **state("linguisic_logit", linear)}
    result.update(state("vil_logit", nn.Linear(POOLED, 1)))
    if family == "vilbert_beta":
        return {**result, **state("vil_prediction.main", weight_normed(POOLED, LABELS["vqa"]))}
    result.update(state("vil_prediction.logit_fc", mlp(POOLED, hidden, LABELS["vqa"])))
    result.update(state("vil_prediction_gqa.logit_fc", mlp(POOLED, hidden, LABELS["gqa"])))
    result.update(state("vil_binary_prediction.logit_fc", mlp(2 * POOLED, hidden, 2)))
    return {**result, **state("vil_tri_prediction", nn.Linear(POOLED, 3))}
