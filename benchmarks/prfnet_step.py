"""Cost of a training step of PRFNet, and what a frozen backbone with kept features saves. Prints ratios of one run.

python benchmarks/prfnet_step.py                                demo configuration: images against kept features
python benchmarks/prfnet_step.py --paper                        the paper's step on a GPU: 448 crops, batch 16
"""

import argparse
import statistics
import time

import torch

from iqa_lib.devices import best_device
from iqa_lib.losses import preference_bce
from iqa_lib.models import PRFNet
from iqa_lib.training import peak_memory


def seconds_a_step(model, inputs, precision: str, repeats: int) -> float:
    """Median time of forward, backward and update on one fixed batch."""
    device, labels = inputs_device(inputs), torch.rand(len(first(inputs)), device=inputs_device(inputs))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3, momentum=0.9)
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = model(*inputs)
        preference_bce(output.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def first(inputs):
    return inputs[0] if isinstance(inputs[0], torch.Tensor) else inputs[0][0]


def inputs_device(inputs) -> torch.device:
    return first(inputs).device


def paper_step(batch: int, crop: int, repeats: int) -> None:
    device = best_device()
    model = PRFNet(weights="random").to(device, memory_format=torch.channels_last).train()
    inputs = [torch.rand(batch, 3, crop, crop, device=device) for _ in range(3)]
    print(f"paper's coarse step, SE-Res2Net50, {batch} triplets of {crop}x{crop} on {device}")
    base = seconds_a_step(model, inputs, "fp32", repeats)
    fast = seconds_a_step(model, inputs, "bf16", repeats)
    for name, seconds in (("fp32", base), ("bf16", fast)):
        print(f"  {name}: {seconds:.3f} s a step, {3 * batch / seconds:.1f} images/s, {base / seconds:.2f} x fp32")
    hours = 7631 * 40 * fast / 3600
    print(f"  peak memory {peak_memory(device) / 2**30:.1f} GiB; 40 epochs of CLIC-T would take {hours:.0f} h in bf16")


def demo_step(repeats: int) -> None:
    model = PRFNet(
        backbone="tf_efficientnet_lite0.in1k", se=False, weights="packaged", freeze_backbone=True, width=32
    ).train()
    images = [torch.rand(16, 3, 128, 128) for _ in range(3)]
    kept = [model.extract(image) for image in images]
    from_images = seconds_a_step(model, images, "fp32", repeats)
    from_features = seconds_a_step(model, kept, "fp32", repeats)
    model.backbone.freeze(False)
    whole = seconds_a_step(model, images, "fp32", repeats)
    print("demo step, EfficientNet-Lite0, 16 triplets of 128x128, fp32")
    print(f"  trained backbone            {whole:.3f} s   1.00")
    print(f"  frozen backbone, images     {from_images:.3f} s   {from_images / whole:.2f}")
    print(f"  frozen backbone, features   {from_features:.3f} s   {from_features / whole:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paper", action="store_true", help="the paper's configuration")
    parser.add_argument("--batch", type=int, default=16, help="triplets a step, for --paper")
    parser.add_argument("--crop", type=int, default=448, help="side of the crops, for --paper")
    parser.add_argument("--repeats", type=int, default=10, help="steps to take the median of")
    arguments = parser.parse_args()
    if arguments.paper:
        paper_step(arguments.batch, arguments.crop, arguments.repeats)
    else:
        demo_step(arguments.repeats)
