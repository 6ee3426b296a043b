"""Transformers' common tests of models, over every ViLBERT class."""

import contextlib
import tempfile
import unittest
from unittest.mock import patch

import torch
from transformers.models.auto import modeling_auto

from modeling_vilbert import (
    ViLBertConfig,
    ViLBertForImageAndTextRetrieval,
    ViLBertForImagesAndTextClassification,
    ViLBertForMultipleChoice,
    ViLBertForMultiTask,
    ViLBertForPreTraining,
    ViLBertForQuestionAnswering,
    ViLBertForSequenceClassification,
    ViLBertForVisualGrounding,
    ViLBertModel,
)
from modeling_vilbert.layers_vilbert import ViLBertAttention

from .suite import common


suite = common("test_modeling_common")
training = common("test_training_mixin")

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
REGION_INPUTS = ("region_features", "region_locations", "region_attention_mask")

# The suite knows by these names which class has no loss, and which one it can ask for several kinds of labels.
NAMES = {
    "MODEL_MAPPING_NAMES": "ViLBertModel",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": "ViLBertForSequenceClassification",
}


def make_regions(config: ViLBertConfig, batch: int, num_regions: int) -> dict[str, torch.Tensor]:
    """The same regions every time, different from each other."""
    sizes = {
        "region_features": (num_regions, config.vision_config.feature_size),
        "region_locations": (num_regions, config.vision_config.location_size),
    }
    return {
        name: torch.arange(regions * size, device=suite.torch_device).sin().view(regions, size).repeat(batch, 1, 1)
        for name, (regions, size) in sizes.items()
    }


class PreTrainingOnWords(ViLBertForPreTraining):
    """Learns from a batch of words alone, as the suite makes them for any model: the rest it adds itself.

    Without dropout, whose random numbers a compiled model draws in another order.
    """

    def __init__(self, config: ViLBertConfig):
        for stream in (config.text_config, config.vision_config):
            stream.hidden_dropout_prob = stream.attention_probs_dropout_prob = 0.0
        config.fusion_dropout = 0.0
        config.vocab_size = config.text_config.vocab_size
        super().__init__(config)

    def forward(self, input_ids, labels, **kwargs):
        batch, classes = len(input_ids), self.config.vision_config.num_region_classes
        regions = make_regions(self.config, batch, num_regions=classes)
        return super().forward(
            input_ids,
            labels=labels,
            region_targets=torch.eye(classes, device=input_ids.device).expand(batch, -1, -1),
            masked_regions=torch.ones(batch, classes, dtype=torch.bool, device=input_ids.device),
            alignment_labels=torch.zeros(batch, dtype=torch.long, device=input_ids.device),
            **regions,
            **kwargs,
        )


class ViLBertModelTester:
    """A tiny model, and a batch for it. All sizes differ, so that no swapped axis can pass."""

    batch_size, seq_length, num_regions, num_images, num_choices = 5, 9, 7, 3, 2
    # Of the stream of words, which is what the suite looks at.
    hidden_size, num_hidden_layers, num_attention_heads = 24, 2, 4
    # After the embeddings, two layers of words and one of co-attention; and of both streams.
    expected_num_hidden_layers, num_hidden_states_types = 4, 2
    num_labels, num_region_classes = 3, 13
    is_training = True
    # What `TrainingTesterMixin` trains.
    causal_lm_class = PreTrainingOnWords

    def __init__(self, parent):
        self.parent = parent

    def get_config(self) -> ViLBertConfig:
        return ViLBertConfig(
            text_config={
                "vocab_size": 61,
                "hidden_size": self.hidden_size,
                "num_hidden_layers": self.num_hidden_layers,
                "num_attention_heads": self.num_attention_heads,
                "intermediate_size": 37,
                "max_position_embeddings": 71,
            },
            vision_config={
                "hidden_size": 30,
                "num_hidden_layers": 1,
                "num_attention_heads": 3,
                "intermediate_size": 19,
                "feature_size": 11,
                "num_region_classes": self.num_region_classes,
            },
            # On GPUs, heads are at least 16 wide for flex attention; the suite widens those of the streams itself.
            coattention_hidden_size=34,
            coattention_num_attention_heads=2,
            pooler_size=18,
            num_images=self.num_images,
            num_labels=self.num_labels,
            tasks={
                "answer": {"head": "question_answering", "num_labels": 17},
                "point": {"head": "grounding"},
            },
        )

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        words, regions = (self.batch_size, self.seq_length), (self.batch_size, self.num_regions)
        inputs = {
            "input_ids": suite.ids_tensor(words, config.text_config.vocab_size),
            "attention_mask": suite.random_attention_mask(words),
            "token_type_ids": suite.ids_tensor(words, config.text_config.type_vocab_size),
            "region_features": suite.floats_tensor((*regions, config.vision_config.feature_size)),
            "region_locations": suite.floats_tensor((*regions, config.vision_config.location_size)),
            "region_attention_mask": suite.random_attention_mask(regions),
        }
        return config, inputs


class ViLBertModelTest(suite.ModelTesterMixin, training.TrainingTesterMixin, unittest.TestCase):
    all_model_classes = (
        ViLBertModel,
        ViLBertForPreTraining,
        ViLBertForQuestionAnswering,
        ViLBertForSequenceClassification,
        ViLBertForImagesAndTextClassification,
        ViLBertForMultipleChoice,
        ViLBertForImageAndTextRetrieval,
        ViLBertForVisualGrounding,
        ViLBertForMultiTask,
    )
    # What the comparisons of attention implementations feed beside `input_ids`.
    additional_model_inputs = ["region_features", "region_locations", "region_attention_mask"]
    _is_composite = True
    _torch_compile_train_cls = PreTrainingOnWords
    model_tester = None

    def setUp(self):
        self.model_tester = ViLBertModelTester(self)
        for mapping, name in NAMES.items():
            known = patch.dict(getattr(modeling_auto, mapping), {"vilbert": name})
            known.start()
            self.addCleanup(known.stop)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """The batch with the axis of choices or images, the task and the labels that the class takes."""
        inputs = dict(inputs_dict)
        grouped, group = {
            ViLBertForImagesAndTextClassification: (REGION_INPUTS, self.model_tester.num_images),
            ViLBertForMultipleChoice: (TEXT_INPUTS, self.model_tester.num_choices),
        }.get(model_class, ((), 1))
        for name in grouped:
            if isinstance(inputs.get(name), torch.Tensor):
                inputs[name] = torch.stack([inputs[name]] * group, 1)
        if model_class is ViLBertForMultiTask:
            inputs["task"] = "answer"
        if return_labels:
            inputs.update(self._labels(model_class))
        return inputs

    def _labels(self, model_class) -> dict[str, torch.Tensor]:
        batch, device = self.model_tester.batch_size, suite.torch_device
        if model_class is ViLBertModel:
            return {}
        if model_class is ViLBertForImageAndTextRetrieval:
            return {"labels": torch.ones(batch, device=device)}
        classes = torch.zeros(batch, dtype=torch.long, device=device)
        if model_class is not ViLBertForPreTraining:
            return {"labels": classes}
        regions, targets = (batch, self.model_tester.num_regions), self.model_tester.num_region_classes
        return {
            "labels": classes[:, None].repeat(1, self.model_tester.seq_length),
            "region_targets": torch.full((*regions, targets), 1 / targets, device=device),
            "masked_regions": torch.ones(regions, dtype=torch.bool, device=device),
            "alignment_labels": classes,
        }

    def check_training_gradient_checkpointing(self, gradient_checkpointing_kwargs=None):
        # Grounding reads regions alone, not the words after the last co-attention; of many tasks one head runs.
        partial = (ViLBertForVisualGrounding, ViLBertForMultiTask)
        whole = tuple(model_class for model_class in self.all_model_classes if model_class not in partial)
        for classes, all_have_gradient in ((whole, True), (partial, False)):
            self.all_model_classes, self.test_all_params_have_gradient = classes, all_have_gradient
            super().check_training_gradient_checkpointing(gradient_checkpointing_kwargs)

    def test_bc_torch_dtype(self):
        # It makes a subtest of every weight, nearly ten thousand, over which pytest takes most of a minute.
        with patch.object(self, "subTest", lambda *args, **params: contextlib.nullcontext()):
            super().test_bc_torch_dtype()

    def test_flex_attention_with_grads(self):
        # The one input that is no tensor, the name of the task, does not pass this test.
        self.all_model_classes = tuple(set(self.all_model_classes) - {ViLBertForMultiTask})
        super().test_flex_attention_with_grads()

    def test_sdpa_can_dispatch_composite_models(self):
        # The suite's own looks for towers that are models; here the attentions of both streams obey one config.
        for model_class in self.all_model_classes:
            with tempfile.TemporaryDirectory() as folder:
                model_class(self.model_tester.get_config()).save_pretrained(folder)
                for asked, expected in (({}, "sdpa"), ({"attn_implementation": "eager"}, "eager")):
                    model = model_class.from_pretrained(folder, **asked)
                    attentions = [module for module in model.modules() if isinstance(module, ViLBertAttention)]
                    self.assertEqual({module.config._attn_implementation for module in attentions}, {expected})

    def test_load_with_mismatched_shapes(self):
        forward = ViLBertModel.forward

        # The last line of this test calls the trunk with words alone, where ours asks for regions.
        def forward_of_words(model, input_ids, region_features=None, **kwargs):
            if region_features is None:
                return forward(model, input_ids, **make_regions(model.config, len(input_ids), 3), **kwargs)
            return forward(model, input_ids, region_features=region_features, **kwargs)

        with patch.object(ViLBertModel, "forward", forward_of_words):
            super().test_load_with_mismatched_shapes()
