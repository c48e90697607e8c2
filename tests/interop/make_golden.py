"""Writes the golden files: what `transformers` computes with the checkpoints of `checkpoints.py`.

pip install torch==2.13.0 transformers==5.23.0 && python tests/interop/make_golden.py
"""

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import checkpoints
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


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    for family, (architecture, configs) in checkpoints.CASES.items():
        cases = []
        for config in configs:
            model, said, shapes = model_of(architecture, config)
            with torch.no_grad():
                logits = model(torch.from_numpy(checkpoints.TOKENS)).logits.numpy()
            cases.append({"config": said, "shapes": shapes, "logits": base64.b64encode(logits.tobytes()).decode()})
        (checkpoints.GOLDEN / f"{family}.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
