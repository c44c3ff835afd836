"""The authors' networks by name: fetched once from a stand-in for the hub, checked, read safely, and named."""

import hashlib
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from test_topiq import author_state

import iqa_lib
from iqa_lib import weights
from iqa_lib.backbones import PACKAGED
from iqa_lib.lab import networks, records, scoring
from iqa_lib.lab.command import main
from iqa_lib.models import CFANet
from iqa_lib.weights import WeightsError

SMALL = {"backbone": PACKAGED, "dim": 16}
PIXELS = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
NOISY = np.random.default_rng(1).integers(256, size=(64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def released():
    """A file in the authors' layout, of a small network of random weights."""
    file = io.BytesIO()
    torch.save({"params": author_state(PACKAGED, 16)}, file)
    return file.getvalue()


@pytest.fixture
def hub(tmp_path, monkeypatch, released):
    """A hub on this machine that serves `content` under every name, and an empty cache; `asked` lists the requests."""
    state = SimpleNamespace(content=released, asked=[], cache=tmp_path / "hf")

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            state.asked.append((self.command, self.path))
            self.send_response(200)
            headers = {"ETag": f'"{hashlib.sha256(state.content).hexdigest()}"', "X-Repo-Commit": "0" * 40}
            for name, value in (headers | {"Content-Length": str(len(state.content))}).items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(state.content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(state.cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    state.name = f"cfanet_fr_kadid_res50-{hashlib.sha256(released).hexdigest()[:8]}.pth"
    for network in ("topiq-fr", "topiq-fr-pipal"):
        monkeypatch.setitem(weights.AUTHORS, network, (state.name, weights.AUTHORS[network][1]))
    yield state
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["topiq-fr", "topiq-fr-pipal"])
def test_a_network_is_fetched_once_with_its_licence_and_scores(hub, tmp_path, capsys, name):
    assert not networks.available().here[name]
    found = iqa_lib.score(PIXELS, NOISY, name, **SMALL)
    told = capsys.readouterr().err
    assert f"fetching {hub.name} from the hub's chaofengc/IQA-PyTorch-Weights" in told
    assert "licence PolyForm Noncommercial 1.0.0" in told
    fetched = [path for command, path in hub.asked if command == "GET" and "/resolve/" in path]
    assert fetched == [f"/chaofengc/IQA-PyTorch-Weights/resolve/main/{hub.name}"]
    assert f"the authors' {hub.name} (sha256 {hub.name[-12:-4]}" in found.meaning
    assert found.meaning.endswith("licence PolyForm Noncommercial 1.0.0")
    hub.asked.clear()
    assert float(iqa_lib.score(PIXELS, NOISY, name, **SMALL)) == float(found)
    assert (hub.asked, capsys.readouterr().err) == ([], "")
    assert networks.available().here[name]
    (tmp_path / hub.name).write_bytes(hub.content)
    model = CFANet.from_author_checkpoint(tmp_path / hub.name, **SMALL)
    pair = (torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (PIXELS, NOISY))
    with torch.inference_mode():
        assert found == pytest.approx(model(*pair).item(), abs=1e-4)


@pytest.mark.parametrize("change", [lambda whole: whole[: len(whole) // 2], lambda whole: whole + b"x"])
def test_a_cut_file_and_one_of_another_hash_are_refused(hub, change):
    hub.content = change(hub.content)
    with pytest.raises(WeightsError, match=r"(?s)is damaged \(its SHA-256.*: delete .*, and it is fetched") as caught:
        scoring.load("topiq-fr", **SMALL)
    assert "checkpoint=<file>" in str(caught.value)


def test_a_damaged_file_is_fetched_again_once_it_is_deleted(hub, released):
    hub.content = released[:-9]
    with pytest.raises(WeightsError) as caught:
        scoring.load("topiq-fr", **SMALL)
    (hub.cache / str(caught.value).partition(": delete ")[2].partition(",")[0]).unlink()
    hub.content = released
    assert scoring.load("topiq-fr", **SMALL).name == "topiq-fr"


def test_without_a_network_the_options_are_told(hub, monkeypatch, capsys):
    monkeypatch.setattr(records, "finished", lambda **_: iter(()))
    monkeypatch.setattr(weights, "urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    for name, (file, licence) in weights.AUTHORS.items():
        with pytest.raises(WeightsError, match=r"failed \(no network\)") as caught:
            scoring.load(name)
        assert f"the authors' {file} ({licence}), from wherever you have it: checkpoint=<file>" in str(caught.value)
        assert "papermill notebooks/0" in str(caught.value)
    assert main(["r.png", "d.png", "--metric", "topiq-fr"]) == 1
    told = capsys.readouterr().err
    assert "--checkpoint <file>" in told
    assert "checkpoint=" not in told
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        scoring.load("ahiq")
    assert not hub.asked


def test_a_file_that_could_run_code_is_not_read(hub, monkeypatch):
    hub.content = b"cos\nsystem\n(S'false'\ntR."
    name = f"cfanet_fr_kadid_res50-{hashlib.sha256(hub.content).hexdigest()[:8]}.pth"
    monkeypatch.setitem(weights.AUTHORS, "topiq-fr", (name, ""))
    with pytest.raises(WeightsError, match=r"cannot be read|could run code"):
        scoring.load("topiq-fr", **SMALL)


def test_each_file_names_its_hash_and_the_names_are_those_that_can_be_asked_for():
    assert list(weights.AUTHORS) == ["topiq-fr", "topiq-fr-pipal", "ahiq"]
    assert [weights._prefix(file) for file, _ in weights.AUTHORS.values()] == ["2c4cc61d", "69bbe5ba", "da3ea303"]
    assert all(networks.NETWORKS[name].authors for name in weights.AUTHORS)
