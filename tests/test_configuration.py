"""Configs: the schedule, the original's fields, what is refused, and the released sizes."""

import logging

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny import tiny_config

from modeling_vilbert import ViLBertConfig, ViLBertForPreTraining, ViLBertTextConfig, ViLBertVisionConfig


def test_defaults_are_the_released_base_model():
    config = ViLBertConfig()
    assert config.text_coattention_layers == [6, 7, 8, 9, 10, 11]
    assert config.vision_coattention_layers == [0, 1, 2, 3, 4, 5]
    assert config.schedule == (
        [("text", i) for i in range(6)]
        + [step for k in range(5) for step in (("coattention", k), ("text", 6 + k), ("vision", k))]
        + [("coattention", 5), ("vision", 5), ("text", 11)]
    )


# Counts of the original's pre-training models, in millions, and of the tensors in them that nothing reads.
@pytest.mark.parametrize(
    "vision_layers, parameters, dead", [(2, 160.78, 3.67), (4, 205.41, 7.35), (6, 250.04, 11.02), (8, 294.67, 14.69)]
)
def test_parameter_counts(vision_layers, parameters, dead):
    config = ViLBertConfig(vision_config={"num_hidden_layers": vision_layers})
    with torch.device("meta"):
        model = ViLBertForPreTraining(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(parameters - dead, abs=0.011)


def test_parameter_count_of_the_base_model_to_the_last_one():
    with torch.device("meta"):
        model = ViLBertForPreTraining(ViLBertConfig())
    assert sum(p.numel() for p in model.parameters()) == 250_044_029 - 11_020_800


def test_flat_fields_are_translated():
    flat = {
        "hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 4, "v_hidden_size": 20,
        "v_num_attention_heads": 2, "v_num_hidden_layers": 3, "v_target_size": 9, "v_feature_size": 14,
        "bi_hidden_size": 32, "bi_num_attention_heads": 4, "t_biattention_id": [1, 3], "v_biattention_id": [0, 2],
        "fusion_method": "sum", "dynamic_attention": True, "task_specific_tokens": True, "visual_target": 2,
        "num_negative": 20, "fixed_t_layer": 1,
    }  # fmt: skip
    nested = ViLBertConfig(
        text_config={"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 4},
        vision_config={
            "hidden_size": 20, "num_attention_heads": 2, "num_hidden_layers": 3, "num_region_classes": 9,
            "feature_size": 14,
        },
        coattention_hidden_size=32,
        coattention_num_attention_heads=4,
        text_coattention_layers=[1, 3],
        vision_coattention_layers=[0, 2],
        fusion="sum",
        text_gated_vision_attention=True,
        num_task_tokens=20,
        region_objective="nce",
        num_region_negatives=20,
        num_frozen_text_layers=1,
    )  # fmt: skip
    assert ViLBertConfig(**flat).to_dict() == nested.to_dict()
    assert ViLBertConfig(**flat, model_type="vilbert").to_dict() == nested.to_dict()


def test_fields_that_the_original_never_read_are_named(caplog):
    with caplog.at_level(logging.WARNING):
        config = ViLBertConfig(bi_attention_type=1, pooling_method="sum", v_initializer_range=0.5)
    assert config.fusion == "mul"
    assert not hasattr(config, "pooling_method")
    for name in ("bi_attention_type", "pooling_method", "v_initializer_range"):
        assert name in caplog.text


def test_either_stream_says_how_many_coattentions():
    by_text, by_vision = ViLBertConfig(text_coattention_layers=[3, 7]), ViLBertConfig(vision_coattention_layers=[1, 5])
    assert by_text.vision_coattention_layers == [0, 1] and by_vision.text_coattention_layers == [10, 11]
    assert ViLBertConfig(text_coattention_layers=[]).vision_coattention_layers == []
    assert ViLBertConfig().text_coattention_layers == [6, 7, 8, 9, 10, 11]


def test_saved_and_loaded(tmp_path):
    config = tiny_config(fusion="sum", tasks=["vqa", "grounding"])
    config.save_pretrained(tmp_path)
    loaded = ViLBertConfig.from_pretrained(tmp_path)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert ViLBertTextConfig.from_pretrained(tmp_path).hidden_size == 24
    assert ViLBertVisionConfig.from_pretrained(tmp_path).hidden_size == 20
    assert ViLBertConfig.from_pretrained(tmp_path, text_config={"vocab_size": 70}).text_config.vocab_size == 70


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"t_biattention_id": [1, 4], "v_biattention_id": [0, 2]}, "text_coattention_layers.*0 to 3"),
        ({"t_biattention_id": [1, 3], "v_biattention_id": [0, 3]}, "vision_coattention_layers.*0 to 2"),
        ({"t_biattention_id": [3, 1]}, "rising order"),
        ({"t_biattention_id": [1]}, "one length"),
        ({"bi_hidden_size": 30}, "coattention_hidden_size.*30"),
        ({"hidden_size": 25}, "hidden_size.*25"),
        ({"v_num_attention_heads": 3}, "num_attention_heads.*3"),
        ({"fixed_t_layer": 2}, "num_frozen_text_layers.*0 to 1"),
        ({"fusion_method": "concat"}, "fusion"),
        ({"visual_target": 3}, "visual_target.*3"),
        ({"hidden_size": "24"}, "hidden_size"),
        ({"coattention_hidden_size": 1.5}, "coattention_hidden_size"),
        ({"tasks": ["vqa", "captions"]}, "captions"),
        ({"region_objective": "l1"}, "region_objective"),
        ({"hidden_act": "gelux"}, "hidden_act.*gelux"),
        ({"pooler_act": "none"}, "pooler_act.*none"),
        ({"num_attention_heads": 0}, "num_attention_heads.*at least 1"),
        ({"bi_num_attention_heads": 0}, "coattention_num_attention_heads.*at least 1"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob.*within 0 to 1, got 1.5"),
        ({"fusion_dropout": -1}, "fusion_dropout.*within 0 to 1"),
        ({"vocab_size": 0}, "vocab_size.*at least 1"),
        ({"v_feature_size": 0}, "feature_size.*at least 1"),
        ({"num_hidden_layers": -1}, "num_hidden_layers.*at least 0"),
        ({"num_task_tokens": -1}, "num_task_tokens.*at least 0"),
        ({"pooler_size": 0}, "pooler_size.*at least 1"),
        ({"text_config": {"hidden_size": 48}}, "hidden_size=48.*24"),
        ({"text_config": {"pad_token_id": 77}}, "pad_token_id.*within 0 to"),
        ({"tasks": {"x": {"head": "telepathy"}}}, "'x'.*telepathy"),
        ({"tasks": {"x": "question_answering"}}, "'x'.*question_answering"),
        ({"tasks": {"x": {"head": "grounding", "num_labels": 0}}}, "num_labels of 'x' must be at least 1"),
        ({"tasks": {"a.b": {"head": "grounding"}}}, "a.b"),
    ],
)
def test_what_is_refused(fields, named):
    with pytest.raises((ValueError, StrictDataclassError), match=f"(?s){named}"):
        tiny_config(**fields)


def test_the_longest_text():
    assert tiny_config().text_config.longest_text == 19
    roberta = tiny_config(text_config={"position_scheme": "roberta", "pad_token_id": 1}).text_config
    assert roberta.longest_text == 17 and "longest_text" not in roberta.to_dict()
