"""Cost of CFANet: seconds relative to its multiply-adds at this machine's matrix rate, bf16's drift, peak memory.

python benchmarks/topiq.py                          a 384x512 pair: fp32, folded, bf16
python benchmarks/topiq.py --compile                the folded network compiled, too: needs a C++ compiler, a minute
python benchmarks/topiq.py --busy                   the same on a machine that is doing other work
python benchmarks/topiq.py --large 3000x4000        peak memory of this process on one pair of that size, folded
python benchmarks/topiq.py --checkpoint cfanet.pth  with the authors' weights: bf16's drift on real scores

Every round times the matrix product and each variant once, and the minimum over the rounds counts. Other processes
invalidate that: --busy counts one thread's processor seconds instead. On Linux, MALLOC_TRIM_THRESHOLD_=8000000000
MALLOC_MMAP_THRESHOLD_=8000000000 in the environment keep the allocator from giving memory back to the system between
layers; TORCHINDUCTOR_FREEZING=1 lets the compiler lay out the weights once and join activations to convolutions.
Weights are random unless given: time and memory do not depend on them.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from iqa_lib.devices import best_device
from iqa_lib.models.topiq import CFANet
from iqa_lib.training import peak_memory

SIDE = 2048


def seconds(call: Callable[[], Tensor], device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def autocast(model: CFANet, *images: Tensor) -> Tensor:
    with torch.autocast(images[0].device.type, torch.bfloat16):
        return model(*images).float()


def distorted_by(reference: Tensor, strength: float) -> Tensor:
    return torch.lerp(reference, torch.rand_like(reference), strength)


def speed(model: CFANet, height: int, width: int, rounds: int, busy: bool, compiled: bool) -> None:
    device, folded = best_device(), model.folded()
    clock = time.process_time if busy else time.perf_counter
    reference = torch.rand(1, 3, height, width, device=device)
    images = reference, distorted_by(reference, 0.1)
    with FlopCounterMode(display=False) as counter:
        model(*images, return_maps=True)  # fused attention would not be counted
    operations = counter.get_total_flops()  # two for each multiply-add
    a, b = torch.rand(2, SIDE, SIDE, device=device).unbind()
    calls = {
        "matrix": lambda: a @ b,
        "fp32": lambda: model(*images),
        "fp32 folded": lambda: folded(*images),
        "bf16": lambda: autocast(model, *images),
        "bf16 folded": lambda: autocast(folded, *images),
    }
    if compiled:
        fast = torch.compile(folded)
        calls |= {"fp32 compiled": lambda: fast(*images), "bf16 compiled": lambda: autocast(fast, *images)}
        started, exact = time.perf_counter(), calls["fp32"]()
        moved = {kind: (calls[f"{kind} compiled"]() - exact).abs().max() for kind in ("fp32", "bf16")}
        print(f"compiled in {time.perf_counter() - started:.0f} s; ", end="")
        print(f"the score moves by {moved['fp32']:.1e}, in bf16 by {moved['bf16']:.1e}")
    times = [{name: seconds(call, device, clock) for name, call in calls.items()} for _ in range(rounds + 1)][1:]
    least = {name: min(row[name] for row in times) for name in calls}
    rate = 2 * SIDE**3 / least.pop("matrix")
    floor = operations / rate
    print(
        f"CFANet, a pair of {height}x{width}, {device}, {torch.get_num_threads()} threads, minimum of {rounds} rounds"
    )
    print(f"  {operations / 2e9:.2f} G multiply-adds; fp32 matrix product of {SIDE}: {rate / 1e9:.0f} GFLOP/s")
    print(f"  floor          {floor:.3f} s")
    for name, value in least.items():
        print(f"  {name:14} {value:.3f} s  {value / floor:.2f} x floor  {value / least['fp32']:.2f} x fp32")


def drift(model: CFANet, height: int, width: int, pairs: int) -> None:
    reference = torch.rand(1, 3, height // 8, width // 8, device=best_device()).repeat_interleave(8, 2)
    reference = reference.repeat_interleave(8, 3)
    exact, fast = [], []
    for i in range(pairs):
        images = reference, distorted_by(reference, (i + 1) / (2 * pairs))
        exact.append(model(*images))
        fast.append(autocast(model, *images))
    exact, fast = torch.cat(exact), torch.cat(fast)
    print(f"  bf16's drift over {pairs} strengths of noise: at most {(fast - exact).abs().max():.4f}")
    print(f"  where scores go from {exact.min():.4f} to {exact.max():.4f}, standard deviation {exact.std():.4f}")


def large(model: CFANet, height: int, width: int) -> None:
    device, model = best_device(), model.folded()
    before = peak_memory(device)
    reference = torch.rand(1, 3, height, width, device=device)
    taken = seconds(lambda: model(reference, distorted_by(reference, 0.1)), device)
    print(f"CFANet, a pair of {height}x{width} ({height * width / 1e6:.1f} Mpx), {device}, fp32, folded")
    print(f"  {taken:.1f} s; peak {peak_memory(device) / 2**30:.2f} GiB, of it {before / 2**30:.2f} before the pair")


def size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=size, default=(384, 512), metavar="HxW", help="size of the pair that is timed")
    parser.add_argument("--large", type=size, metavar="HxW", help="measure the peak memory of a pair of this size")
    parser.add_argument("--checkpoint", help="a file of the authors' weights")
    parser.add_argument("--rounds", type=int, default=10, help="rounds to take the minimum of")
    parser.add_argument("--pairs", type=int, default=8, help="pairs to measure bf16's drift on")
    parser.add_argument("--compile", action="store_true", help="time the compiled network too")
    parser.add_argument("--busy", action="store_true", help="processor seconds of one thread (CPU only)")
    options = parser.parse_args()
    if options.busy:
        torch.set_num_threads(1)
    torch.manual_seed(0)
    path = options.checkpoint
    model = CFANet.from_author_checkpoint(path) if path else CFANet(weights="random").eval()
    model.to(best_device())
    if options.large:
        large(model, *options.large)
    else:
        speed(model, *options.size, options.rounds, options.busy, options.compile)
        drift(model, *options.size, options.pairs)


if __name__ == "__main__":
    main()
