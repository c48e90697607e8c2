"""Image classification with the Vision Transformer.

    python -m experiments.train --config=experiments/configs/image_classification.py:tiny --workdir=runs/vision

Presets:
  tiny      5,000 MNIST digits on two CPU cores: 98.0 % of 1,000 test digits in 2 min 21 s.
  fashion   Fashion-MNIST, from IDX files. Never run to its end: no result.
  folders   the user's images, a folder a class. Never run to its end: no result.
  imagenet  ViT-S/16 on ImageNet, tested on its validation set. Never run: for accelerators.

How tiny came about. Accuracy on 500 validation digits, 96 wide, 4 layers, shifts of up to 2 pixels, one seed:

  patch  steps  validation
  7      2,500  98.0 %
  4      1,500  96.6 %  (as long as 4,000 steps of the others)
  7      4,000  98.2 %  (chosen)
"""

from experiments.configs.sections import ADAMW, BFLOAT16, experiment, locked


def _small(data: dict, **changes) -> dict:
    """The tiny model and its recipe on some images; `changes`: of other sections."""
    model = dict(
        patch_size=7, d_model=96, num_layers=4, attention=dict(num_heads=4),
        feed_forward=dict(width=384, activation="gelu_tanh"), layer=dict(norm_position="pre"),
        positions=dict(name="learned"), pooling="mean", dropout_rate=0.0,
    )  # fmt: skip
    sections = dict(
        task=dict(max_shift=2),
        optimizer=ADAMW | dict(learning_rate=2e-3, schedule="cosine", warmup_steps=100),
        training=dict(steps=4000, evaluate_every=1000),
        checkpoint=dict(every=1000),
    )
    changed = {name: table | changes.get(name, {}) for name, table in sections.items()}
    return experiment("image_classification", data=data, model=model | changes.get("model", {}), **changed)


def _tiny() -> dict:
    return _small(
        dict(source="mnist_5k", image_size=28, num_channels=1, validation_size=500, test_size=1000, batch_size=64)
    )


def _fashion() -> dict:
    """60,000 images of clothes, as the IDX files of Debian's package dataset-fashion-mnist (or any others)."""
    data = dict(
        source="idx", path="/usr/share/datasets/fashion-mnist", image_size=28, num_channels=1, validation_size=5000,
        batch_size=128,
    )  # fmt: skip
    return _small(data, task=dict(flip=True), training=dict(steps=10_000))


def _folders() -> dict:
    """A folder for each class: path/CLASS/*.png. Set data.path; image_size is what images are resized to."""
    data = dict(
        source="folders", path="images", image_size=64, num_channels=3, validation_size=500, test_size=1000,
        batch_size=64,
    )  # fmt: skip
    return _small(data, task=dict(flip=True), model=dict(patch_size=8))


def _imagenet() -> dict:
    """ViT-S/16 from scratch, 90 epochs at batch 1,024 (Beyer et al., 2022), who validate on 1 % of training, too.

    Their RandAugment is not here: images are cropped, from 5 % of their area on, flipped and mixed.
    """
    return experiment(
        "image_classification",
        task=dict(flip=True, mixup=0.2),
        data=dict(
            source="imagenet", image_size=224, num_channels=3, validation_size=12_812, batch_size=1024, crop_area=0.05
        ),
        preset="vit_s16",
        model=dict(positions=dict(name="sinusoidal"), pooling="mean"),
        optimizer=ADAMW | dict(learning_rate=1e-3, schedule="cosine", warmup_steps=10_000, b2=0.999),
        training=dict(steps=111_500, evaluate_every=5000, log_every=100),
        checkpoint=dict(every=5000, keep=5),
        precision=BFLOAT16,
    )


get_config = locked({"tiny": _tiny, "fashion": _fashion, "folders": _folders, "imagenet": _imagenet})


def get_sweep() -> str:
    """Returns a search over regularisation."""
    regularisation = "optimizer.weight_decay=log(1e-3,1); model.dropout_rate=linear(0.01,0.3)"
    return f"quasi_random(16; optimizer.learning_rate=log(3e-4,1e-2); {regularisation})"
