"""Tokenizers from elsewhere: taken over into a run, the same tokens as the library's, and what is refused."""

import json
from itertools import chain

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tformer_jax.config import ConfigError
from tformer_jax.data import document_splits, tokenizers
from tformer_jax.data.causal_lm import CausalLMData, CausalLMDataConfig
from tformer_jax.data.examples import Examples
from tformer_jax.data.files import DataError
from tformer_jax.data.masked_lm import MaskedLMData, MaskedLMDataConfig
from tformer_jax.data.pieces import cut, reads_pieces
from tformer_jax.data.sources import Document
from tformer_jax.data.text_classification import TextClassificationData, TextClassificationDataConfig
from tformer_jax.data.tokens import kept_tokens
from tformer_jax.data.translation import TranslationData, TranslationDataConfig
from tformer_jax.data.vocabularies import check_there, planned_size

WORDS = "the Red cat, saw\n\na small dog. on é\u0301 that\n old_ green  hill today\t🙂 日本 3456.\n".split(" ")
TEXTS = [" ".join(WORDS[(i * 5 + j * (1 + i % 3)) % 14] for j in range(3 + i % 8)) for i in range(80)]
# As Llama 3 has it: a line's end belongs to the sign before it.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def bpe(normalizer=None, pre_tokenizer=None, decoder=None, **how):
    made = Tokenizer(models.BPE(**how))
    if normalizer is not None:
        made.normalizer = normalizer
    if pre_tokenizer is not None:
        made.pre_tokenizer = pre_tokenizer
    made.decoder = decoder or decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if decoder is None else []
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([*TEXTS, *["a.\n\n b.\n c_\n"] * 40], trainer)
    return made


def byte_level(prefix=False, regex=True):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def gpt2():
    return bpe(pre_tokenizer=byte_level())


def llama3():
    return bpe(
        pre_tokenizer=pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(LLAMA3), "isolated"), byte_level(regex=False)]
        )
    )


def nfc_with_prefix():
    return bpe(normalizers.NFC(), byte_level(prefix=True))


def neox():
    return bpe(normalizers.NFC(), byte_level())


def metaspace():
    part = pre_tokenizers.Metaspace(prepend_scheme="always")
    return bpe(None, part, decoders.Metaspace(), unk_token="<unk>")


def llama2():
    """Without words: the whole text is one."""
    prepend = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return bpe(prepend, None, decoders.Metaspace(), unk_token="<unk>", fuse_unk=True)


def with_added_tokens():
    made = gpt2()
    made.add_tokens([AddedToken("cat, saw", normalized=False), AddedToken("dog", lstrip=True, rstrip=True)])
    return made


def bert():
    words = sorted({part.lower() for word in WORDS for part in word.split()} | {"##s", "s", "w", "##aw"})
    vocabulary = {t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return made


def unigram():
    made = Tokenizer(models.Unigram())
    made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    how = dict(special_tokens=["<pad>", "<s>", "</s>", "<unk>", "<mask>"], unk_token="<unk>", show_progress=False)
    made.train_from_iterator(TEXTS, trainers.UnigramTrainer(vocab_size=150, **how))
    return made


KINDS = [gpt2, llama3, nfc_with_prefix, neox, metaspace, llama2, with_added_tokens, bert, unigram]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFORMER_DATA", str(tmp_path / "cache"))


def long_texts():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, count)) for count in (0, 1, 4000, 3, 9000)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_documents_have_the_tokens_of_the_library(kind):
    """A text that is cut has other tokens than the tokenizer makes of it: a model is trained on what nobody types."""
    tokenizer, texts = kind(), long_texts()
    tokenizer.encode_special_tokens = True
    wanted = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    examples = Examples.of(Document, [Document(str(i), text) for i, text in enumerate(texts)], "text")
    found = kept_tokens(examples, "text", tokenizer, words=True)
    assert [ids.tolist() for ids in found.ids] == [encoding.ids for encoding in wanted]
    words = np.split(found.words.astype(int), found.ids.offsets[1:-1])
    for ours, encoding in zip(words, wanted, strict=True):
        assert (np.diff(ours) != 0).tolist() == (np.diff(encoding.word_ids) != 0).tolist()


def test_only_gpt2s_kind_is_known_to_read_pieces():
    """The texts of the others would be cut, which the test above would not see where by chance no token changes."""
    assert [kind.__name__ for kind in KINDS if reads_pieces(kind())] == ["gpt2"]


def test_cutting_does_change_tokens_of_others():
    """The tests above could not fail: each of these tokenizers makes other tokens of some cut text."""
    text = " ".join(long_texts())
    whole = {kind.__name__: (of := kind(), tokenizers.encode(of, [text])[0]) for kind in KINDS}
    pieces = [*cut(text, 5)]
    changed = {name for name, (of, ids) in whole.items() if [*chain(*tokenizers.encode(of, pieces))] != ids}
    assert {"llama3", "nfc_with_prefix", "metaspace", "llama2"} <= changed and "gpt2" not in changed


def test_a_file_does_not_cut_texts_or_fill_them_up(tmp_path):
    """A document would end after as many tokens as some model read, or have padding for text: files keep both."""
    tokenizer = gpt2()
    plain = tokenizer.encode_batch(TEXTS[:4])
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = tokenizers.encode(tokenizers.load(tmp_path / "tokenizer.json"), TEXTS[:4])
    assert found == [encoding.ids for encoding in plain]


def test_numbers_with_gaps_have_room():
    """The highest tokens would be rows of the embedding that are not there."""
    words = Tokenizer(models.WordLevel({"a": 0, "b": 9}, unk_token="a"))
    assert tokenizers.room(words) == 10 and words.get_vocab_size() == 2


# In experiments ----------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path):
    """A folder with texts, pairs, labelled texts and a folder for each run."""
    (tmp_path / "texts").mkdir()
    for i, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{i:02}.txt").write_text(f"{text} {i}\n", "utf-8")
    lines = [" ".join(text.split()) for text in TEXTS]
    (tmp_path / "pairs.tsv").write_text("".join(f"{s} {i}\t{s.upper()} {i}\n" for i, s in enumerate(lines)), "utf-8")
    (tmp_path / "labelled.tsv").write_text("".join(f"{'ab'[i % 2]}\t{s} {i}\n" for i, s in enumerate(lines)), "utf-8")
    return tmp_path


@pytest.fixture
def make(place):
    """`make(task, directory, **changes)`: the data of a task."""

    def make(task, directory="run", **changes):
        (place / directory).mkdir(exist_ok=True)
        documents = dict(source="files", path=str(place / "texts"), row_length=16, batch_tokens=64)
        shares = dict(validation_share=0.1, test_share=0.1)
        sizes = dict(source="files", validation_size=8, test_size=8, batch_tokens=640, num_buckets=1)
        pairs = sizes | dict(tsv_file=str(place / "pairs.tsv"), split="sentence", batching="buckets")
        kinds = {
            "causal": (CausalLMData, CausalLMDataConfig, documents | shares, ()),
            "masked": (MaskedLMData, MaskedLMDataConfig, documents | shares, ()),
            "translation": (TranslationData, TranslationDataConfig, pairs, (60,)),
            "labelled": (
                TextClassificationData, TextClassificationDataConfig, sizes | dict(path=str(place / "labelled.tsv")), (60,)
            ),
        }  # fmt: skip
        data, config, fields, limit = kinds[task]
        return data(config(**fields | changes), *limit, place / directory)

    return make


TASKS = pytest.mark.parametrize("task", ["causal", "masked", "translation", "labelled"])


def saved(tokenizer, folder, **said):
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    if said:
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def tokenizers_of(data):
    return data.tokenizers if hasattr(data, "tokenizers") else (data.tokenizer,)


@TASKS
@pytest.mark.parametrize("by", ["folder", "file"])
def test_a_run_has_the_tokenizer_as_it_is_and_keeps_it(make, place, task, by):
    """One would be trained after all; or a run could not be read once the folder has gone."""
    folder = saved(gpt2(), place / "given", bos_token="<pad>", pad_token="<s>")
    path = folder if by == "folder" else folder / "tokenizer.json"
    before = make(task, tokenizer_path=str(path))
    for file in folder.iterdir():
        file.unlink()
    after = make(task, tokenizer_path=str(path))
    for data in (before, after):
        for found in tokenizers_of(data):
            assert found.to_str() == gpt2().to_str() and tokenizers.special(found, "bos", "eos", "pad") == (3, 2, 1)
        assert data.train_batches().batch(0)


@TASKS
def test_a_run_goes_on_with_its_own_tokenizer_alone(make, place, task):
    """Trained with one vocabulary and then with another, a model would know neither."""
    folder = saved(gpt2(), place / "given", bos_token="<s>")
    make(task, tokenizer_path=str(folder))
    saved(neox(), folder, bos_token="<s>")
    with pytest.raises(
        ConfigError, match="given/tokenizer.json is not the tokenizer in .*run/tokenizer.json: put that"
    ):
        make(task, tokenizer_path=str(folder))
    saved(gpt2(), folder, bos_token="<pad>")
    with pytest.raises(ConfigError, match="is not the tokenizer in"):
        make(task, tokenizer_path=str(folder))


@TASKS
@pytest.mark.parametrize(
    ("make_file", "message"),
    [
        (lambda file: None, "^cannot load a tokenizer from .*given.json: No such file"),
        (lambda file: file.write_text("{"), "^cannot load a tokenizer from .*given.json: "),
        (lambda file: file.write_text('{"the": 0, "cat": 1}'), "^cannot load a tokenizer from .*given.json: "),
        (lambda file: file.write_bytes(b"\x0a\x0e\x0a\x05<unk>"), "^cannot load a tokenizer from .*given.json: "),
        (lambda file: file.mkdir(), "^cannot load a tokenizer from .*given.json/tokenizer.json: No such file"),
        (
            lambda file: Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(file)),
            "^none of the tokenizer's tokens is known as the one that starts a text: say which is, as bos_token",
        ),
    ],
    ids=["missing", "damaged", "a vocabulary", "of sentencepiece", "an empty folder", "without special tokens"],
)
def test_what_is_no_tokenizer_is_refused_by_name(make, place, task, make_file, message):
    """A wrong path would end in the library's own exception, or leave half a run behind."""
    make_file(place / "given.json")
    with pytest.raises(ConfigError, match=message):
        make(task, tokenizer_path=str(place / "given.json"))
    assert not (place / "run" / "tokenizer.json").exists()


def test_a_masked_language_model_needs_a_mask(make, place):
    """It would be refused when the model is compiled, or mask with the token of something else."""
    words = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "a"])}
    Tokenizer(models.WordLevel(words, unk_token="a")).save(str(place / "given.json"))
    with pytest.raises(ConfigError, match="known as the one that stands for a hidden one: say which is, as mask_token"):
        make("masked", tokenizer_path=str(place / "given.json"))
    make("causal", "other", tokenizer_path=str(place / "given.json"))


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("causal", {"vocab_size": 300}, "^vocab_size must be None with data.tokenizer_path='x', .*; got 300$"),
        ("causal", {"tokenizer": "characters"}, "^tokenizer must be 'bpe' with data.tokenizer_path='x'"),
        ("translation", {"vocab_size": 300}, "^vocab_size must be None with data.tokenizer_path='x'"),
        ("labelled", {"vocab_size": 300}, "^vocab_size must be None with data.tokenizer_path='x'"),
        ("translation", {"tokenizer_path": None}, "^vocab_size is needed to train a tokenizer, or data.tokenizer_path"),
        (
            "translation",
            {"source_tokenizer_path": "y", "source_vocab_size": 300},
            "^source_vocab_size must be None with data.source_tokenizer_path='y'",
        ),
    ],
)
def test_a_tokenizer_that_is_there_is_not_trained(make, task, changes, message):
    """A field would turn nothing."""
    with pytest.raises(ConfigError, match=message):
        make(task, **{"tokenizer_path": "x"} | changes)


def test_whole_words_need_a_tokenizer_that_tells_words_apart(make, place):
    """All of a text would be masked as one word."""
    with pytest.raises(ConfigError, match="^data.whole_words needs a tokenizer that tells words apart"):
        make("masked", tokenizer_path=str(saved(llama2(), place / "given")), whole_words=True)
    make("masked", "other", tokenizer_path=str(saved(metaspace(), place / "given")), whole_words=True).train_batches()


def test_each_side_of_a_translation_may_have_its_own(make, place):
    """The source would be read in the target's tokens, or one side could not be trained beside a given one."""
    given = saved(bert(), place / "given") / "tokenizer.json"
    own = make("translation", source_tokenizer_path=str(given), vocab_size=300)
    assert own.tokenizers.source.to_str() == bert().to_str() and own.tokenizers.target.get_vocab_size() == 300
    again = make("translation", source_tokenizer_path=str(given), vocab_size=300)
    assert [x.to_str() for x in again.tokenizers] == [x.to_str() for x in own.tokenizers]
    both = make("translation", "both", source_tokenizer_path=str(given), tokenizer_path=str(saved(gpt2(), place / "g")))
    assert [x.to_str() for x in both.tokenizers] == [bert().to_str(), gpt2().to_str()]


def test_a_target_ends_where_its_tokenizer_leaves_the_end_out(make, place):
    """A translation would never learn to end: Llama's tokenizers start a text and do not end it."""
    framing = gpt2()
    framing.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    data = make("translation", tokenizer_path=str(saved(framing, place / "given")))
    ids = framing.encode("the cat", add_special_tokens=False).ids
    assert data.tokenizers.encode_targets(["the cat"]) == [[1, 1, *ids, 2]]


def test_a_document_too_long_to_be_read_whole_is_named(make, place, monkeypatch):
    """A file of gigabytes would fill the memory, and nobody know which."""
    monkeypatch.setattr(document_splits, "_WHOLE_BYTES", 50)
    given = str(saved(metaspace(), place / "given"))
    data = make("causal", tokenizer_path=given)
    with pytest.raises(
        DataError, match=r"^\d+.txt has \d+ bytes, and this tokenizer must read a text whole, .* at most 50 "
    ):
        data.train_batches()
    make("causal", "other", tokenizer_path=str(saved(gpt2(), place / "pieces"))).train_batches()


@pytest.mark.parametrize(("kind", "whole"), [(gpt2, True), (llama3, True), (bert, False)])
def test_what_a_tokenizer_loses_is_known(make, place, kind, whole):
    """Bits per byte of lower-case text would be taken for those of the text."""
    assert make("causal", tokenizer_path=str(saved(kind(), place / "given"))).is_given_back("test") == whole


def test_unknown_words_are_counted(make, place):
    """Words that are all the same token would make a model look good."""
    data = make("causal", tokenizer_path=str(saved(bert(), place / "given")))
    tokens = [data.tokenizer.encode(d.text, add_special_tokens=False).tokens for d in data.splits["test"]]
    assert data.unknown_count("test") == sum(of.count("[UNK]") for of in tokens) > 0


def test_a_plan_knows_the_size_of_the_vocabulary(place):
    """`inspect` would tell the cost of another model."""
    folder = saved(gpt2(), place / "given")
    assert (planned_size(None, str(folder)), planned_size(400, None)) == (gpt2().get_vocab_size(), 400)
    saved(bert(), folder)
    assert planned_size(None, str(folder)) == bert().get_vocab_size()
    assert planned_size(None, str(place / "gone")) is None
    with pytest.raises(ConfigError, match="cannot load a tokenizer from .*gone"):
        check_there(None, str(place / "gone"))
