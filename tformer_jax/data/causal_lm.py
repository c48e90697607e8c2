"""Documents as a stream of tokens, to predict what comes next."""

from ..config import field
from .batches import BatchShapes, rows_in_batch
from .batches.windows import Windows
from .running_text import DocumentData, DocumentDataConfig
from .tokenizers import special


class CausalLMDataConfig(DocumentDataConfig):
    """The `data` section of a causal language modelling experiment.

    Attributes:
      boundaries: "segments" (no document sees the one before it in its row) or "stream" (they run
        on, each from start to end token).
      others: see `DocumentDataConfig`.
    """

    boundaries: str = field("segments", among=("segments", "stream"))

    def largest_batch(self, max_length: int, rows_multiple: int) -> BatchShapes:
        rows = rows_in_batch(self.batch_tokens, self.row_length, rows_multiple)
        tokens, lengths = ((rows, self.row_length + 1), "int32"), ((rows,), "int32")
        return {"tokens": tokens} | ({"segments": tokens} if self.boundaries == "segments" else {"lengths": lengths})


class CausalLMData(DocumentData):
    """Documents as a stream of tokens, in windows: see `Windows`."""

    config: CausalLMDataConfig

    def _batches(self, split, rows, seed, some=None):
        ends, ids = special(self.tokenizer, "bos", "eos", "pad"), self.tokens(split).ids
        ids = ids if some is None else ids.take(some)
        return Windows(ids, self.config.row_length, rows, seed, self.config.boundaries, *ends)
