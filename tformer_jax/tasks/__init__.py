"""Tasks: for each the loss, the metrics, and what evaluation and prediction mean."""

from .base import TASKS, Evaluation, Loss, Measured, Scores, Task, TaskConfig, with_auxiliary
from .causal_lm import CausalLMTask
from .classification import Classification, ClassificationConfig
from .image_classification import ImageClassificationTask
from .masked_lm import MASK_TEXT, MaskedLMTask
from .text import DocumentTask, RankedPrediction, TextPrediction, TextTask
from .text_classification import TextClassificationTask
from .translation import TranslationTask
from .vocabulary import VocabularyLossConfig, loss_inputs, target_weights

__all__ = [
    "MASK_TEXT",
    "TASKS",
    "CausalLMTask",
    "Classification",
    "ClassificationConfig",
    "DocumentTask",
    "Evaluation",
    "ImageClassificationTask",
    "Loss",
    "MaskedLMTask",
    "Measured",
    "RankedPrediction",
    "Scores",
    "Task",
    "TaskConfig",
    "TextClassificationTask",
    "TextPrediction",
    "TextTask",
    "TranslationTask",
    "VocabularyLossConfig",
    "loss_inputs",
    "target_weights",
    "with_auxiliary",
]
