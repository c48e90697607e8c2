"""A folder whose files call another token the end of a text than its name would: written on, made a run, and back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer, decoders, models as kinds, pre_tokenizers, trainers

from tformer_jax import interop, models
from tformer_jax.config import build

TEXT = "the red cat"
FIELDS = dict(vocab_size=300, max_length=48, d_model=16, num_layers=2, scale_embeddings=False)
FIELDS |= dict(attention=dict(num_heads=2), feed_forward=dict(width=24, activation="gelu"))
FIELDS |= dict(layer=dict(norm_position="pre"), positions=dict(name="learned"))
NAMES = ["<unk>", "<s>", "</s>", "<|endoftext|>"]  # as Phi-3 has them
GPT2 = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer():
    made = Tokenizer(kinds.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    how = dict(special_tokens=NAMES, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([TEXT + " saw a small dog"], trainers.BpeTrainer(**how))
    return made


@pytest.fixture(scope="module")
def model():
    made = models.CausalLM(build(models.CausalLM.Config, FIELDS, "model"), rngs=nnx.Rngs(1))
    draw = np.random.default_rng(3).standard_normal
    return jax.tree.map(lambda x: x + 0.3 * draw(x.shape).astype(np.float32), made)


@pytest.fixture
def written(tokenizer, model):
    """What the model writes after `<s>` and the text, one likeliest token after another, without an end."""
    row = [1, *tokenizer.encode(TEXT).ids]
    first = len(row)
    for _ in range(12):
        row.append(int(jnp.argmax(model(jnp.array([row]))[0, -1])))
    return row[first:]


@pytest.fixture
def folder(tokenizer, model, tmp_path):
    """`folder(settings, ids)`: a folder that says these of its special tokens, and nothing else."""

    def folder(settings, ids):
        place = tmp_path / "theirs"
        interop.save_pretrained(model, place, family="gpt2", tokenizer=tokenizer)
        tokenizer.save(str(place / "tokenizer.json"))
        (place / "generation_config.json").unlink()
        (place / "tokenizer_config.json").write_text(json.dumps(settings))
        config = json.loads((place / "config.json").read_text())
        config = {name: x for name, x in config.items() if not name.endswith("_token_id")} | ids
        (place / "config.json").write_text(json.dumps(config))
        return place

    return folder


@pytest.mark.parametrize("where", ["tokenizer_config.json", "config.json"])
def test_a_text_ends_where_the_folder_says(folder, here, tmp_path, tokenizer, written, where):
    """A folder, the run that it becomes and the folder that this becomes would go on beyond the end, which is another by
    its name, or stop at another."""
    count = next(i for i in range(2, 12) if written[i] not in written[:i])
    end = tokenizer.id_to_token(written[count])
    said = {"bos_token": "<s>", "eos_token": end}
    place = (
        folder(said, {}) if where.startswith("t") else folder({}, {"bos_token_id": 1, "eos_token_id": written[count]})
    )
    wanted = TEXT + tokenizer.decode(written[:count]) + "\n"
    for name, of in (("run", "theirs"), ("back", "run")):
        asked = [f"--workdir={tmp_path / of}", f"--text={TEXT}", "--greedy", "--max_new_tokens=12"]
        found = here("predict", *asked)
        assert found.returncode == 0 and found.stdout == wanted, found.stderr
        moved = here("convert", f"--from={tmp_path / of}", f"--to={tmp_path / name}")
        assert moved.returncode == 0, moved.stderr
    assert here("predict", f"--workdir={tmp_path / 'back'}", *asked[1:]).stdout == wanted != TEXT + "\n"
    back = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (back["bos_token_id"], back["eos_token_id"]) == (1, written[count]) and place.exists()


@pytest.mark.parity
@pytest.mark.parametrize(
    ("settings", "ids"),
    [
        (dict(bos_token="<s>", eos_token=GPT2, pad_token=GPT2, unk_token="<unk>"), {}),
        (dict(bos_token="</s>", eos_token="</s>", unk_token="</s>"), {}),
        (dict(bos_token=None, eos_token=GPT2), {"bos_token_id": 2}),
        (dict(eos_token="</s>"), {"bos_token_id": 3}),
        (dict(cls_token="<s>", sep_token="</s>", pad_token="<unk>"), {}),
        ({}, {"bos_token_id": 3, "eos_token_id": 3}),
    ],
)
def test_theirs_reads_the_same_special_tokens_of_what_comes_back(folder, here, tmp_path, settings, ids):
    """Fine-tuned and taken back, a model would stop elsewhere, or rows be filled up with another token."""
    transformers = pytest.importorskip("transformers", minversion="5.23")
    kind = {"tokenizer_class": "PreTrainedTokenizerFast"} if settings else {}  # without, the class of its family
    place = folder(kind | settings, ids)
    for name, of in (("run", "theirs"), ("back", "run")):
        moved = here("convert", f"--from={tmp_path / of}", f"--to={tmp_path / name}")
        assert moved.returncode == 0, moved.stderr
    before, after = (transformers.AutoTokenizer.from_pretrained(x) for x in (place, tmp_path / "back"))
    roles = ("bos_token_id", "eos_token_id", "pad_token_id", "cls_token_id", "sep_token_id")
    assert {role: getattr(after, role) for role in roles} == {role: getattr(before, role) for role in roles}
    if settings:  # straight there and back, too
        loaded, read = interop.load_pretrained(place)
        interop.save_pretrained(loaded, tmp_path / "again", tokenizer=read)
        again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
        assert again.special_tokens_map == before.special_tokens_map


def test_a_folder_that_does_not_say_what_ends_a_text_is_refused(folder, here, tmp_path):
    """A token that ends nothing would end every text, in silence; or the error would not say what to do."""
    place = folder({"tokenizer_class": "PreTrainedTokenizerFast"}, {})
    words = {f"word {i}": i for i in range(40)}
    Tokenizer(kinds.WordLevel(words, unk_token="word 0")).save(str(place / "tokenizer.json"))
    asked = [f"--workdir={place}", "--text=word 7", "--greedy"]
    found = here("predict", *asked)
    assert found.returncode == 1 and found.stderr.strip().count("\n") == 0, found.stderr
    assert (
        "starts a text: say which is, as bos_token in tokenizer_config.json beside its tokenizer.json" in found.stderr
    )
    (place / "tokenizer_config.json").write_text(json.dumps({"bos_token": "word 3", "eos_token": "word 5"}))
    assert here("predict", *asked).returncode == 0
