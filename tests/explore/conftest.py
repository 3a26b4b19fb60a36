"""A real browser, and explorer pages of small models."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from world_models import collect, explore, train_vae

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OpenPage = Callable[..., Any]
TINY_DIGITS = (
    "--dataset mnist --vae.network mlp --vae.hidden [16] --num_frames 400 --batch_size 50 --lr_warmup_frames 0 "
    "--val_every_frames 200 --num_val_frames 60 --lr 0.01 --vae.kl_tolerance 0 --shuffle_frames 200 "
    "--vae.likelihood bernoulli --wandb.mode disabled"
)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The installed Chromium, without a window, driven by Playwright."""
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
    path = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def _pages(chromium: Any) -> Iterator[OpenPage]:
    """Opens pages. In the end, they must have loaded no other file and shown no error."""
    faults: list[str] = []
    contexts: list[Any] = []

    def opened(path: Path, width: int = 1280, height: int = 800, scheme: str = "light") -> Any:
        address = path.as_uri()
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if line.type in ("error", "warning") else None)
        page.on("request", lambda request: None if _is_own(request.url, address) else faults.append(request.url))
        page.goto(address)
        page.evaluate("explorer.ready")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def open_page(chromium: Any) -> Iterator[OpenPage]:
    """Opens a page and waits for its models. In the end, it must have loaded no other file and shown no error."""
    with _pages(chromium) as opened:
        yield opened


@pytest.fixture(scope="session")
def car(chromium: Any, car_page: Path) -> Iterator[Any]:
    """The open page of `car_page`, for tests that only ask it for numbers."""
    with _pages(chromium) as opened:
        yield opened(car_page)


def _is_own(url: str, address: str) -> bool:
    """Whether a page asked for itself, or for what its own scripts have made."""
    return url == address or url.startswith(("blob:", "data:"))


@pytest.fixture(scope="session")
def heldout_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two new episodes of CarRacing, 40 steps each."""
    out = tmp_path_factory.mktemp("heldout") / "heldout"
    collect.main(f"--out {out} --num_episodes 2 --max_steps 40 --seed 1000 --executor serial".split())
    return out


@pytest.fixture(scope="session")
def car_page(run_dir: Path, heldout_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a model of CarRacing next to a copy of it, with two new episodes."""
    folder = tmp_path_factory.mktemp("car")
    other = shutil.copytree(run_dir, folder / "<b>other")  # a name that would be bold if it became HTML
    out = folder / "explorer.html"
    explore.main(f"--vae {run_dir} --data {heldout_dir} --out {out} --compare_with [{other}]".split())
    return out


@pytest.fixture(scope="session")
def digits_run(mnist_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains a small model of digits for a moment, once for each choice of flags. Do not change the run."""

    @functools.cache
    def train(*more: str) -> Path:
        out = tmp_path_factory.mktemp("digits") / "vae"
        train_vae.main([*f"{TINY_DIGITS} --data {mnist_dir} --out {out}".split(), *more])
        return out

    return train


@pytest.fixture(scope="session")
def digits_page(digits_run: Callable[..., Path]) -> Path:
    """The page of a conditional model of digits, with three dimensions."""
    return _page_of(digits_run("--vae.num_classes", "10", "--vae.z_dim", "3"))


@pytest.fixture(scope="session")
def plane_page(digits_run: Callable[..., Path]) -> Path:
    """The page of a model of digits with two dimensions."""
    return _page_of(digits_run("--vae.z_dim", "2"))


def _page_of(run: Path) -> Path:
    out = run / "explorer.html"
    explore.main(["--vae", str(run), "--out", str(out)])
    return out
