"""Transformers' common tests of configs, over the joint config and that of each stream."""

import unittest

from modeling_vilbert import ViLBertConfig, ViLBertTextConfig, ViLBertVisionConfig

from .suite import common
from .test_modeling import ViLBertModelTester


suite = common("test_configuration_common")

STREAM = {"hidden_size": 21, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 17}


class ViLBertConfigTest(unittest.TestCase):
    def setUp(self):
        self.model_tester = ViLBertModelTester(self)

    def test_joint_config(self):
        tester = suite.ConfigTester(
            self,
            config_class=ViLBertConfig,
            has_text_modality=False,
            common_properties=["schedule", "pooler_size", "num_labels"],
            coattention_hidden_size=20,
            coattention_num_attention_heads=4,
            text_coattention_layers=[1, 3],
            vision_coattention_layers=[0, 2],
        )
        tester.run_common_tests()

    def test_text_config(self):
        suite.ConfigTester(self, config_class=ViLBertTextConfig, vocab_size=61, **STREAM).run_common_tests()

    def test_vision_config(self):
        tester = suite.ConfigTester(
            self, config_class=ViLBertVisionConfig, has_text_modality=False, feature_size=11, **STREAM
        )
        tester.run_common_tests()
