"""Tasks: for each the loss, the metrics, and what evaluation and prediction mean."""

from .base import DocumentTask, Evaluation, Task, VocabularyLossConfig
from .classification import TextClassification, TextClassificationConfig
from .language import LanguageModelling, LanguageModellingConfig
from .masked_language import MASK_TEXT, MaskedLanguageModelling, MaskedLanguageModellingConfig
from .translation import Translation, TranslationConfig
from .vision import ImageClassification, ImageClassificationConfig

# By the `name` in the `task` section.
TASKS: dict[str, type[Task]] = {
    task.Config.name: task
    for task in (Translation, LanguageModelling, MaskedLanguageModelling, TextClassification, ImageClassification)
}

__all__ = [
    "MASK_TEXT",
    "TASKS",
    "DocumentTask",
    "Evaluation",
    "ImageClassification",
    "ImageClassificationConfig",
    "LanguageModelling",
    "LanguageModellingConfig",
    "MaskedLanguageModelling",
    "MaskedLanguageModellingConfig",
    "Task",
    "TextClassification",
    "TextClassificationConfig",
    "Translation",
    "TranslationConfig",
    "VocabularyLossConfig",
]
