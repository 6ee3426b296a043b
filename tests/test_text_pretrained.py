"""A text stream from BERT or RoBERTa: every tensor arrives, and the words come out as there."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

import modeling_vilbert
from modeling_vilbert import ViLBertForPreTraining, ViLBertModel, ViLBertTextConfig


TEXT = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40,
    "max_position_embeddings": 19,
}  # fmt: skip
VISION = {
    "hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 28, "feature_size": 14,
    "num_region_classes": 9,
}  # fmt: skip
REST = {"vision_config": VISION, "coattention_hidden_size": 32, "coattention_num_attention_heads": 4}

# Name -> class, config, whether it has the head of masked words.
SOURCES = {
    "bert": (BertModel, BertConfig(**TEXT, type_vocab_size=3, layer_norm_eps=1e-3), False),
    "bert with its head": (BertForMaskedLM, BertConfig(**TEXT, hidden_act="relu"), True),
    "bert with another head": (BertForSequenceClassification, BertConfig(**TEXT), False),
    "roberta": (RobertaModel, RobertaConfig(**TEXT, type_vocab_size=1), False),
    "roberta with its head": (RobertaForMaskedLM, RobertaConfig(**TEXT, type_vocab_size=1), True),
    "xlm-roberta": (XLMRobertaForMaskedLM, XLMRobertaConfig(**TEXT, layer_norm_eps=1e-5), True),
}

HEADS = [name for name in modeling_vilbert.__all__ if name.startswith("ViLBertFor") and not name.endswith("Output")]


def make(source_class, config, folder):
    """A saved source with values large enough to matter, biases and norms included."""
    torch.manual_seed(7)
    source = source_class(config).eval()
    for parameter in source.parameters():
        parameter.data.normal_(0.1, 0.3)
    source.save_pretrained(folder)
    return source


def todays_names(source: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trunk's tensors by where they belong; written out layer by layer, apart from the package's tables."""
    trunk = source if not source.base_model_prefix or source.base_model is source else source.base_model
    embeddings = trunk.embeddings
    modules = {
        "text_embeddings.word_embeddings": embeddings.word_embeddings,
        "text_embeddings.position_embeddings": embeddings.position_embeddings,
        "text_embeddings.token_type_embeddings": embeddings.token_type_embeddings,
        "text_embeddings.norm": embeddings.LayerNorm,
    }
    for i, layer in enumerate(trunk.encoder.layer):
        name = f"encoder.text_layers.{i}"
        for part in ("query", "key", "value"):
            modules[f"{name}.attention.{part}"] = getattr(layer.attention.self, part)
        modules[f"{name}.attention.output"] = layer.attention.output.dense
        modules[f"{name}.attention_norm"] = layer.attention.output.LayerNorm
        modules[f"{name}.intermediate"] = layer.intermediate.dense
        modules[f"{name}.output"] = layer.output.dense
        modules[f"{name}.output_norm"] = layer.output.LayerNorm
    return {f"{name}.{leaf}": value for name, module in modules.items() for leaf, value in module.state_dict().items()}


def head_tensors(source: torch.nn.Module) -> dict[str, torch.Tensor]:
    if hasattr(source, "lm_head"):
        modules = {"dense": source.lm_head.dense, "norm": source.lm_head.layer_norm, "decoder": source.lm_head.decoder}
    else:
        head = source.cls.predictions
        modules = {"dense": head.transform.dense, "norm": head.transform.LayerNorm, "decoder": head.decoder}
    return {f"{name}.{leaf}": value for name, module in modules.items() for leaf, value in module.state_dict().items()}


def words(pad: int, batch: int = 3, tokens: int = 7) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, TEXT["vocab_size"], (batch, tokens), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}


def regions(batch: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "region_features": torch.randn(batch, 5, 14, generator=generator),
        "region_locations": torch.rand(batch, 5, 5, generator=generator),
    }


@pytest.mark.parametrize("name", SOURCES)
def test_every_tensor_arrives(name, tmp_path):
    source_class, config, has_head = SOURCES[name]
    source = make(source_class, config, tmp_path)
    torch.manual_seed(11)
    model = ViLBertForPreTraining.from_text_pretrained(tmp_path, **REST)
    torch.manual_seed(11)
    fresh = ViLBertForPreTraining(model.config)
    found = model.vilbert.state_dict()
    expected = todays_names(source)
    assert set(expected) == {key for key in found if "text_embeddings" in key or "text_layers" in key}
    assert all(torch.equal(found[key], value) for key, value in expected.items())

    head = model.text_head.state_dict()
    if has_head:
        expected = head_tensors(source)
        assert set(head) == set(expected)
        assert all(torch.equal(head[key], value) for key, value in expected.items())
    else:
        assert torch.equal(head["dense.weight"], fresh.text_head.dense.weight)
        assert torch.equal(head["decoder.weight"], source.get_input_embeddings().weight)
    # The rest is new, as of a model made without the source.
    assert torch.equal(model.region_head.dense.weight, fresh.region_head.dense.weight)
    new, drawn = model.vilbert.encoder.vision_layers.state_dict(), fresh.vilbert.encoder.vision_layers.state_dict()
    assert all(torch.equal(new[key], value) for key, value in drawn.items())


@pytest.mark.parametrize("name", SOURCES)
def test_config_follows_the_source(name, tmp_path):
    source_class, config, _ = SOURCES[name]
    make(source_class, config, tmp_path)
    text = ViLBertModel.from_text_pretrained(tmp_path, **REST).config.text_config
    fields = [*TEXT, "type_vocab_size", "layer_norm_eps", "hidden_act", "pad_token_id", "hidden_dropout_prob"]
    assert {key: getattr(text, key) for key in fields} == {key: getattr(config, key) for key in fields}
    assert text.position_scheme == ("bert" if "roberta" not in name else "roberta")


@pytest.mark.parametrize("name", SOURCES)
def test_without_coattention_the_words_are_the_sources(name, tmp_path):
    source_class, config, _ = SOURCES[name]
    source = make(source_class, config, tmp_path).base_model
    model = ViLBertModel.from_text_pretrained(
        tmp_path, **REST, text_coattention_layers=[], vision_coattention_layers=[]
    ).eval()
    inputs = words(config.pad_token_id)
    if config.type_vocab_size > 1:
        inputs["token_type_ids"] = (torch.arange(7) > 2).long().expand(3, 7)
    real = inputs["attention_mask"].bool()
    found, expected = model(**inputs, **regions()).text_last_hidden_state, source(**inputs).last_hidden_state
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)


def test_masked_words_are_predicted_as_by_the_source(tmp_path):
    source_class, config, _ = SOURCES["roberta with its head"]
    source = make(source_class, config, tmp_path)
    model = ViLBertForPreTraining.from_text_pretrained(
        tmp_path, **REST, text_coattention_layers=[], vision_coattention_layers=[]
    ).eval()
    inputs = words(config.pad_token_id)
    real = inputs["attention_mask"].bool()
    found, expected = model(**inputs, **regions()).prediction_logits, source(**inputs).logits
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tie", [None, True, False])
def test_an_untied_source(tie, tmp_path):
    source = make(BertForMaskedLM, BertConfig(**TEXT, tie_word_embeddings=False), tmp_path)
    given = {} if tie is None else {"tie_word_embeddings": tie}
    model = ViLBertForPreTraining.from_text_pretrained(tmp_path, **REST, **given)
    embeddings, decoder = model.get_input_embeddings().weight, model.text_head.decoder.weight
    assert torch.equal(embeddings, source.get_input_embeddings().weight)
    assert torch.equal(decoder, embeddings if tie else source.cls.predictions.decoder.weight)


def test_positions_of_roberta_start_behind_padding_and_skip_it(tmp_path):
    make(*SOURCES["roberta"][:2], tmp_path)
    embeddings = ViLBertModel.from_text_pretrained(tmp_path, **REST).text_embeddings
    ids = torch.tensor([[5, 6, 7, 1, 1], [1, 1, 5, 1, 6]])
    assert embeddings.positions(ids, None).tolist() == [[2, 3, 4, 1, 1], [1, 1, 2, 1, 3]]


@pytest.mark.parametrize("override", [{"num_hidden_layers": 2}, ViLBertTextConfig(**{**TEXT, "num_hidden_layers": 2})])
def test_the_first_layers_alone(override, tmp_path):
    source = make(BertModel, BertConfig(**TEXT), tmp_path)
    model = ViLBertModel.from_text_pretrained(tmp_path, text_config=override, **REST)
    assert len(model.encoder.text_layers) == model.config.text_config.num_hidden_layers == 2
    assert model.config.text_coattention_layers == [0, 1]
    found = model.state_dict()
    kept = {key: value for key, value in todays_names(source).items() if "text_layers.2" not in key}
    assert all(torch.equal(found[key], value) for key, value in kept.items())


def test_dtypes(tmp_path):
    source = make(BertModel, BertConfig(**TEXT), tmp_path)
    for dtype in ("bfloat16", torch.bfloat16):
        assert ViLBertModel.from_text_pretrained(tmp_path, dtype=dtype, **REST).dtype == torch.bfloat16
    source.half().save_pretrained(tmp_path)
    assert ViLBertModel.from_text_pretrained(tmp_path, **REST).dtype == torch.float32
    assert ViLBertModel.from_text_pretrained(tmp_path, dtype="auto", **REST).dtype == torch.float16
    with pytest.raises(ValueError, match="dtype must be of torch, its name or .* got 'cuda'"):
        ViLBertModel.from_text_pretrained(tmp_path, dtype="cuda", **REST)


@pytest.mark.parametrize("name", HEADS)
def test_every_class(name, tmp_path):
    source = make(BertForMaskedLM, BertConfig(**TEXT), tmp_path)
    model = getattr(modeling_vilbert, name).from_text_pretrained(tmp_path, num_labels=7, **REST)
    found = model.vilbert.state_dict()
    assert all(torch.equal(found[key], value) for key, value in todays_names(source).items())
    if name != "ViLBertForMultiTask":
        assert model.config.num_labels == 7
    model.save_pretrained(tmp_path / "saved")
    again = type(model).from_pretrained(tmp_path / "saved").state_dict()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "field, value", [("num_hidden_layers", 4), ("hidden_size", 48), ("vocab_size", 62), ("max_position_embeddings", 20)]
)
def test_more_than_the_source_has(field, value, tmp_path):
    make(BertModel, BertConfig(**TEXT), tmp_path)
    with pytest.raises(ValueError, match=f"text_config asks for {field} {value}, the checkpoint has {TEXT[field]}"):
        ViLBertModel.from_text_pretrained(tmp_path, text_config={field: value}, **REST)


@pytest.mark.parametrize(
    "source_class, config",
    [
        (DistilBertModel, DistilBertConfig(vocab_size=61, dim=24, n_layers=1, n_heads=3, hidden_dim=40)),
        (GPT2Model, GPT2Config(vocab_size=61, n_embd=24, n_layer=1, n_head=3)),
    ],
)
def test_other_architectures(source_class, config, tmp_path):
    make(source_class, config, tmp_path)
    with pytest.raises(ValueError, match=f"'bert', 'roberta'.* got model_type '{config.model_type}'"):
        ViLBertModel.from_text_pretrained(tmp_path, **REST)


# RoBERTa's table has rows for padding and one before it, which no word takes.
@pytest.mark.parametrize("name, longest", [("bert", 19), ("roberta", 17)])
def test_too_long_texts(name, longest, tmp_path):
    source_class, config, _ = SOURCES[name]
    make(source_class, config, tmp_path)
    model = ViLBertModel.from_text_pretrained(tmp_path, **REST).eval()
    assert model(**words(config.pad_token_id, tokens=longest), **regions()).text_last_hidden_state.isfinite().all()
    with pytest.raises(ValueError, match=f"{longest + 1} tokens, but the model has positions for {longest}"):
        model(**words(config.pad_token_id, tokens=longest + 1), **regions())
