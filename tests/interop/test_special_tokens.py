"""Special tokens of a folder of Hugging Face's: what its files say, against `transformers`, and on the way to a run and back."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models as kinds, pre_tokenizers, trainers

from tformer_jax.config import ConfigError
from tformer_jax.data import tokenizers
from tformer_jax.data.files import DataError

TEXTS = ["the red cat saw a small dog", "and then it slept"]


def byte_level(tokens):
    made = Tokenizer(kinds.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    how = dict(special_tokens=tokens, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(**how))
    return made


def word_piece(tokens):
    made = Tokenizer(kinds.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    made.train_from_iterator(TEXTS, trainers.WordPieceTrainer(special_tokens=tokens, show_progress=False))
    return made


def unigram(tokens):
    made = Tokenizer(kinds.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    how = dict(special_tokens=tokens, unk_token="<unk>", vocab_size=60, show_progress=False)
    made.train_from_iterator(TEXTS, trainers.UnigramTrainer(**how))
    return made


def table(text):
    """A token as older folders have it."""
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"__type": "AddedToken", "content": text, "special": True} | flags


def said(**tokens):
    return {f"{role}_token": token for role, token in tokens.items()}


FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
CONFIG, SETTINGS, MAP, GENERATION = (
    f"{x}.json" for x in ("config", "tokenizer_config", "special_tokens_map", "generation_config")
)
# The special tokens of each tokenizer, in the order of their numbers, and the files of its folder, as that of the hub has them.
STYLES = {
    "phi3": (
        byte_level,
        ["<unk>", "<s>", "</s>", "<|endoftext|>", "<|end|>"],
        {
            CONFIG: {"model_type": "phi3", "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 3},
            SETTINGS: {"tokenizer_class": "LlamaTokenizer"}
            | said(bos="<s>", eos="<|endoftext|>", pad="<|endoftext|>", unk="<unk>"),
            GENERATION: {"eos_token_id": [3, 4]},
        },
    ),
    "opt": (
        byte_level,
        ["<s>", "<pad>", "</s>", "<unk>"],
        {
            CONFIG: {"model_type": "opt", "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1},
            SETTINGS: {"tokenizer_class": "GPT2Tokenizer"}
            | said(bos=table("</s>"), eos=table("</s>"), unk=table("</s>"), pad=table("<pad>")),
        },
    ),
    "llama3": (
        byte_level,
        ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"],
        {
            CONFIG: {"model_type": "llama", "bos_token_id": 0, "eos_token_id": [1, 2]},
            SETTINGS: FAST | said(bos="<|begin_of_text|>", eos="<|eot_id|>"),
        },
    ),
    "cohere": (
        byte_level,
        ["<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<BOS_TOKEN>", "<EOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"],
        {
            CONFIG: {"model_type": "cohere"},
            SETTINGS: {"tokenizer_class": "CohereTokenizer"}
            | said(bos="<BOS_TOKEN>", eos="<EOS_TOKEN>", pad="<PAD>", unk=None),
        },
    ),
    "neox": (
        byte_level,
        ["<|endoftext|>", "<|padding|>"],
        {
            CONFIG: {"model_type": "gpt_neox", "bos_token_id": 0, "eos_token_id": 0},
            SETTINGS: {"tokenizer_class": "GPTNeoXTokenizer"}
            | said(**dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>")),
        },
    ),
    "gpt2": (
        byte_level,
        ["<|endoftext|>"],
        {CONFIG: {"model_type": "gpt2", "bos_token_id": 0, "eos_token_id": 0}, SETTINGS: {"model_max_length": 64}},
    ),
    "qwen2": (
        byte_level,
        ["<|endoftext|>", "<|im_end|>"],
        {
            CONFIG: {"model_type": "qwen2", "bos_token_id": 0, "eos_token_id": 1},
            SETTINGS: {"tokenizer_class": "Qwen2Tokenizer"}
            | said(bos=None, eos="<|im_end|>", pad="<|endoftext|>", unk=None),
        },
    ),
    "bert": (
        word_piece,
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        {CONFIG: {"model_type": "bert", "pad_token_id": 0}, SETTINGS: {"do_lower_case": True}},
    ),
    "roberta": (
        byte_level,
        ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        {
            CONFIG: {"model_type": "roberta", "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2},
            SETTINGS: {"model_max_length": 64},
        },
    ),
    "t5": (
        unigram,
        ["<pad>", "</s>", "<unk>"],
        {
            CONFIG: {"model_type": "t5", "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
            SETTINGS: {"tokenizer_class": "T5Tokenizer", "extra_ids": 0} | said(eos="</s>", pad="<pad>", unk="<unk>"),
        },
    ),
    "the old file decides": (
        byte_level,
        ["<one>", "<two>", "<three>"],
        {
            CONFIG: {"model_type": "gpt_neox", "eos_token_id": 2},
            SETTINGS: FAST | said(bos="<two>", eos="<three>"),
            MAP: said(bos={"content": "<one>", "lstrip": False}, eos="<two>", pad="<three>"),
        },
    ),
    "the old file is not read": (
        byte_level,
        ["<one>", "<two>", "<three>"],
        {
            CONFIG: {"model_type": "gpt_neox"},
            SETTINGS: FAST | said(bos="<two>", eos="<one>") | {"added_tokens_decoder": {}},
            MAP: said(bos="<one>", eos="<two>"),
        },
    ),
}


@pytest.fixture
def folder(tmp_path):
    """`folder(style)`: a folder without a model."""

    def folder(style):
        make, tokens, files = STYLES[style]
        made, place = make(tokens), tmp_path / "theirs"
        place.mkdir()
        assert [made.token_to_id(token) for token in tokens] == [*range(len(tokens))]
        made.save(str(place / "tokenizer.json"))
        for name, content in files.items():
            (place / name).write_text(json.dumps(content))
        return place

    return folder


def known(place):
    """What ours knows of a folder's special tokens, by role."""
    made = tokenizers.load(place / tokenizers.FILE)
    names = tokenizers.special_names(made)
    return {role: made.token_to_id(name) for role, name in names.items()}


def theirs_of(place):
    """What `transformers` does, an encoder's start and end among them; what it has none of is left out."""
    found = pytest.importorskip("transformers", minversion="5.23").AutoTokenizer.from_pretrained(place)
    first = lambda *numbers: next((x for x in numbers if x is not None), None)
    numbers = {
        "bos": first(found.bos_token_id, found.cls_token_id),
        "eos": first(found.eos_token_id, found.sep_token_id),
    }
    numbers |= {"pad": found.pad_token_id, "mask": found.mask_token_id}
    return {role: number for role, number in numbers.items() if number is not None}


@pytest.mark.parity
@pytest.mark.parametrize("style", STYLES)
def test_special_tokens_are_theirs(folder, tmp_path, style):
    """A text would not end where the model ends it, or begin with another token than it was trained with; or a run that
    starts from the folder, which has gone since, would have others."""
    place = folder(style)
    wanted, found = theirs_of(place), known(place)
    assert len(wanted) > 1 and {role: found.get(role) for role in wanted} == wanted
    (tmp_path / "run").mkdir()
    tokenizers.inherit(place, tmp_path / "run")
    (tmp_path / "run" / CONFIG).write_text('{"model": {}}')
    (tmp_path / "other").mkdir()
    tokenizers.inherit(tmp_path / "run", tmp_path / "other")  # a run that starts from that one
    assert known(tmp_path / "run") == found == known(tmp_path / "other")


@pytest.mark.parametrize("role", ["bos", "eos", "mask", "pad"])
def test_a_token_that_nothing_tells_is_asked_for(tmp_path, role):
    """Another word would start or end every text, in silence."""
    words = dict(zip(("one", "two", "three", "four"), range(4), strict=True))
    Tokenizer(kinds.WordLevel(words, unk_token="one")).save(str(tmp_path / "tokenizer.json"))
    load = lambda: tokenizers.load(tmp_path / "tokenizer.json")
    with pytest.raises(ConfigError, match=rf"say which is, as {role}_token in tokenizer_config.json beside its tokeni"):
        tokenizers.special(load(), role)
    assert tokenizers.decode(load(), [0, 1, 2, 3]) == "one two three four"  # nothing ends it
    (tmp_path / SETTINGS).write_text(json.dumps({f"{role}_token": "four"}))
    assert tokenizers.special(load(), role) == (3,)
    (tmp_path / SETTINGS).write_text(json.dumps({f"{role}_token": "five"}))
    with pytest.raises(ConfigError, match="none of the tokenizer's tokens"):
        tokenizers.special(load(), role)


def test_rows_are_filled_up_with_the_end_of_a_text_where_nothing_else_is_for_it(folder):
    """Training on Llama's folder would be refused for want of a token that nothing reads."""
    made = tokenizers.load(folder("llama3") / tokenizers.FILE)
    assert tokenizers.special(made, "pad", "eos") == (2, 2) and "pad" not in tokenizers.special_names(made)


def test_a_number_that_nobody_set_is_no_token(folder):
    """A family's default, of a vocabulary of thousands, or old files' -1 would be refused, or crash."""
    place = folder("gpt2")
    (place / CONFIG).write_text('{"bos_token_id": 50256, "eos_token_id": -1, "pad_token_id": null}')
    assert tokenizers.special(tokenizers.load(place / tokenizers.FILE), "bos", "eos", "pad") == (0, 0, 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (SETTINGS, '{"eos_token": 3}', r"eos_token must be a text, got 3"),
        (SETTINGS, '{"eos_token": {"lstrip": true}}', r"eos_token must be a text, got \{'lstrip'"),
        (SETTINGS, r'{"eos_token": "\ud800"}', r"eos_token must be a text, got '\\ud800'"),
        (SETTINGS, "[]", r"tokenizer_config.json must hold a table, got list"),
        (MAP, "{", r"cannot read .*special_tokens_map.json"),
        (CONFIG, '{"eos_token_id": "2"}', r"config.json: eos_token_id must be the number of a token, got '2'"),
        (GENERATION, '{"eos_token_id": [true]}', r"eos_token_id must be the number of a token, got \[True\]"),
        (CONFIG, '{"eos_token_id": 1e99}', r"eos_token_id must be the number of a token"),
        (CONFIG, '{"eos_token_id": 99999999999999999999}', r"eos_token_id must be the number of a token"),
        (CONFIG, '{"eos_token_id": []}', r"eos_token_id must be the number of a token, got \[\]"),
    ],
)
def test_what_is_no_token_is_named(folder, name, content, message):
    """A damaged file would end in a traceback, or be passed over."""
    place = folder("gpt2")
    (place / name).write_text(content)
    with pytest.raises(DataError, match=message) as found:
        tokenizers.load(place / tokenizers.FILE)
    assert "\n" not in str(found.value)
