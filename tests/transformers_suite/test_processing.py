"""Transformers' common tests of processors, over `ViLBertProcessor`."""

import tempfile
import unittest
from pathlib import Path
from unittest.mock import patch

import numpy as np
from transformers import BertTokenizer

from modeling_vilbert import Regions, ViLBertImageProcessor, ViLBertProcessor

from .suite import common


suite = common("test_processing_common")

# The suite sees by this setting whether those of images arrive; its own is the scale of pixels, and regions have none.
SETTING = {"max_regions": 1}


class ViLBertProcessorTest(suite.ProcessorTesterMixin, unittest.TestCase):
    processor_class = ViLBertProcessor
    images_input_name = "region_features"

    def setUp(self):
        setting = patch.dict(suite.MODALITY_TEST_SPECS["images"], {"init_time_kwargs": SETTING})
        setting.start()
        self.addCleanup(setting.stop)

    @classmethod
    def _setup_image_processor(cls):
        return ViLBertImageProcessor(max_regions=7)

    @classmethod
    def _setup_tokenizer(cls):
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lower", "newer", "upper", "older", "longer", "string"]
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "vocab.txt").write_text("\n".join(words))
            return BertTokenizer.from_pretrained(folder)

    def prepare_images_inputs(self, batch_size: int | None = None, nested: bool = False):
        regions = Regions([[0, 0, 9, 5], [3, 1, 8, 4]], np.eye(2, 11), image_size=(9, 5))
        if batch_size is None:
            return regions
        return [[regions]] * batch_size if nested else [regions] * batch_size

    def _check_modality_outputs(self, inputs: dict, modality: str):
        # The one region that is kept, behind that of the whole image.
        self.assertEqual(inputs["region_features"].shape[1:], (1 + SETTING["max_regions"], 11))

    def _without_code(self):
        """Saving a class that is registered with its code notes `auto_map` on the object; loading drops the note."""
        return patch.object(ViLBertProcessor, "_auto_class", None)

    def test_processor_from_and_save_pretrained(self):
        with self._without_code():
            super().test_processor_from_and_save_pretrained()

    def test_processor_from_and_save_pretrained_as_nested_dict(self):
        with self._without_code():
            super().test_processor_from_and_save_pretrained_as_nested_dict()

    @unittest.skip("ViLBERT reads an image with every text.")
    def test_processor_text_has_no_visual(self):
        pass
