"""Language modelling: the loss from logits, documents kept apart or not; bits per byte; continuations in pieces."""

import dataclasses
import functools
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support import by_day, quick_jit, tiny_model

from tformer_jax.config import ConfigError, build
from tformer_jax.data import tokenizers
from tformer_jax.data.causal_lm import CausalLMData, CausalLMDataConfig
from tformer_jax.data.examples import Examples
from tformer_jax.data.sources import Document
from tformer_jax.data.tokenizers import BOS_ID, EOS_ID
from tformer_jax.decoding import greedy, sampling
from tformer_jax.functional import AttentionMask
from tformer_jax.tasks import CausalLMTask, causal_lm
from tformer_jax.tasks.vocabulary import loss_inputs, perplexity

ROW, MAX_LENGTH = 24, 32
FIELDS = dict(source="files", validation_share=0.2, test_share=0.2, vocab_size=300, row_length=ROW, batch_tokens=96)


@pytest.fixture(scope="module")
def data_of(folder, tmp_path_factory):
    """`data_of(boundaries)`."""
    place = tmp_path_factory.mktemp("run")
    config = CausalLMDataConfig(**FIELDS, path=str(folder))
    return lambda boundaries: CausalLMData(dataclasses.replace(config, boundaries=boundaries), place)


@pytest.fixture(scope="module", params=["segments", "stream"])
def data(request, data_of):
    """24 documents, those of a row kept apart or not."""
    return data_of(request.param)


@pytest.fixture(scope="module")
def model(data_of):
    size = data_of("segments").tokenizer.get_vocab_size()
    return tiny_model("CausalLM", vocab_size=size, max_length=MAX_LENGTH, num_layers=1, output_softcap=2.0)


@pytest.fixture(scope="module")
def make_task(data_of, quick):
    """`make_task(**fields)`: the task of these fields; its own programs are compiled once, in a hurry."""
    tokenizer = data_of("segments").tokenizer
    return functools.cache(lambda **fields: quick(lambda: CausalLMTask(CausalLMTask.Config(**fields), tokenizer)))


# The loss --------------------------------------------------------------------------------------

forward = quick_jit(lambda model, tokens: model(tokens))


def rows_by_hand(data, split):
    """The rows of a pass over a split, each a list of pieces (token ids) that may see each other.

    Of all documents one after another, row r has the tokens r T to (r + 1) T, its last one as a target alone.
    """
    documents = [[BOS_ID, *ids.tolist(), EOS_ID] for ids in data.tokens(split).ids]
    stream = [(number, token) for number, document in enumerate(documents) for token in document]
    rows = []
    for at in range(0, len(stream) - 1, ROW):
        row = stream[at : at + ROW + 1]
        if data.config.boundaries == "stream":
            rows.append([[token for _, token in row]])
        else:
            numbers = sorted({number for number, _ in row})
            rows.append([[token for n, token in row if n == number] for number in numbers])
    return rows


def by_hand(model, rows, **how):
    """Cross-entropy in nats a target token, each piece alone through the model, and the number of targets."""
    pieces = [piece for row in rows for piece in row if len(piece) > 1]
    tokens = np.zeros((64, ROW), np.int32)
    for place, piece in enumerate(pieces):
        tokens[place, : len(piece) - 1] = piece[:-1]
    logits = np.asarray(forward(model, jnp.asarray(tokens)))
    counts = [len(piece) - 1 for piece in pieces]
    logits = np.concatenate([logits[place, :n] for place, n in enumerate(counts)])
    return oracles.cross_entropy(logits, np.concatenate([piece[1:] for piece in pieces]), **how), sum(counts)


def test_the_validation_loss_is_the_mean_over_targets(make_task, data, model):
    """Padding would count, a document would see or predict another, or batches would weigh the same."""
    batches = data._batches("train", 3, None)  # as in a validation, but several and the last one not full
    wanted, _ = by_hand(model, rows_by_hand(data, "train"))
    assert len(batches) > 2 and (batches.batch(len(batches) - 1)["tokens"][-1] == 0).all()
    assert make_task().validate(model, batches)["loss"] == pytest.approx(wanted, rel=1e-5)


def test_perplexity_is_the_exponential_of_the_loss(make_task, data, model):
    """Perplexity would be the mean of the batches', or of another base."""
    numbers = make_task().validate(model, data.evaluation_batches("test"))
    assert numbers["perplexity"] == pytest.approx(math.exp(numbers["loss"]), rel=1e-9)
    assert numbers.keys() == {"loss", "perplexity"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("nats", "wanted"), [(709.7, math.exp(709.7)), (709.8, math.inf), (1e30, math.inf)])
def test_a_perplexity_beyond_all_floats_is_infinite(nats, wanted):
    """The validation of a model that went astray would end in a traceback, or warn on the terminal."""
    assert perplexity(nats) == wanted


def test_training_settings_do_not_reach_the_validation(make_task, data_of, model):
    """Losses of runs with other settings could not be compared."""
    batches = data_of("segments").evaluation_batches("validation")
    assert make_task(label_smoothing=0.3, z_loss=1.0, fused_loss=True).validate(model, batches) == make_task().validate(
        model, batches
    )


@pytest.mark.parametrize(
    "fields",
    by_day(
        [{}, {"label_smoothing": 0.2, "z_loss": 0.1}, {"label_smoothing": 0.2, "z_loss": 0.1, "fused_loss": True}], 0, 2
    ),
    ids=str,
)
def test_the_training_loss_is_its_formula(make_task, data, model, fields):
    """Smoothing, z-loss or the fused loss would turn nothing or something else, or the weight would not be the
    number of targets."""
    batch = data.evaluation_batches("test").batch(0)
    loss, weight, _ = quick_jit(make_task(**fields).loss)(model, batch, None)
    how = {name: value for name, value in fields.items() if name != "fused_loss"}
    wanted, count = by_hand(model, rows_by_hand(data, "test"), **how)
    assert float(weight) == count
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("fused", "tokens", "held"), [(None, 2**26, False), (None, 100, True), (True, 100, False), (False, 2**26, True)]
)
def test_many_logits_are_never_held(make_task, model, fused, tokens, held):
    """A step of a large vocabulary needs several times the memory, and more time; a small one is slower in chunks."""
    states = jax.ShapeDtypeStruct((1, tokens, model.config.d_model), jnp.float32)
    given = jax.eval_shape(lambda states: loss_inputs(model, states, make_task(fused_loss=fused).config)[0], states)
    assert given.shape[-1] == (model.config.vocab_size if held else model.config.d_model)


def test_a_training_batch_is_read_like_any_other(make_task, data, model):
    """The batches of training would be read otherwise than those of evaluation."""
    batch = data.train_batches().batch(1)
    parts = batch.get("segments", np.ones_like(batch["tokens"]))
    pieces = [[row[ids == i].tolist() for i in np.unique(ids)] for row, ids in zip(batch["tokens"], parts, strict=True)]
    loss, weight, _ = quick_jit(make_task().loss)(model, batch, None)
    wanted, count = by_hand(model, pieces)
    assert (float(weight), float(loss)) == (count, pytest.approx(wanted, rel=1e-5))


def test_dropout_follows_the_key(make_task, data_of, model):
    """Training would have no dropout, or the same in every step."""
    dropping = tiny_model("CausalLM", **{**dataclasses.asdict(model.config), "dropout_rate": 0.3})
    batch = data_of("segments").evaluation_batches("test").batch(0)
    loss = quick_jit(make_task().loss)
    keys = [jax.random.key(0), jax.random.key(0), jax.random.key(1)]
    first, again, other = (float(loss(dropping, batch, key)[0]) for key in keys)
    assert first == again != other


# Evaluating ------------------------------------------------------------------------------------


@pytest.fixture
def parrot(monkeypatch):
    """Generation that writes what it is told to, token by token; what it was asked for is recorded."""
    told, asked = [], []

    def stream(model, prompt, **how):
        asked.append((prompt, how))
        for token in told:
            yield np.array([token])

    monkeypatch.setattr(causal_lm.decoding, "stream", stream)
    return told, asked


def test_bits_per_byte_are_those_of_the_text(make_task, data, model, parrot, folder):
    """Bits would be divided by characters or tokens, or the ends of documents would not be paid for."""
    evaluation = make_task().evaluate(model, data, ["validation", "test"])
    for split in ("validation", "test"):
        loss, count = by_hand(model, rows_by_hand(data, split))
        size = sum((folder / document.name).stat().st_size for document in data.splits[split])
        metrics = evaluation[split].metrics
        assert metrics["bits_per_byte"] == pytest.approx(loss * count / math.log(2) / size, rel=1e-5)
        assert metrics["tokens"] == count
        assert metrics["loss"] == pytest.approx(loss, rel=1e-5)


def test_samples_go_on_with_the_beginnings_of_documents(make_task, data_of, model, parrot):
    """Samples would show other texts than the split's, or not what the model wrote."""
    data = data_of("segments")
    told, asked = parrot
    told += tokenizers.encode(data.tokenizer, [" and so on"])[0]
    samples = make_task(sample_tokens=7).evaluate(model, data, ["test"])["test"].samples
    assert [s.prompt for s in samples] == [d.text[:120] for d in data.splits["test"][:3]]
    assert {s.continuation for s in samples} == {" and so on"}
    assert {how["max_new_tokens"] for _, how in asked} == {7}


def test_every_sample_is_drawn_by_itself(make_task, data_of, model, parrot):
    """Three beginnings would go on with one text."""
    _, asked = parrot
    make_task(sample_tokens=7).evaluate(model, data_of("segments"), ["test"])
    keys = {tuple(np.ravel(jax.random.key_data(how["key"]))) for _, how in asked}
    assert len(keys) == len(asked) == 3


def test_a_beginning_that_fills_the_context_is_no_reason_to_fail(make_task, data_of, model, monkeypatch):
    """A run with a short context would train for hours and fail when it is evaluated."""
    data = data_of("segments")
    long = Examples.of(Document, [d._replace(text=d.text * 20) for d in data.splits["test"]], "text")
    monkeypatch.setitem(data.splits, "test", long)
    monkeypatch.setattr(data, "evaluation_batches", lambda split: data_of("segments").evaluation_batches(split))
    evaluation = make_task(sample_tokens=2).evaluate(model, data, ["test"])["test"]
    assert len(evaluation.samples) == 3


def test_characters_that_no_training_text_has_are_counted(folder, tmp_path):
    """Bits per byte would look better the less of the text the vocabulary can write."""
    texts = tmp_path / "texts"
    shutil.copytree(folder, texts)
    config = CausalLMDataConfig(**FIELDS | {"tokenizer": "characters", "vocab_size": None}, path=str(texts))
    known = CausalLMData(config, tmp_path)
    held_out = known.splits["test"][0]
    (texts / held_out.name).write_text(held_out.text + "日本 日\n", "utf-8")
    (tmp_path / "data.json").unlink()  # as if the run had begun with it
    data = CausalLMData(config, tmp_path)
    assert (known.unknown_count("test"), data.unknown_count("test")) == (0, 3)
    task = CausalLMTask(CausalLMTask.Config(sample_tokens=1), data.tokenizer)
    model = tiny_model("CausalLM", vocab_size=data.tokenizer.get_vocab_size(), max_length=MAX_LENGTH, num_layers=1)
    assert task.evaluate(model, data, ["test"])["test"].note.startswith("3 characters are not in the training split")
    assert (task.first_unknown("the cat"), task.first_unknown("the 日")) == (None, 4)


def test_a_prompt_may_be_in_another_unicode_form(make_task):
    """A prompt typed on one machine would be refused by a model of a text from another."""
    task = CausalLMTask(CausalLMTask.Config(), tokenizers.train_characters(["größer als früher"]))
    assert task.first_unknown("fru\u0308her gro\u0308ßer") is None
    assert task.first_unknown("fru\u0308her é") == 8  # of the text as it was typed


def test_a_byte_level_vocabulary_knows_every_character(make_task, data_of):
    """A prompt would be refused that the model can read."""
    assert data_of("segments").unknown_count("test") == 0
    assert make_task().first_unknown("日本 🙂") is None


def test_an_evaluation_is_described(make_task):
    """What is printed would be another number than what is kept."""
    metrics = dict(bits_per_byte=1.23456, perplexity=12.345, loss=2.34567, tokens=12345.0)
    line = make_task().describe(metrics)
    assert line == "1.2346 bits per byte, perplexity 12.35 a token, loss 2.3457 nats a token, 12,345 tokens"


# Continuations ---------------------------------------------------------------------------------


def test_a_text_begins_like_a_document(make_task, data_of, model, parrot):
    """The model would read a beginning as the middle of something, or with an end of its own."""
    _, asked = parrot
    list(make_task().continue_text(model, "the red"))
    ((prompt, how),) = asked
    assert prompt == [[BOS_ID, *tokenizers.encode(data_of("segments").tokenizer, ["the red"])[0]]]
    assert how["eos_id"] == EOS_ID


def test_settings_reach_the_sampler(make_task, model, parrot):
    """`task.sample_temperature`, `task.sample_tokens` or an argument would turn nothing."""
    _, asked = parrot
    task = make_task(sample_tokens=9, sample_temperature=0.3)
    sampler, key = greedy(), jax.random.key(7)
    task.sample(model)
    list(task.continue_text(model, "a", max_new_tokens=3, sampler=sampler, key=key, slide=True))
    (prompt, first), (_, second) = asked
    assert prompt == [[BOS_ID]]
    assert first["sampler"] == sampling(temperature=0.3)
    assert (first["max_new_tokens"], first["slide"]) == (9, False)
    assert (second["max_new_tokens"], second["sampler"], second["key"], second["slide"]) == (3, sampler, key, True)


def test_samples_fit_into_the_model(make_task, model, parrot):
    """A sample that is longer than the context would be an error after the first validation."""
    _, asked = parrot
    make_task(sample_tokens=1000).sample(model)
    assert asked[0][1]["max_new_tokens"] == MAX_LENGTH // 2


@pytest.mark.parametrize("text", ["the red cat", " 🙂é", "naïve café\n", "日本", " "])
def test_pieces_join_to_the_whole_and_never_show_half_a_character(make_task, data_of, model, parrot, text):
    """A terminal would show broken characters, lose blanks, or show something twice."""
    told, _ = parrot
    told += tokenizers.encode(data_of("segments").tokenizer, [text])[0]
    pieces = list(make_task().continue_text(model, ""))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_pieces_come_as_soon_as_they_are_whole(make_task, data_of, model, parrot):
    """Everything would come at once, at the end."""
    told, _ = parrot
    told += tokenizers.encode(data_of("segments").tokenizer, ["the 🙂 cat"])[0]
    pieces = list(make_task().continue_text(model, ""))
    assert len([piece for piece in pieces if piece]) >= 3
    assert pieces[-1] == ""


def test_what_is_cut_inside_of_a_character_ends_in_a_mark(make_task, data_of, model, parrot):
    """The last bytes of an unfinished character would be lost in silence, or shown before they are the last."""
    told, _ = parrot
    told += tokenizers.encode(data_of("segments").tokenizer, ["a日"])[0][:-1]
    pieces = list(make_task().continue_text(model, ""))
    assert "".join(pieces) == "a\ufffd"
    assert not any("\ufffd" in piece for piece in pieces[:-1])


def test_the_end_is_not_written(make_task, data_of, model, parrot):
    """The end token would be shown, or what comes after it."""
    told, _ = parrot
    told += [*tokenizers.encode(data_of("segments").tokenizer, ["cat"])[0], EOS_ID]
    assert "".join(make_task().continue_text(model, "")) == "cat"


def test_a_continuation_is_what_the_model_generates(make_task, data_of, model):
    """Generation would get another model or prompt: greedy, by hand, one token after another."""
    tokenizer = data_of("segments").tokenizer
    tokens = [BOS_ID, *tokenizers.encode(tokenizer, ["the"])[0]]
    start = len(tokens)
    while len(tokens) < start + 6 and EOS_ID not in tokens:
        padded = np.zeros((64, ROW), np.int32)
        padded[0, : len(tokens)] = tokens
        tokens.append(int(np.asarray(forward(model, jnp.asarray(padded)))[0, len(tokens) - 1].argmax()))
    wanted = tokenizers.decode(tokenizer, tokens[start:], strip=False)
    assert "".join(make_task().continue_text(model, "the", max_new_tokens=6, sampler=greedy())) == wanted


def test_continuations_follow_the_mask_of_a_task(data_of, model, quick):
    """A task with a mask of its own would be trained with it, and continue texts without."""

    class Alone(CausalLMTask):
        @staticmethod
        def mask(batch):
            return AttentionMask(causal=True, window=1)

    def continued(task, text):
        how = {"max_new_tokens": 5, "sampler": greedy()}
        return "".join(quick(lambda: list(task(CausalLMTask.Config(), tokenizer).continue_text(counting, text, **how))))

    # Twice as much, so that attention tells, and not so much that the cap makes many logits equal.
    counting = jax.tree_util.tree_map_with_path(lambda p, x: 2 * x if "layers" in jax.tree_util.keystr(p) else x, model)
    tokenizer = data_of("segments").tokenizer
    assert continued(Alone, "xq") == continued(Alone, "zq")  # each token sees itself alone
    assert continued(CausalLMTask, "xq") != continued(CausalLMTask, "zq")


# The config ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "causal"}, r"task\.name must be one of .*, got 'causal'; did you mean 'causal_lm'"),
        ({"label_smoothing": 1.0}, r"task\.label_smoothing must be in \[0, 1\), got 1\.0"),
        ({"z_loss": -1.0}, r"task\.z_loss must be finite and not negative, got -1\.0"),
        ({"sample_tokens": 0}, r"task\.sample_tokens must be a positive integer, got 0"),
        ({"sample_temperature": 0.0}, r"task\.sample_temperature must be positive and finite, got 0\.0"),
    ],
)
def test_a_config_that_cannot_be_names_the_field(fields, message):
    """A wrong value would be ignored, or surface at the first sample."""
    with pytest.raises(ConfigError, match=message):
        build(CausalLMTask.Config, fields, "task")


def test_rows_that_the_model_cannot_read_are_refused(data_of, model):
    """Training would fail at its first step, after the data has been read and a tokenizer trained."""
    long = dataclasses.replace(data_of("segments").config, row_length=MAX_LENGTH + 1)
    with pytest.raises(ConfigError, match=f"data.row_length={MAX_LENGTH + 1} exceeds model.max_length={MAX_LENGTH}"):
        CausalLMTask.check(long, model.config)
    CausalLMTask.check(dataclasses.replace(long, row_length=MAX_LENGTH), model.config)


def test_every_field_of_the_config_is_seen_here():
    """A field was added to the config that no test above turns; `init_from` is that of tests/training/test_starts.py."""
    fields = {field.name for field in dataclasses.fields(CausalLMTask.Config)}
    assert fields == {"init_from", "label_smoothing", "z_loss", "fused_loss", "sample_tokens", "sample_temperature"}
