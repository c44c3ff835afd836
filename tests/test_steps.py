"""What a GPU must not be made to wait for, tried on a CPU: a training step, a forward pass, a metric as a loss."""

import pytest
import torch
from test_models import CASES, build
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset

from iqa_lib import baselines, training
from iqa_lib.baselines import BASELINES
from iqa_lib.losses import mse, preference_bce
from iqa_lib.models import AHIQ, FRNR, IQATMFM, CFANet, LPIPSPlus, Preference, PRFNet
from iqa_lib.training import Task, fit

TRAINED = ["prfnet", "iqa_tmfm", "ahiq, cnn", "frnr", "cfanet", "preference"]
PAPERS = {
    "prfnet": (PRFNet, dict(weights="random"), 3),
    "iqa_tmfm": (IQATMFM, dict(weights="random", crop=64), 3),
    "ahiq": (AHIQ, dict(cnn_weights="random", vit_weights="random", width=1 / 16), 2),
    "frnr": (FRNR, dict(weights="random", backbone="resnet18.tv_in1k"), 2),
    "cfanet": (CFANet, dict(weights="random"), 2),
    "lpips_plus": (LPIPSPlus, dict(weights="random"), 2),
}


class Reads(TorchDispatchMode):
    """Counts the numbers that Python takes out of tensors: on a GPU it would wait for each."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **kwargs or {})


class Images(Dataset):
    """8-bit images and a target, as the readers give them."""

    def __init__(self, *columns: Tensor):
        self.columns = [(255 * column).byte() for column in columns]

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        return *(column[key[1]] for column in self.columns), torch.tensor(0.5)


def trained(name: str) -> tuple[nn.Module, int]:
    """A small network, and how many images it takes."""
    if name == "preference":
        return Preference(build("cfanet")), 3
    return build(name), CASES[name].images


# --- A training step waits for nothing


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_step_reads_no_number(tmp_path, name):
    model, count = trained(name)
    data = Images(*torch.rand(count, 2, 3, 64, 64))
    read = []
    for epochs in (1, 2):
        with Reads() as reads:
            task = Task(data, mse if count == 2 else preference_bce)
            fit(model, [task], folder=tmp_path / str(epochs), epochs=epochs, batch_size=2, lr=1e-4)
        read.append(reads.count)
    assert read[0] == read[1]


def test_a_number_that_is_read_is_counted():
    with Reads() as reads:
        assert torch.ones(1).item()
        assert torch.ones(1)
    assert reads.count == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", TRAINED)
def test_a_training_step_waits_for_no_gpu(tmp_path, monkeypatch, name):
    """The first step may build what it likes."""
    model, count = trained(name)
    read, steps = training._read_losses, iter(range(9))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        torch.cuda.set_sync_debug_mode("error" if next(steps) else "default")
        return mse(output, target)

    def losses(*arguments) -> float:
        torch.cuda.set_sync_debug_mode("default")
        return read(*arguments)

    monkeypatch.setattr(training, "_read_losses", losses)
    monkeypatch.setattr(training, "READ_SECONDS", 1e9)
    task = Task(Images(*torch.rand(count, 8, 3, 64, 64)), loss)
    try:
        fit(model, [task], folder=tmp_path, epochs=1, batch_size=2, lr=1e-4)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_when_losses_are_read_changes_nothing(tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(training, "READ_SECONDS", seconds)
    readings, read = [], training._read_losses
    monkeypatch.setattr(training, "_read_losses", lambda *given: readings.append(1) or read(*given))
    torch.manual_seed(0)
    task = Task(Images(*torch.rand(3, 8, 3, 64, 64)), preference_bce)
    losses = fit(build("prfnet"), [task], folder=tmp_path, epochs=2, batch_size=4, accumulate=2, lr=1e-3).history.loss
    assert len(readings) == (4 if seconds == 0 else 1)
    assert losses.tolist() == pytest.approx([0.7, 0.7, 0.7, 0.7], abs=0.2)
    assert losses.nunique() == 4


def test_a_late_reading_names_the_step_whose_loss_was_not_finite(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "READ_SECONDS", 1e9)
    calls = iter(range(99))

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return mse(output, target) * (torch.nan if next(calls) == 3 else 1)

    task = Task(Images(*torch.rand(2, 16, 3, 64, 64)), loss)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 3: lower lr"):
        fit(build("frnr, frozen branch"), [task], folder=tmp_path, epochs=1, batch_size=2, lr=1e-4, save_every=7)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["iqa_tmfm", "ahiq, cnn"])
def test_a_compiler_makes_one_graph_of_a_forward_pass_in_training(name):
    model, count = trained(name)
    compiled = torch.compile(model.train(), backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled(*torch.rand(count, 2, 3, 64, 64)).shape == (2,)


# --- Values are checked where images enter


@pytest.mark.parametrize("name", ["prfnet", "frnr", "preference"])
def test_values_are_checked_but_in_a_training_step_and_as_a_loss(name):
    model, count = trained(name)
    wrong = [torch.full((2, 3, 64, 64), 2.0) for _ in range(count)]
    with pytest.raises(ValueError, match=r"got values 2 to 2, expected \[0, 1\]"):
        model(*wrong)
    with pytest.raises(ValueError, match="expected a float tensor"):
        model.train()(*(image.byte() for image in wrong))
    assert model(*wrong).isfinite().all()
    assert model.eval()(*wrong[1:], wrong[0].requires_grad_()).isfinite().all()


# --- A pretended GPU, which has shapes and places and no numbers


def pretended(model: nn.Module) -> nn.Module:
    """The model on a GPU, within a FakeTensorMode."""
    for part in model.modules():
        for name, x in part._parameters.items():
            if x is not None:
                fake = torch.empty(x.shape, dtype=x.dtype, device="cuda")
                part._parameters[name] = nn.Parameter(fake, requires_grad=x.requires_grad)
        part._buffers |= {
            name: torch.empty(x.shape, dtype=x.dtype, device="cuda")
            for name, x in part._buffers.items()
            if x is not None
        }
    return model


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_networks_compute_where_their_images_are(name):
    """A tensor made on the CPU within a forward pass, or a number read, is an error here."""
    kind, options, count = PAPERS[name]
    model = kind(**options)
    with FakeTensorMode():
        reference, *others = (torch.rand(2, 3, 64, 64, device="cuda") for _ in range(count))
        model = pretended(model).train()
        in_training = model(reference, *others) if model.training else torch.ones(2, device="cuda")  # LPIPS+ never is
        as_loss = model.eval()(reference, *(image.requires_grad_() for image in others))
        _, maps = model(reference, *others, return_maps=True)
        with pytest.raises(DataDependentOutputException):  # the values are read
            model(reference, *(image.detach() for image in others))
    assert {x.device.type for x in (in_training, as_loss, *maps.values())} == {"cuda"}
    assert in_training.shape == as_loss.shape == (2,)
    assert as_loss.requires_grad


def test_a_tensor_left_on_the_cpu_is_found():
    class Left(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image + torch.ones(3, 1, 1)

    with FakeTensorMode(), pytest.raises(RuntimeError, match=r"two (different )?devices,? cuda:0"):
        Left()(torch.rand(2, 3, 8, 8, device="cuda"))


# --- A metric as a loss


def slopes(score, reference: Tensor, distorted: Tensor, step: float) -> tuple[float, float]:
    """The slope of a score along its gradient with respect to the distorted images: by the graph, by differences."""
    given = distorted.clone().requires_grad_()
    score(reference, given).sum().backward()
    direction = given.grad / given.grad.norm()
    with torch.no_grad():
        ahead, behind = (score(reference, distorted + sign * step * direction).sum().double() for sign in (1, -1))
    return given.grad.norm().item(), ((ahead - behind) / (2 * step)).item()


def waves(side: int) -> Tensor:
    x, y = torch.meshgrid(torch.linspace(0, 9, side), torch.linspace(0, 12, side), indexing="ij")
    return torch.stack([0.5 + 0.4 * wave for wave in (x.sin(), (x + y).cos(), y.sin())])[None]


def noisy(reference: Tensor, amount: float = 0.1) -> Tensor:
    return (reference + amount * torch.randn_like(reference)).clamp(0.01, 0.99)


@pytest.mark.parametrize("name", ["ahiq", "frnr", "frnr, frozen branch", "cfanet", "lpips_plus", "st_lpips"])
def test_a_frozen_network_has_the_slope_of_its_score(name):
    options = {"freeze_backbone": True} if name == "cfanet" else {}
    model = build(name, **options).requires_grad_(False).double()
    reference = torch.rand(2, 3, 48, 48, dtype=torch.float64)
    single = name == "ahiq"  # its score is computed in float32
    by_graph, by_differences = slopes(model, reference, noisy(reference), 1e-2 if single else 1e-6)
    assert by_differences == pytest.approx(by_graph, rel=1e-2 if single else 1e-3)
    assert by_graph > 1e-6
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("name", ["prfnet", "iqa_tmfm"])
def test_a_frozen_triplet_network_has_the_slope_of_its_logit(name):
    model = build(name).requires_grad_(False).double()
    a, b = torch.rand(2, 1, 3, 64, 64, dtype=torch.float64)
    by_graph, by_differences = slopes(lambda reference, b: model(reference, a, b), a, noisy(b), 1e-6)
    assert by_differences == pytest.approx(by_graph, rel=1e-3)


WITHOUT_A_SLOPE = {"fsim", "fsimc", "vsi"}  # piq's graph goes through sorted values and resampling
SLOPES = [name for name in BASELINES if baselines.available(name) and name not in WITHOUT_A_SLOPE]


@pytest.mark.parametrize("name", SLOPES)
def test_a_baseline_has_the_slope_of_its_score(name):
    torch.manual_seed(0)
    metric = baselines.load(name)
    reference = noisy(waves(max(metric.min_size, 48)), 0.02)
    by_graph, by_differences = slopes(metric.score, reference, noisy(reference), 3e-3)
    assert by_differences == pytest.approx(by_graph, rel=0.03)
    assert not metric.score(reference, noisy(reference)).requires_grad


METRICS = {
    "st-lpips-alex": lambda: baselines.load("st-lpips-alex").score,
    "LPIPS+": lambda: LPIPSPlus(net="st-alex", weights="packaged"),
}


@pytest.mark.parametrize("name", METRICS)
def test_fifty_steps_bring_a_noisy_image_nearer(name):
    torch.manual_seed(0)
    reference = waves(48)
    image, metric = noisy(reference).requires_grad_(), METRICS[name]()
    optimizer = torch.optim.Adam([image], lr=0.005)
    seen = []
    for _ in range(50):
        optimizer.zero_grad()
        distance = metric(reference, image).sum()
        distance.backward()
        optimizer.step()
        seen.append((distance.item(), (image - reference).square().mean().item()))
    (distance, error), (distance_then, error_then) = seen[0], seen[-1]
    assert distance_then < 0.05 * distance
    assert error_then < error


def test_flat_black_images_have_a_finite_gradient():
    image = torch.zeros(1, 3, 64, 64).requires_grad_()
    for metric in METRICS.values():
        metric()(torch.zeros(1, 3, 64, 64), image).sum().backward()
        assert image.grad.isfinite().all()
