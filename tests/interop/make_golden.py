"""Writes the golden files: what `transformers` computes with the checkpoints of `checkpoints.py`.

pip install torch==2.13.0 transformers==5.24.0 && python tests/interop/make_golden.py
"""

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import torch
import transformers
from safetensors.torch import load_file


def model_of(architecture: str, config: dict[str, Any]) -> Any:
    """Their model, with the weights that follow from its tensors' names as a file has them."""
    cls = getattr(transformers, architecture)
    model = cls(cls.config_class(**config))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        said = json.loads((Path(folder) / "config.json").read_text())
        shapes = {name: list(x.shape) for name, x in load_file(Path(folder) / "model.safetensors").items()}
        checkpoints.write_checkpoint(Path(folder), said, checkpoints.weights(shapes))
        loaded = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation=config.get("attn_implementation"))
    return loaded.eval(), said, shapes


def outputs(model: Any) -> dict[str, Any]:
    """What a model of theirs gives, as `checkpoints.outputs` says."""
    name, seen = type(model).__name__, torch.from_numpy(checkpoints.ATTENDED)
    given = call(model)
    if "logits" in given:
        return {"logits": given.logits[seen] if name.endswith("MaskedLM") else given.logits}
    states = given.last_hidden_state
    pooled = {} if given.get("pooler_output") is None else {"pooled": given.pooler_output}
    if name.startswith("CLIP"):  # which norms the pooled state alone
        return pooled
    return {"states": states if hasattr(model.config, "image_size") else states[seen]} | pooled


def call(model: Any, **asked: Any) -> Any:
    """What a model of theirs hands out for the inputs of `checkpoints`, and what is asked for beside."""
    name, tensor = type(model).__name__, torch.from_numpy
    if name.endswith(("CausalLM", "LMHeadModel")):
        return model(tensor(checkpoints.TOKENS), **asked)
    if hasattr(model.config, "image_size"):
        images = tensor(
            np.ascontiguousarray(checkpoints.IMAGES[..., : model.config.num_channels].transpose(0, 3, 1, 2))
        )
        return model(images.to(model.dtype), **asked)
    seen = tensor(checkpoints.ATTENDED)
    how = {"attention_mask": seen.long()}
    if model.config.is_encoder_decoder:
        how |= {"decoder_input_ids": tensor(checkpoints.TARGET), "use_cache": False}
    if getattr(model.config, "type_vocab_size", 0) == 2:
        how |= {"token_type_ids": tensor(checkpoints.TYPES.astype(int))}
    return model(tensor(checkpoints.TEXT), **how, **asked)


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    for family, (architecture, configs) in checkpoints.CASES.items():
        cases = []
        for config in configs:
            model, said, shapes = model_of(architecture, config)
            with torch.no_grad():
                found = {name: x.numpy() for name, x in outputs(model).items()}
            written = {
                name: {"shape": x.shape, "values": base64.b64encode(x.tobytes()).decode()} for name, x in found.items()
            }
            cases.append({"config": said, "shapes": shapes, "outputs": written})
        (checkpoints.GOLDEN / f"{family}.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
