"""The benchmarks of the literature, by name: of Hugging Face's hub, or a copy of what it has, or the file that it is of.

Each has the splits that published numbers are of, none of which is changed, and the number itself: a property of the source,
see `Yardstick`. Where nothing but a test split is official, validation is held out of training.
"""

import functools
import math

from .benchmark_forms import Benchmark, articles, benchmark_source, cut, each, images, words
from .documents import DOCUMENTS, Yardstick
from .images import IMAGES
from .labelled_texts import LABELLED_TEXTS
from .pairs import PAIRS
from .registered import SPLITS
from .tables import documents_of, labelled_of, pairs_of

_OFFICIAL = {name: name for name in SPLITS}
# The labels of the official test are secret: everybody compares numbers of the official validation.
_SECRET_TEST = {"train": "train", "test": "validation"}

_BITS_PER_CHARACTER = Yardstick(
    "bits_per_character", "characters", lambda text: len(text.encode("utf-8")), lambda nats, n: nats / math.log(2) / n
)


def _perplexity(nats: float, count: int) -> float:
    try:
        return math.exp(nats / count)
    except OverflowError:
        return math.inf


BENCHMARKS = {
    "wmt14_en_de": Benchmark(
        kind=PAIRS,
        says="Reads WMT 2014, English to German: 4.5 million pairs, newstest2013 to validate, newstest2014 to test; BLEU.",
        hub="wmt/wmt14",
        subset="de-en",
        columns=("translation",),
        parts=_OFFICIAL,
        make=each(functools.partial(pairs_of, source_field="translation.en", target_field="translation.de")),
    ),
    "openwebtext": Benchmark(
        kind=DOCUMENTS,
        says="Reads OpenWebText, 8 million pages (Gokaslan and Cohen, 2019): no official split; bits per byte.",
        hub="Skylion007/openwebtext",
        columns=("text",),
        parts={"train": "train"},
        make=each(documents_of),
    ),
    "wikitext103": Benchmark(
        kind=DOCUMENTS,
        says="Reads WikiText-103, raw, an article a document (Merity et al., 2017), with its splits; word perplexity.",
        hub="Salesforce/wikitext",
        subset="wikitext-103-raw-v1",
        columns=("text",),
        parts=_OFFICIAL,
        make=each(articles),
        yardstick=Yardstick("word_perplexity", "words", words, _perplexity),
    ),
    "enwik8": Benchmark(
        kind=DOCUMENTS,
        says="Reads enwik8, 10^8 bytes of Wikipedia (Mahoney, 2006), 90, 5 and 5 million of them; bits per character, a byte.",
        hub="LTCB/enwik8",
        folder="enwik8-raw",
        revision="refs/convert/parquet",
        columns=("text",),
        parts=None,
        make=cut,
        yardstick=_BITS_PER_CHARACTER,
        size=100_000_000,
    ),
    "text8": Benchmark(
        kind=DOCUMENTS,
        says="Reads text8, 10^8 letters and blanks of Wikipedia (Mahoney, 2006), 90, 5 and 5 million; bits per character.",
        hub="afmck/text8",
        columns=("text",),
        parts=None,
        make=cut,
        yardstick=_BITS_PER_CHARACTER,
        size=100_000_000,
    ),
    "tiny_shakespeare": Benchmark(
        kind=DOCUMENTS,
        says="Reads 1.1 million characters of Shakespeare (Karpathy, 2015), 90, 5 and 5 % in order; bits per character.",
        hub="karpathy/tiny_shakespeare",
        revision="refs/convert/parquet",
        columns=("text",),
        parts=None,
        make=cut,
        yardstick=_BITS_PER_CHARACTER,
        size=1_115_394,
    ),
    "sst2": Benchmark(
        kind=LABELLED_TEXTS,
        says="Reads SST-2 of GLUE (Socher et al., 2013): test is GLUE's validation, as labels of its test are secret; accuracy.",
        hub="nyu-mll/glue",
        subset="sst2",
        columns=("sentence", "label"),
        parts=_SECRET_TEST,
        make=each(functools.partial(labelled_of, text_field="sentence", label_field="label")),
    ),
    "cifar10": Benchmark(
        kind=IMAGES,
        says="Reads CIFAR-10, 50,000 images of 32 pixels and 10,000 to test (Krizhevsky, 2009); accuracy.",
        hub="uoft-cs/cifar10",
        columns=("img", "label"),
        parts={"train": "train", "test": "test"},
        make=images("img"),
    ),
    "imagenet": Benchmark(
        kind=IMAGES,
        says="Reads ImageNet, 1,000 classes (Russakovsky et al., 2015): test is the official validation; accuracy, top 1 and 5.",
        hub="ILSVRC/imagenet-1k",
        gated=True,
        columns=("image", "label"),
        parts=_SECRET_TEST,
        make=images("image"),
    ),
}

for _name, _benchmark in BENCHMARKS.items():
    _benchmark.kind.register(_name)(benchmark_source(_name, _benchmark))
