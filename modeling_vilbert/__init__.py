"""ViLBERT and 12-in-1 as a guest of Hugging Face Transformers.

Importing this package registers its Auto classes: after it, `AutoModel.from_pretrained` and its siblings know
`model_type` "vilbert".
"""
from .configuration_vilbert import *
from .modeling_vilbert import *
from .heads_vilbert import *
