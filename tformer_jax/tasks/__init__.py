"""Tasks: for each the loss, the metrics, and what evaluation and prediction mean."""

from .base import DocumentTask, Evaluation, Task, VocabularyLossConfig
from .causal_lm import CausalLMTask, CausalLMTaskConfig
from .image_classification import ImageClassificationTask, ImageClassificationTaskConfig
from .masked_lm import MASK_TEXT, MaskedLMTask, MaskedLMTaskConfig
from .text_classification import TextClassificationTask, TextClassificationTaskConfig
from .translation import TranslationTask, TranslationTaskConfig

# By the `name` in the `task` section.
TASKS: dict[str, type[Task]] = {
    task.Config.name: task
    for task in (TranslationTask, CausalLMTask, MaskedLMTask, TextClassificationTask, ImageClassificationTask)
}

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
