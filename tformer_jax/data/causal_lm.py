"""Documents as a stream of tokens, to predict what comes next."""

from ..config import field
from .batches import BatchShapes, rows_in_batch
from .batches.windows import Windows
from .running_text import DocumentData, DocumentDataConfig
from .tokenizers import special


class CausalLMDataConfig(DocumentDataConfig):
    """The `data` section of a causal language modelling experiment.

    Attributes:
      boundaries: "segments" (no document sees the one before it in its row) or "stream" (they run on). Each is read from
        start to end token; of a file of tokens, where a document may have them, none is doubled in segments, and a stream is
        what the file holds, token by token.
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
        (*ends, pad), how = special(self.tokenizer, "bos", "eos", "pad"), self.config.boundaries
        documents = self.as_they_are(split) if how == "stream" else None
        if documents is None:
            documents = self.tokens(split).ids
        else:
            ends = None, None
        documents = documents if some is None else documents.take(some)
        return Windows(documents, self.config.row_length, rows, seed, how, *ends, pad)
