#!/usr/bin/env bash
# sacrebleu 2.6.0, 28 November 2026
#
# Expected: references are a list of streams, each as long as the hypotheses (its README). A list with one list of
# references a sentence, as NLTK takes, has another shape and is an error.
# Seen: it is scored (`corpus_score` asks for "a sequence of reference documents", which reads either way). The first
# hypothesis is compared with all of the references, and the others are left out without a word: the hypotheses and
# the lists of references are zipped. BLEU, chrF and TER alike.
#
# Why it matters: the score looks like one. A system whose first sentence is right has BLEU 100 whatever the other 999
# are, and two checkpoints that differ everywhere but there have the same BLEU. `result.ref_len` or `result.sys_len`
# far below the number of tokens is how to notice.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --quiet sacrebleu==2.6.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from sacrebleu.metrics import BLEU, CHRF, TER

references = [f"this is the right translation of the sentence number {i}" for i in range(1_000)]
hypotheses = references[:1] + ["nothing of the kind at all"] * 999
streams, by_sentence = [references], [[reference] for reference in references]
found = {}
for metric in (BLEU(), CHRF(), TER()):
    right, wrong = metric.corpus_score(hypotheses, streams), metric.corpus_score(hypotheses, by_sentence)
    found[right.name] = (right.score, wrong.score)
    print(f"{right.name}: {right.score:.2f} with one stream of 1,000; {wrong.score:.2f} with 1,000 lists of one")
counted = BLEU().corpus_score(hypotheses, by_sentence).sys_len
print(f"tokens that BLEU saw: {counted} of {sum(len(text.split()) for text in hypotheses):,}")

assert found["BLEU"][0] < 10 and found["BLEU"][1] > 99.9
assert found["chrF2"][0] < 50 and found["chrF2"][1] > 99.9
assert found["TER"][0] > 50 and found["TER"][1] < 0.1
assert counted == len(hypotheses[0].split())
PYTHON
