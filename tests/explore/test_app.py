"""What a reader of the page sees and touches, in a real browser. `open_page` fails if the page shows an error or loads
another file."""

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

OpenPage = Callable[..., Any]


class Reader:
    """The page, as its reader sees it."""

    def __init__(self, page: Any):
        self.page = page
        page.wait_for_selector("body.is-ready")

    def show(self, panel: str) -> None:
        """Open a panel."""
        self.page.get_by_role("tab", name=panel).click()

    def picture(self, canvas: str) -> str:
        """What a canvas shows when everything has been computed: the data URL of a PNG."""
        self.wait("Explorer.isAtRest()")
        return self.page.eval_on_selector(canvas, "canvas => canvas.toDataURL()")

    def wait(self, condition: str) -> None:
        """Wait until a condition is true. Playwright's own way needs `eval`, which the page does not allow."""
        self.page.evaluate(f"async () => {{ while (!({condition})) await new Promise(requestAnimationFrame); }}")

    def click(self, selector: str, x: float, y: float) -> None:
        """Click a place of an element, given as shares of its width and height."""
        self.page.mouse.click(*self.place(selector, x, y))

    def place(self, selector: str, x: float, y: float) -> tuple[float, float]:
        """A place of an element on the screen, given as shares of its width and height."""
        box = self.page.locator(selector).bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def text(self, selector: str) -> str:
        """The text that an element shows."""
        return self.page.locator(selector).inner_text()

    def sliders(self) -> list[str]:
        """The values of z that the page shows, in the order of the dimensions."""
        return self.page.evaluate(
            "() => [...document.querySelectorAll('.slider')]"
            ".sort((a, b) => a.querySelector('input').id.slice(1) - b.querySelector('input').id.slice(1))"
            ".map((row) => row.querySelector('output').textContent)"
        )


RESET = """() => {
    Explorer.player.seek(0);
    Explorer.zero();
    document.getElementById("help").close();
    document.getElementById("map-decode").click();
    Explorer.showTab("sliders");
}"""


@pytest.fixture
def reader(car: Any) -> Reader:
    """Reads the page of a model of CarRacing and a second model, which starts anew."""
    found = Reader(car)
    car.evaluate(RESET)
    return found


@pytest.fixture(scope="session")
def trained_page(car_page: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of CarRacing as if its model had learnt something: one dimension is in use, and it tells the speed."""
    head, found, rest = re.split(r'(?<=id="explorer-contents">)(.*?)(?=</script>)', car_page.read_text(), maxsplit=1)
    contents = json.loads(found)
    model = contents["models"][0]
    unit = [float(dim == 0) for dim in range(model["z_dim"])]
    model["used"] = [dim == 0 for dim in range(model["z_dim"])]
    speed = {"name": "speed", "unit": "m/s", "vector": unit, "weights": unit, "intercept": 5.0, "mean": 5.0}
    contents["directions"] = [{**speed, "std": 2.0, "r2": 0.9}]
    out = tmp_path_factory.mktemp("trained") / "explorer.html"
    out.write_text(head + json.dumps(contents).replace("<", r"\u003c") + rest)
    return out


@pytest.fixture
def digits(open_page: OpenPage, digits_page: Path) -> Reader:
    """The page of a conditional model of digits."""
    return Reader(open_page(digits_page))


def test_a_slider_changes_the_frame_and_undo_brings_it_back(reader: Reader):
    first = reader.picture("#decoded")
    reader.page.locator(".slider input").first.focus()
    for _ in range(20):
        reader.page.keyboard.press("ArrowRight")
    moved = reader.picture("#decoded")
    assert moved != first
    reader.page.keyboard.press("z")
    assert reader.picture("#decoded") == first
    reader.page.keyboard.press("y")
    assert reader.picture("#decoded") == moved


def test_zero_is_the_mean_and_a_sample_is_not(reader: Reader):
    first = reader.picture("#decoded")
    reader.page.get_by_role("button", name="Sample").click()
    assert reader.picture("#decoded") != first
    assert set(reader.sliders()) != {"0.00"}
    reader.page.get_by_role("button", name="Zero").click()
    assert reader.picture("#decoded") == first
    assert set(reader.sliders()) == {"0.00"}


def test_playing_starts_at_the_first_frame_if_the_browser_gives_an_earlier_time(reader: Reader):
    """A browser gives the time at which it began to draw, which may lie before the click."""
    reader.show("Episode")
    reader.page.evaluate("""() => {
        window.shown = [];
        Explorer.player.seek(0);
        Explorer.player.onFrame((index) => window.shown.push(index));
        const ask = window.requestAnimationFrame;
        window.requestAnimationFrame = (draw) => ask(() => draw(performance.now() - 100));
        Explorer.player.play();
        window.requestAnimationFrame = ask;
    }""")
    reader.wait("window.shown.length > 3")
    reader.page.evaluate("Explorer.player.pause()")
    assert min(reader.page.evaluate("window.shown")) >= 0


def test_an_episode_plays_and_is_steered_by_the_keyboard(reader: Reader):
    reader.show("Episode")
    first = [
        reader.picture("#episode-frame"),
        reader.picture("#episode-decoded"),
        reader.picture("#episode-difference"),
    ]
    reader.page.keyboard.press("Space")
    reader.wait("Explorer.player.index > 5")
    reader.page.keyboard.press("Space")
    assert not reader.page.evaluate("Explorer.player.isPlaying")
    now = [reader.picture("#episode-frame"), reader.picture("#episode-decoded"), reader.picture("#episode-difference")]
    assert all(a != b for a, b in zip(first, now, strict=True))
    reader.page.evaluate("document.activeElement.blur()")
    reader.page.keyboard.press("End")
    last = reader.page.evaluate("Explorer.contents.episodes[0].num_frames") - 1
    assert reader.text("#panel-episode .counter") == f"{last} / {last}"
    reader.page.keyboard.press("ArrowLeft")
    assert reader.text("#panel-episode .counter") == f"{last - 1} / {last}"


def test_a_click_on_a_frame_puts_its_mu_on_the_sliders(reader: Reader):
    reader.show("Episode")
    reader.page.evaluate("Explorer.player.seek(30)")
    reader.page.get_by_role("button", name="Frame: put").click()
    assert reader.text("#origin").startswith("Frame 30 of seed")
    assert reader.picture("#decoded") == reader.picture("#episode-decoded")


def test_the_sliders_follow_the_episode_if_they_are_asked_to(reader: Reader):
    reader.show("Episode")
    before = reader.sliders()
    reader.page.evaluate("Explorer.player.seek(10)")
    assert reader.sliders() == before
    reader.page.get_by_role("button", name="Sliders follow").click()
    reader.page.evaluate("Explorer.player.seek(20)")
    assert reader.sliders() != before
    assert reader.text("#origin").startswith("Frame 20 of seed")


def test_a_click_on_the_map_decodes_and_a_drag_decodes_along_the_way(reader: Reader):
    reader.show("Map")
    first = reader.picture("#decoded")
    reader.click("#map-canvas", 0.9, 0.9)
    clicked = reader.picture("#decoded")
    reader.page.mouse.move(*reader.place("#map-canvas", 0.5, 0.5))
    reader.page.mouse.down()
    reader.page.mouse.move(*reader.place("#map-canvas", 0.2, 0.1), steps=5)
    dragged = reader.picture("#decoded")
    reader.page.mouse.up()
    assert len({first, clicked, dragged}) == 3
    reader.page.keyboard.press("z")
    assert reader.picture("#decoded") == clicked


def test_the_map_shows_two_chosen_dimensions_in_other_colours(reader: Reader):
    reader.show("Map")
    first = reader.picture("#map-canvas")
    reader.page.get_by_label("Plane").select_option("two dimensions")
    other = reader.picture("#map-canvas")
    assert "in standard deviations" in reader.text("#map-x-name")
    reader.page.locator("#map-colour").select_option("frame number")
    assert len({first, other, reader.picture("#map-canvas")}) == 3


def test_two_points_of_the_map_are_the_ends_of_a_way(reader: Reader):
    reader.show("Map")
    reader.page.get_by_role("button", name="Interpolate").click()
    reader.click("#map-canvas", 0.1, 0.1)
    start = reader.picture("#decoded")
    reader.click("#map-canvas", 0.9, 0.8)
    assert reader.picture("#decoded") == start
    reader.page.get_by_label("Way from A to B", exact=True).focus()
    reader.page.keyboard.press("End")
    assert reader.picture("#decoded") != start
    assert reader.text("#origin") == "100 % of the way from A to B"


def test_painting_changes_the_reconstruction(reader: Reader):
    reader.show("Draw")
    first = reader.picture("#paint-seen")
    assert reader.text("#kept").startswith("Nothing is painted")
    reader.page.mouse.move(*reader.place("#paint-canvas", 0.2, 0.2))
    reader.page.mouse.down()
    reader.page.mouse.move(*reader.place("#paint-canvas", 0.8, 0.6), steps=4)
    reader.page.mouse.up()
    assert reader.picture("#paint-seen") != first
    assert "% of what you painted" in reader.text("#kept")
    reader.page.get_by_role("button", name="Undo the last stroke").click()
    assert reader.picture("#paint-seen") == first


def _reds(picture: str) -> int:
    """The number of red pixels where CarRacing's car is."""
    frame = np.array(Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))).convert("RGB"), int)
    place = frame[44:61, 26:38]
    return int(((place[..., 0] > 100) & (place[..., 0] > 1.5 * place[..., 1])).sum())


def test_the_car_is_taken_off_the_road(reader: Reader):
    reader.page.evaluate("Explorer.player.seek(40)")
    reader.show("Draw")
    assert _reds(reader.picture("#paint-canvas")) > 0
    reader.page.get_by_role("button", name="Car off").click()
    assert _reds(reader.picture("#paint-canvas")) == 0


def test_a_direction_moves_z_until_the_column_has_the_chosen_value(open_page: OpenPage, trained_page: Path):
    reader = Reader(open_page(trained_page))
    before = reader.sliders()
    reader.show("Directions")
    reader.page.get_by_label("speed in m/s").focus()
    reader.page.keyboard.press("End")
    assert reader.text(".direction output") == "11.0 m/s"
    after = reader.sliders()
    assert [dim for dim, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [0]


def test_dimensions_that_are_not_in_use_are_folded_away(open_page: OpenPage, trained_page: Path):
    page = open_page(trained_page)
    assert page.locator("#sliders-used .slider").count() == 1
    assert not page.locator("#sliders-unused").is_visible()
    page.locator("#unused-count").click()
    assert page.locator("#sliders-unused .slider").count() == 31
    assert page.locator("#sliders-unused").is_visible()


def test_models_are_shown_side_by_side_and_a_name_is_text(reader: Reader):
    reader.show("Compare")
    names = reader.page.locator("#columns h3").all_inner_texts()
    assert names[1:] == reader.page.evaluate("Explorer.contents.models.map(({ name }) => name)")
    assert reader.page.locator("#columns h3 *").count() == 0
    reader.picture(".pair canvas")
    assert all(float(error) > 0 for error in reader.page.locator(".error b").all_inner_texts())


def test_panels_and_colours_are_chosen_by_keyboard(reader: Reader):
    reader.page.get_by_role("tab", name="Sliders").focus()
    reader.page.keyboard.press("ArrowRight")
    assert reader.page.locator("#panel-episode").is_visible()
    assert not reader.page.locator("#panel-sliders").is_visible()
    reader.page.keyboard.press("3")
    assert reader.page.locator("#panel-map").is_visible()
    colour = "getComputedStyle(document.body).backgroundColor"
    light = reader.page.evaluate(colour)
    reader.page.keyboard.press("t")
    reader.page.keyboard.press("t")
    assert reader.page.evaluate(colour) != light
    reader.page.keyboard.press("?")
    assert reader.page.get_by_role("dialog").is_visible()


CONTROLS = """() => [...document.querySelectorAll("button, input, select, [role=application], [role=img]")]
    .filter((control) => control.offsetParent)
    .filter((control) => {
        const labels = [...(control.labels || [])].map((label) => label.textContent).join("");
        return !(control.getAttribute("aria-label") || labels || control.textContent).trim();
    })
    .map((control) => control.outerHTML)"""
"""The shown controls that a screen reader has no name for."""


@pytest.mark.parametrize("width", [1280, 390])
def test_every_panel_fits_the_window_and_names_its_controls(open_page: OpenPage, car_page: Path, width: int):
    page = Reader(open_page(car_page, width=width, height=800, scheme="dark")).page
    for name in page.evaluate(
        "[...document.querySelectorAll('[role=tab]:not([hidden])')].map((tab) => tab.dataset.panel)"
    ):
        page.evaluate("name => Explorer.showTab(name)", name)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.evaluate(CONTROLS) == [], name


def test_a_conditional_model_is_asked_for_digits(digits: Reader):
    first = digits.picture("#decoded")
    digits.page.locator("#labels").get_by_role("button", name="7").click()
    seven = digits.picture("#decoded")
    digits.show("Digits")
    digits.page.locator("#each button").first.click()
    assert digits.picture("#decoded") == first != seven


def test_a_digit_is_drawn_and_seen(digits: Reader):
    digits.show("Draw")
    digits.picture("#paint-seen")
    digits.page.get_by_role("button", name="Blank").click()
    blank = digits.picture("#paint-seen")
    digits.page.locator("#paint-canvas").focus()
    digits.page.keyboard.press("ArrowUp")
    digits.page.keyboard.press("Space")
    assert digits.picture("#paint-seen") != blank
    digits.page.get_by_role("button", name="Put on the sliders").click()
    assert digits.picture("#decoded") == digits.picture("#paint-seen")


def test_the_plane_of_two_dimensions_sets_z(open_page: OpenPage, plane_page: Path):
    plane = Reader(open_page(plane_page))
    plane.show("Digits")
    before = plane.picture("#decoded")
    plane.click("#plane", 0.9, 0.1)
    assert plane.picture("#decoded") != before
    assert all(float(value) > 1 for value in plane.sliders())
    assert plane.page.get_by_role("tab", name="Images").is_visible()
    assert not plane.page.get_by_role("tab", name="Directions").is_visible()
