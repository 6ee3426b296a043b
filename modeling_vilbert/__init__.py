# Copyright 2026 The modeling_vilbert authors. Licensed under the Apache License, Version 2.0.
"""ViLBERT and 12-in-1 as a guest of Hugging Face Transformers.

Importing this package makes `model_type` "vilbert" known to Transformers' Auto classes, and its tasks to `pipeline`.
"""

import transformers
from transformers import AutoConfig
from transformers.pipelines import PIPELINE_REGISTRY

from .caption_groups import ViLBertRetrievalCollator
from .configuration_vilbert import AUTO_MAP, ViLBertConfig, ViLBertTextConfig, ViLBertVisionConfig
from .data_collators import ViLBertPreTrainingCollator, ViLBertTaskCollator
from .explanation import captum_forward, explain
from .explanation_record import Explanation, Faithfulness
from .export import export_onnx, export_program, export_torch
from .extraction import RegionExtractor
from .heads_vilbert import (
    ViLBertForImageAndTextRetrieval,
    ViLBertForImagesAndTextClassification,
    ViLBertForMultipleChoice,
    ViLBertForMultiTask,
    ViLBertForQuestionAnswering,
    ViLBertForSequenceClassification,
    ViLBertForVisualGrounding,
    ViLBertTaskOutput,
)
from .image_processing_vilbert import ViLBertImageProcessor, check_features
from .model_card_vilbert import model_card
from .modeling_vilbert import ViLBertModel, ViLBertModelOutput, ViLBertPreTrainedModel
from .multitask_training import MultiTaskTrainer, StopAndGo, TaskData
from .pipeline_vilbert import (
    PIPELINES,
    ViLBertGroundingPipeline,
    ViLBertMatchingPipeline,
    ViLBertQuestionAnsweringPipeline,
    model_loader,
)
from .pretraining_vilbert import ViLBertForPreTraining, ViLBertForPreTrainingOutput
from .processing_vilbert import ViLBertProcessor
from .proposals import Detector, GivenBoxes, Grid
from .regions import RegionStack, convert_regions, inspect_regions, join_regions, open_regions, write_regions
from .regions_vilbert import Regions, concatenate_regions
from .retrieval import ImageTextScorer
from .search import caption_shortlist
from .training import ViLBertTrainer


__version__ = "0.1.0"

__all__ = [
    "Detector",
    "Explanation",
    "Faithfulness",
    "GivenBoxes",
    "Grid",
    "ImageTextScorer",
    "MultiTaskTrainer",
    "RegionExtractor",
    "RegionStack",
    "Regions",
    "StopAndGo",
    "TaskData",
    "ViLBertConfig",
    "ViLBertForImageAndTextRetrieval",
    "ViLBertForImagesAndTextClassification",
    "ViLBertForMultiTask",
    "ViLBertForMultipleChoice",
    "ViLBertForPreTraining",
    "ViLBertForPreTrainingOutput",
    "ViLBertForQuestionAnswering",
    "ViLBertForSequenceClassification",
    "ViLBertForVisualGrounding",
    "ViLBertGroundingPipeline",
    "ViLBertImageProcessor",
    "ViLBertMatchingPipeline",
    "ViLBertModel",
    "ViLBertModelOutput",
    "ViLBertPreTrainedModel",
    "ViLBertPreTrainingCollator",
    "ViLBertProcessor",
    "ViLBertQuestionAnsweringPipeline",
    "ViLBertRetrievalCollator",
    "ViLBertTaskCollator",
    "ViLBertTaskOutput",
    "ViLBertTextConfig",
    "ViLBertTrainer",
    "ViLBertVisionConfig",
    "caption_shortlist",
    "captum_forward",
    "check_features",
    "concatenate_regions",
    "convert_regions",
    "export_onnx",
    "export_program",
    "export_torch",
    "explain",
    "inspect_regions",
    "join_regions",
    "model_card",
    "open_regions",
    "write_regions",
]

for _config in (ViLBertConfig, ViLBertTextConfig, ViLBertVisionConfig):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
for _auto, _place in AUTO_MAP.items():
    _class = globals()[_place.split(".")[1]]
    if _auto == "AutoImageProcessor":
        transformers.AutoImageProcessor.register(
            ViLBertConfig, image_processor_classes={"pil": _class, "torchvision": _class}, exist_ok=True
        )
        _class.register_for_auto_class(_auto)
    elif _auto == "AutoProcessor":
        transformers.AutoProcessor.register(ViLBertConfig, _class, exist_ok=True)
        _class.register_for_auto_class(_auto)
    elif _auto != "AutoConfig":
        getattr(transformers, _auto).register(ViLBertConfig, _class, exist_ok=True)
for _task, _class in PIPELINES.items():
    PIPELINE_REGISTRY.register_pipeline(_task, _class, pt_model=model_loader(_class), type="multimodal")
