"""Cost of a training step of PRFNet, and what a frozen backbone with kept features saves. Prints ratios of one run.

python benchmarks/prfnet_step.py        demo configuration: images against kept features
"""

import argparse
import statistics
import time

import torch

from iqa_lib.losses import preference_bce
from iqa_lib.models import PRFNet


def seconds_a_step(model, inputs, repeats: int) -> float:
    """Median time of forward, backward and update on one fixed batch."""
    labels = torch.rand(16)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3, momentum=0.9)
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        preference_bce(model(*inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def demo_step(repeats: int) -> None:
    model = PRFNet(
        backbone="tf_efficientnet_lite0.in1k", se=False, weights="packaged", freeze_backbone=True, width=32
    ).train()
    images = [torch.rand(16, 3, 128, 128) for _ in range(3)]
    kept = [model.extract(image) for image in images]
    from_images = seconds_a_step(model, images, repeats)
    from_features = seconds_a_step(model, kept, repeats)
    model.backbone.freeze(False)
    whole = seconds_a_step(model, images, repeats)
    print("demo step, EfficientNet-Lite0, 16 triplets of 128x128, fp32")
    print(f"  trained backbone            {whole:.3f} s   1.00")
    print(f"  frozen backbone, images     {from_images:.3f} s   {from_images / whole:.2f}")
    print(f"  frozen backbone, features   {from_features:.3f} s   {from_features / whole:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10, help="steps to take the median of")
    arguments = parser.parse_args()
    demo_step(arguments.repeats)
