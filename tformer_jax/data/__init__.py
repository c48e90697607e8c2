"""Data without JAX: batch i is a pure function of (seed, i).

sources/ has where data come from, by name; splits.py what is held out; vocabularies.py where a tokenizer comes from;
tokenizers.py, digest.py and classes.py what is kept with a run; file_tokens.py documents that are tokens already;
ragged.py how tokens lie in memory; batches/ how they are cut into batches. A file for each kind of experiment,
`causal_lm.py` and so on, puts these together, by what `base.py` says of all: a section of the config, and its data.
"""
