"""A source of documents: sums, written out, as many as asked for.

    python -m experiments.train --config=experiments/configs/causal_lm.py:tiny --workdir=runs/sums \
        --plugin=experiments/extensions/arithmetic.py --config.data.source=arithmetic --config.data.source_options=count=2000
"""

import random
from collections.abc import Iterator

from tformer_jax.data.sources.documents import DOCUMENTS, Document


@DOCUMENTS.register("arithmetic")
def arithmetic(count: int = 1000, digits: int = 3, seed: int = 0) -> Iterator[Document]:
    """Writes documents of one sum each, such as "27 + 915 = 942"; the same ones for the same seed.

    Args:
      count: number of documents.
      digits: the most that a term has.
      seed: of the terms.
    """
    rng = random.Random(seed)
    for number in range(count):
        a, b = (rng.randrange(10 ** rng.randint(1, digits)) for _ in range(2))
        yield Document(f"sum {number}", f"{a} + {b} = {a + b}\n")
