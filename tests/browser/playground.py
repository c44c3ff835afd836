"""The playground as a reader meets it: JupyterLab in a headless Chromium, sliders moved, images uploaded.

`make test-browser` runs it. It prints how long each answer took, from the key press to the new image, and leaves
screenshots in `outputs/browser/`. The exit status is 1 if a view does not answer.
"""

import argparse
import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "outputs" / "browser"
RUN_ALL = "globalThis.jupyterapp.commands.execute('notebook:run-all-cells')"
SECONDS = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jupyter", default=str(ROOT / ".venv/bin/jupyter"), help="of the environment under test")
    given = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "notebooks/08_playground.ipynb", OUT)  # JupyterLab saves what it shows
    server, address = start(given.jupyter)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            seconds = visit(page, address)
            browser.close()
    finally:
        server.terminate()
        server.wait()
    for name, taken in seconds.items():
        print(f"{taken:6.2f} s  {name}")
    print(f"{max(seconds.values()):6.2f} s  the slowest answer; screenshots in {OUT.relative_to(ROOT)}")
    return 0


def chromium() -> str | None:
    """The system's Chromium; without one, the browser that `playwright install chromium` fetches."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def start(jupyter: str) -> tuple[subprocess.Popen, str]:
    """A JupyterLab server of our own, and the address of the notebook on it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    options = [
        "--no-browser",
        "--allow-root",
        "--expose-app-in-browser",
        f"--port={port}",
        f"--IdentityProvider.token={token}",
    ]
    log = (OUT / "server.log").open("w")
    server = subprocess.Popen([jupyter, "lab", *options], cwd=ROOT, stdout=log, stderr=log)
    for _ in range(120):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token={token}") as answer:
                json.load(answer)
            return server, f"http://127.0.0.1:{port}/lab/tree/outputs/browser/08_playground.ipynb?reset&token={token}"
        except OSError:
            time.sleep(0.5)
    server.terminate()
    raise SystemExit(f"JupyterLab did not start: see {OUT / 'server.log'}")


def visit(page: Page, address: str) -> dict[str, float]:
    """Run the notebook, use every view; gives the seconds that each answer took."""
    page.goto(address)
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60_000)
    page.wait_for_function(
        "globalThis.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=60_000
    )
    news = page.get_by_role("button", name="No", exact=True)
    if news.count():
        news.first.click()
    started = time.perf_counter()
    page.evaluate(f"void {RUN_ALL}")
    explore, compare, browse = (page.locator(f".jp-OutputArea-output > .widget-vbox >> nth={i}") for i in range(3))
    browse.locator("select").first.wait_for(timeout=300_000)
    page.wait_for_function(
        "globalThis.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'", timeout=120_000
    )
    print(f"{time.perf_counter() - started:6.2f} s  the whole notebook")
    return explored(page, explore) | compared(page, compare) | browsed(page, browse)


def explored(page: Page, view: Locator) -> dict[str, float]:
    view.scroll_into_view_if_needed()
    image = view.locator("img")
    seconds = moved(view, image, "level", ["ArrowLeft"] * 4 + ["End"])
    shot(view, "explore")
    seconds |= moved(view, image, "distortion", ["Home"] + ["ArrowRight"] * 24)
    for name in ("astronaut", "leaves00"):
        seconds[f"reference {name}"] = answered(image, partial(view.locator("select").select_option, name))
    own = OUT / "explore.png"
    seconds["an image of your own"] = answered(image, partial(upload, page, view, own))
    assert view.locator("select").input_value(), "the uploaded image is not among the references"
    broken = OUT / "broken.png"
    broken.write_bytes(own.read_bytes()[:2000])
    upload(page, view, broken)
    view.get_by_text("not possible").wait_for(timeout=SECONDS * 1000)
    shot(view, "refused")
    return seconds


def compared(page: Page, view: Locator) -> dict[str, float]:
    view.scroll_into_view_if_needed()
    image, seconds = view.locator("img"), {}
    for name in ("A", "B"):
        seconds[f"compare: distortion {name}"] = answered(image, partial(press, slider(view, name), "ArrowRight"))
    shot(view, "compare")
    return seconds


def browsed(page: Page, view: Locator) -> dict[str, float]:
    view.scroll_into_view_if_needed()
    image, run, figure = view.locator("img"), view.locator("select").nth(0), view.locator("select").nth(1)
    run.select_option("smoke/08_playground/default/seed0")
    figure.locator("option", has_text="choice").wait_for(state="attached")
    seconds = {"browse: another figure": answered(image, partial(figure.select_option, "training"))}
    figure.select_option("worst_mistakes")
    view.get_by_text("worst mistakes").first.wait_for()
    page.wait_for_timeout(500)
    shot(view, "browse")
    return seconds


def slider(view: Locator, name: str) -> Locator:
    """The slider with that description."""
    return view.locator(".widget-hslider", has=view.page.get_by_text(name, exact=True))


def moved(view: Locator, image: Locator, name: str, keys: list[str]) -> dict[str, float]:
    """Seconds that a slider's answers take, by what it then stands at."""
    seconds = {}
    for key in keys:
        taken = answered(image, partial(press, slider(view, name), key))
        seconds[f"{name} {slider(view, name).locator('.widget-readout').inner_text()}"] = taken
    return seconds


def press(control: Locator, key: str) -> None:
    handle = control.locator(".noUi-handle")
    handle.focus()
    handle.press(key)


def upload(page: Page, view: Locator, file: Path) -> None:
    with page.expect_file_chooser() as chosen:
        view.locator("button.jupyter-widget-file-upload, .widget-upload").first.click()
    chosen.value.set_files(file)


def answered(image: Locator, act: Callable[[], object]) -> float:
    """Seconds from an action to another image on the screen."""
    seen = [image.element_handle(), image.get_attribute("src")]
    started = time.perf_counter()
    act()
    image.page.wait_for_function(
        "([image, before]) => image.src !== before", arg=seen, polling=10, timeout=SECONDS * 1000
    )
    return time.perf_counter() - started


def shot(view: Locator, name: str) -> None:
    view.screenshot(path=OUT / f"{name}.png")


if __name__ == "__main__":
    sys.exit(main())
