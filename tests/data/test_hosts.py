"""Batches on several hosts: real processes, each with its own copy of the files, its own stores and its own rows."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

KINDS = {
    "causal_lm": dict(split="tail", vocab_size=300, row_length=16, batch_tokens=128),
    "masked_lm": dict(split="document", vocab_size=300, row_length=16, batch_tokens=128, whole_words=True),
    "mixture": dict(split="document", vocab_size=300, row_length=16, batch_tokens=128),
    "packed": dict(split="sentence", vocab_size=300, batch_tokens=256, batching="packed", row_length=32),
    "buckets": dict(split="sentence", vocab_size=300, batch_tokens=256, batching="buckets", num_buckets=3),
    "text_classification": dict(vocab_size=300, batch_tokens=256),
}
FILES = {
    "causal_lm": dict(source="files", path="texts"),
    "masked_lm": dict(source="files", path="texts"),
    "mixture": dict(source="mixture", mixture="files(path=HOST/texts):0.75,jsonl(path=HOST/lines.jsonl):0.25"),
    "packed": dict(source="files", tsv_file="pairs.tsv"),
    "buckets": dict(source="files", tsv_file="pairs.tsv"),
    "text_classification": dict(source="files", path="labels.tsv"),
}

HOST = """
import json, sys
import numpy as np
from pathlib import Path
from tformer_jax.data.causal_lm import CausalLMData, CausalLMDataConfig
from tformer_jax.data.masked_lm import MaskedLMData, MaskedLMDataConfig
from tformer_jax.data.text_classification import TextClassificationData, TextClassificationDataConfig
from tformer_jax.data.translation import TranslationData, TranslationDataConfig
host, number, count, kinds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
of = {
    "masked_lm": (MaskedLMData, MaskedLMDataConfig),
    "text_classification": (TextClassificationData, TextClassificationDataConfig),
    "packed": (TranslationData, TranslationDataConfig), "buckets": (TranslationData, TranslationDataConfig),
}
for kind, fields in kinds.items():
    (host / kind).mkdir()
    Data, Config = of.get(kind, (CausalLMData, CausalLMDataConfig))
    fields = {n: str(host / x) if n in ("path", "tsv_file") else x for n, x in fields.items()}
    fields |= {n: x.replace("HOST", str(host)) for n, x in fields.items() if n == "mixture"}
    limit = () if Data in (CausalLMData, MaskedLMData) else (60,)
    data = Data(Config(**fields, seed=3), *limit, host / kind)
    splits = {"train": data.train_batches(4), "test": data.evaluation_batches("test")}
    for split, batches in splits.items():
        for i in range(2 * len(batches) if split == "train" else len(batches)):
            rows = batches.row_count(i)
            mine = slice(number * rows // count, (number + 1) * rows // count)
            np.savez(host / kind / f"{split}-{i}.npz", **batches.batch(i, mine))
assert "jax" not in sys.modules
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory, sentences):
    root = tmp_path_factory.mktemp("files")
    (root / "texts").mkdir()
    for number in range(40):
        (root / "texts" / f"{number}.txt").write_text("\n".join(sentences[number % len(sentences)]) + f"\n{number}\n")
    lines = [json.dumps({"text": f"{number} {source} {target}"}) for number, (source, target) in enumerate(sentences)]
    (root / "lines.jsonl").write_text("\n".join(lines) + "\n")
    (root / "pairs.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in sentences))
    (root / "labels.tsv").write_text("".join(f"{i % 2}\t{s} {t}\n" for i, (s, t) in enumerate(sentences)))
    return root


def held_out(kind):
    shares = kind in ("causal_lm", "masked_lm", "mixture")
    return dict(validation_share=0.1, test_share=0.1) if shares else dict(validation_size=6, test_size=8)


def run(files, place, count):
    """Starts so many hosts together, each with all of its own; returns the batches by kind and name, their rows joined."""
    hosts = [place / f"{count} hosts" / str(number) for number in range(count)]
    kinds = json.dumps({kind: fields | FILES[kind] | held_out(kind) for kind, fields in KINDS.items()})
    processes = []
    for number, host in enumerate(hosts):
        shutil.copytree(files, host)
        command = [sys.executable, "-c", HOST, str(host), str(number), str(count), kinds]
        processes.append(subprocess.Popen(command, env={**os.environ, "TFORMER_DATA": str(host / "cache")}))
    assert [process.wait() for process in processes] == [0] * count
    found = {}
    for file in sorted(hosts[0].glob("*/*.npz")):
        parts = [np.load(host / file.relative_to(hosts[0])) for host in hosts]
        name = str(file.relative_to(hosts[0]))
        found[name] = {array: np.concatenate([part[array] for part in parts]) for array in parts[0]}
    return found


@pytest.mark.slow
def test_batches_are_the_same_on_any_number_of_hosts(files, tmp_path):
    """A run on four hosts would not be the one on one of them: rows would be missing, or be in two places."""
    alone = run(files, tmp_path, 1)
    assert len({name.partition("/")[0] for name in alone}) == len(KINDS) and len(alone) > 50
    for count in (2, 4):
        together = run(files, tmp_path, count)
        assert alone.keys() == together.keys()
        for name, arrays in alone.items():
            for array, values in arrays.items():
                np.testing.assert_array_equal(together[name][array], values, err_msg=f"{name} {array}")
