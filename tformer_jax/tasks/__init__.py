"""Tasks: for each the loss, the metrics, and what evaluation and prediction mean."""

from ..registry import Registry
from .base import DocumentTask, Evaluation, Task, VocabularyLossConfig
from .causal_lm import CausalLMTask, CausalLMTaskConfig
from .image_classification import ImageClassificationTask, ImageClassificationTaskConfig
from .masked_lm import MASK_TEXT, MaskedLMTask, MaskedLMTaskConfig
from .text_classification import TextClassificationTask, TextClassificationTaskConfig
from .translation import TranslationTask, TranslationTaskConfig

TASKS: Registry[type[Task]] = Registry("task")
for _task in (TranslationTask, CausalLMTask, MaskedLMTask, TextClassificationTask, ImageClassificationTask):
    TASKS.register(_task.Config.name)(_task)

__all__ = [
    "MASK_TEXT",
    "TASKS",
    "DocumentTask",
    "Evaluation",
    "ImageClassificationTask",
    "ImageClassificationTaskConfig",
    "CausalLMTask",
    "CausalLMTaskConfig",
    "MaskedLMTask",
    "MaskedLMTaskConfig",
    "Task",
    "TextClassificationTask",
    "TextClassificationTaskConfig",
    "TranslationTask",
    "TranslationTaskConfig",
    "VocabularyLossConfig",
]
