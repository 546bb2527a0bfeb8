"""The web page as a person meets it: a real run, its page, and a real browser without a head.

Pictures are left in the test's own folder, or in the one that PARFOCAL_SCREENSHOTS names.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from parfocal.daemon.client import Client
from parfocal.daemon.journal import JournalError, read_journal
from parfocal.daemon.mapcolours import colour_code, coloured

pytestmark = [pytest.mark.browser, pytest.mark.slow]
CHROMIUM = os.environ.get("PARFOCAL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")  # fmt: skip  # noqa: E501
DRIVER = os.environ.get("PARFOCAL_CHROMEDRIVER") or shutil.which("chromedriver")
PATIENCE_S = 90.0
WIDE, PHONE = (1440, 900), (360, 780)
LIGHT = [
    "--set=scoring.models=[sharpness]", "--set=scoring.process=false", "--set=policy.name=focus.hold",
    "--set=microscope.interval_ms=50", "--set=microscope.simulation.size_px=64", "--set=session.max_seconds=600",
]  # fmt: skip
FOCUSING = [
    "--set=microscope.interval_ms=100", "--set=microscope.simulation.size_px=256", "--set=limits.dose.budget=50000",
    "--set=session.max_seconds=600", "--set=scoring.process=false",
]  # fmt: skip
BLURRED = [
    "--set=policy.name=focus.hold", "--set=microscope.interval_ms=500", "--set=microscope.simulation.size_px=128",
    "--set=microscope.simulation.focus_um=6", "--set=scoring.process=false", "--set=session.max_seconds=600",
    "--set=preview={restored: wiener, every_s: 0.2}",
]  # fmt: skip
Browser = Any


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a browser that talks to this computer alone."""
    if not CHROMIUM or not DRIVER:
        pytest.skip("no Chromium with its driver here (Debian: chromium, chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra: test)")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--no-proxy-server",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield made
    made.quit()


@dataclass
class Run:
    """A run with a page."""

    process: subprocess.Popen[str]
    folder: Path
    link: str
    port: int
    runtime: Path

    @property
    def page_pid(self) -> int:
        """Of the process that serves the page."""
        note = json.loads(next(self.runtime.rglob(f"page-{self.port}.json")).read_text())
        return int(note["pid"])

    def links(self) -> dict[str, str]:
        note = json.loads(next(self.runtime.rglob(f"page-{self.port}.json")).read_text())
        return {role: f"{note['address']}/#token={token}" for role, token in note["tokens"].items()}

    def states(self) -> list[str]:
        try:
            records = read_journal(self.folder / "journal.jsonl").records
        except JournalError:  # it has not begun
            return []
        return [one["new"] for one in records if one["kind"] == "state"]

    def orders(self) -> list[tuple[str, str]]:
        records = read_journal(self.folder / "journal.jsonl").records
        return [
            (one["command"], one["arguments"].get("reason", "")) for one in records if one["kind"] == "command_received"
        ]


@contextmanager
def running(tmp_path: Path, *settings: str) -> Iterator[Run]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)  # a runtime folder that others can read is not used
    command = [
        sys.executable, "-m", "parfocal.daemon.cli", "run", "--session", "s", *settings,
        f"--set=web.bind=127.0.0.1:{port}", "--set=service.bind=tcp://127.0.0.1:*",
    ]  # fmt: skip
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "OMP_NUM_THREADS": "1"}
    out = (tmp_path / "out.txt").open("w")
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True)
    try:
        said = tmp_path / "out.txt"
        until(lambda: "page http" in said.read_text() or process.poll() is not None)
        assert process.poll() is None, said.read_text()
        line = next(line for line in said.read_text().splitlines() if line.startswith("page "))
        yield Run(process, tmp_path / "s", line.split()[1], port, runtime)
    finally:
        process.kill()
        process.wait()
        out.close()


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One run for all who only look."""
    with running(tmp_path_factory.mktemp("calm"), *LIGHT) as run:
        yield run


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
    return found


class View:
    """What a person sees and does in one tab."""

    def __init__(self, browser: Browser, link: str, *, new: bool = False) -> None:
        self.browser = browser
        if new:
            browser.switch_to.new_window("tab")
        else:
            browser.get("about:blank")
        browser.get_log("browser")  # complaints about the page before are none of this one
        self.handle = browser.current_window_handle
        self.size(*WIDE)
        browser.get(link)

    def front(self) -> None:
        self.browser.switch_to.window(self.handle)

    def size(self, width: int, height: int, *, dark: bool = False, scale: float = 1) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def js(self, code: str, *arguments: Any) -> Any:
        return self.browser.execute_script(code, *arguments)

    def text(self, name: str) -> str:
        return str(self.js("return document.getElementById(arguments[0]).textContent", name))

    def shown(self, name: str) -> bool:
        return bool(self.js("return document.getElementById(arguments[0]).checkVisibility()", name))

    def has(self, name: str, *texts: str) -> None:
        until(lambda: all(text in self.text(name) for text in texts))

    def press(self, name: str) -> None:
        until(lambda: self.js("return !document.getElementById(arguments[0]).disabled", name))
        self.browser.find_element("id", name).click()

    def keys(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def frames(self) -> int:
        return int(self.text("fps-note").rpartition("of ")[2] or 0)

    def picture(self, path: Path, *, full: bool = False) -> None:
        found = self.browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": full})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def complaints(self) -> list[str]:
        return [str(one["message"]) for one in self.browser.get_log("browser") if one["level"] == "SEVERE"]


def pictures(tmp_path: Path) -> Path:
    return Path(os.environ.get("PARFOCAL_SCREENSHOTS") or tmp_path / "screenshots")


DRAWN = """
const canvas = document.getElementById(arguments[0]);
const data = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
return new Set(data).size;
"""


def test_a_run_that_finds_its_focus(browser: Browser, tmp_path: Path) -> None:
    """The page shows it, in light and dark and on a phone; then one press makes it safe."""
    with running(tmp_path, *FOCUSING) as run:
        view = View(browser, run.link)
        view.has("state-name", "running")
        assert view.shown("simulated") and "SIMULATED" in view.js("return document.title")
        assert "token" not in view.js("return location.href"), "the link's secret stays in the address line"
        until(lambda: "in focus" in view.text("defocus-note") and "not" not in view.text("defocus-note"))
        assert float(view.text("z")) == pytest.approx(20.0, abs=3.0)
        first = view.frames()
        until(lambda: view.frames() > first + 5)
        until(lambda: view.js(DRAWN, "frame") > 50)
        assert all(view.js(DRAWN, name) > 5 for name in ("chart-z", "chart-defocus", "scale"))
        assert "focus believed at" in view.js("return document.getElementById('chart-z').ariaLabel")
        assert view.js("return document.querySelectorAll('#entries li[data-kind=change]').length") >= 1
        assert "move z_um to" in view.text("entries") and "in focus" in view.text("entries")
        assert view.text("dose-name") == "dose left" and view.shown("dose-left")
        kept = pictures(tmp_path)
        view.picture(kept / "light.png")
        view.size(*WIDE, dark=True)
        view.picture(kept / "dark.png")
        view.size(*PHONE, scale=2)
        assert view.js("return document.documentElement.scrollWidth <= innerWidth"), "it can be pushed sideways"
        assert all(view.shown(name) for name in ("safe", "pause", "state", "simulated"))
        view.picture(kept / "phone.png")
        view.size(*WIDE)
        assert view.complaints() == []
        view.press("safe")
        view.has("safe-name", "Safe")
        assert run.process.wait(PATIENCE_S) == 5
        assert run.states()[-2:] == ["safe", "ended"]
        assert run.orders() == [("safe", "asked for on the web page")]
        until(lambda: view.shown("over"))
        assert view.js("return document.body.dataset.live") == "over"
        assert "ago" in view.text("veil") and view.js("return document.getElementById('safe').disabled")
        view.picture(kept / "ended.png")


@pytest.mark.timeout(300)
def test_a_restored_preview_says_that_it_is_computed(browser: Browser, tmp_path: Path) -> None:
    """Beside the live image, on demand, by keyboard; framed, labelled, and gone when it is switched off."""
    from selenium.webdriver.common.keys import Keys

    with running(tmp_path, *BLURRED) as run:
        view = View(browser, run.link)
        until(lambda: view.shown("restored-switch"))
        assert not view.shown("restored") and not view.shown("restored-label")
        view.js("document.getElementById('show-restored').focus()")
        view.keys(Keys.SPACE)
        view.has("restored-name", "COMPUTED, NOT DATA")
        view.has("restored-why", "um out of focus; method wiener")
        assert view.shown("restored") and not view.shown("frame")
        assert view.js(DRAWN, "restored") > 50
        assert "computed by wiener, no data" in view.js("return document.getElementById('restored').ariaLabel")
        border = "return parseFloat(getComputedStyle(document.getElementById('framed')).borderLeftWidth)"
        assert view.js(border) >= 5
        kept = pictures(tmp_path)
        view.picture(kept / "restored.png")
        view.size(*WIDE, dark=True)
        view.picture(kept / "restored-dark.png")
        view.size(*PHONE, scale=2)
        assert view.js("return document.documentElement.scrollWidth <= innerWidth"), "it can be pushed sideways"
        view.picture(kept / "restored-phone.png")
        view.size(*WIDE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_RUNTIME_DIR", str(run.runtime))
            with Client() as notebook:
                assert notebook.set_preview("restored", "off").text == "preview.restored: off"
        view.has("restored-why", "switched off")
        assert view.shown("frame") and not view.shown("restored")
        assert view.js(border) == 0
        assert view.complaints() == []


@pytest.mark.timeout(300)
def test_a_frame_that_is_not_restored_is_shown_as_it_is_with_the_reason(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path, *BLURRED, "--set=microscope.simulation.specimen=empty") as run:
        view = View(browser, run.link)
        until(lambda: view.shown("restored-switch"))
        view.press("show-restored")
        view.has("restored-name", "NOT RESTORED")
        view.has("restored-why", "The live image is shown as it is", "cannot be told")
        assert view.shown("frame") and not view.shown("restored")
        view.picture(pictures(tmp_path) / "not-restored.png")
        assert view.complaints() == []


def test_which_models_map_lies_over_the_image_can_be_chosen(browser: Browser, tmp_path: Path) -> None:
    both = "--set=scoring.models=[defocus, quality]"
    with running(tmp_path, *FOCUSING, both, "--set=policy.name=focus.hold", "--set=start.z_um=18") as run:
        view = View(browser, run.link)
        select = "const s = document.getElementById('map-model');"
        until(lambda: view.shown("map-model"))
        options = view.js(f"{select} return [...s.options].map((one) => one.value)")
        assert options == ["quality", "defocus"]
        label = "return document.getElementById('frame').getAttribute('aria-label')"
        until(lambda: "quality map" in view.js(label))
        view.js(f"{select} s.value = 'defocus'; s.dispatchEvent(new Event('change'))")
        until(lambda: "defocus map" in view.js(label))
        frames = view.frames()
        until(lambda: view.frames() > frames + 3)
        assert "defocus map" in view.js(label), "the choice stays, frame after frame"
        assert "defocus" in view.js("return document.getElementById('scale').getAttribute('aria-label')")
        view.browser.refresh()
        until(lambda: "defocus map" in (view.js(label) or ""))
        assert view.complaints() == []


def test_refused_squares_are_hatched_and_no_others(browser: Browser, calm: Run) -> None:
    view = View(browser, calm.link)
    code = """
    const done = arguments[0];
    import("/assets/restored.js").then(({ RestoredView }) => {
      const pixels = new Uint8Array(256 * 128).fill(90), cells = new Uint8Array(16 * 8);
      cells[17] = 1;
      const refused = { rows: 8, columns: 16, cell_px: 32, cells };
      const image = { width: 256, height: 128, factor: 2, pixels, refused, index: 1, method: "m" };
      const shown = new RestoredView();
      shown.paint(image);
      const pen = shown.canvas.getContext("2d");
      const square = (x, y) => new Set(new Uint32Array(pen.getImageData(x, y, 16, 16).data.buffer)).size;
      done([square(16, 16), square(0, 0), square(0, 16), square(48, 0)]);
    }, (error) => done(String(error)));
    """
    hatched, *others = browser.execute_async_script(code)
    assert hatched > 3 and others == [1, 1, 1]
    assert view.complaints() == []


def test_two_pages_and_a_program_agree(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path, *LIGHT) as run:
        first, second = View(browser, run.link), View(browser, run.links()["observe"], new=True)
        try:
            second.has("state-name", "running")
            second.has("facts", "2, of these 1 may only look")
            assert second.js("return ['pause', 'snap', 'safe'].every((id) => document.getElementById(id).disabled)")
            first.front()
            until(lambda: first.frames() > 3)
            browser.find_element("id", "reason").send_keys("lunch")
            first.press("pause")
            first.has("state-name", "paused")
            first.has("entries", "pause asked for by somebody on this computer, web page", "lunch")
            listed = first.text("entries")
            second.front()
            second.has("state-name", "paused")
            until(lambda: second.text("entries") == listed)
            first.front()
            first.press("snap")
            until(lambda: first.text("answer").startswith("frame "))
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("XDG_RUNTIME_DIR", str(run.runtime))
                with Client() as notebook:
                    notebook.resume()
                    first.has("state-name", "running")
                    notebook.set_limit("z_um", "upper", 50.0)
            first.has("entries", "limit z_um.upper: 100 to 50", "set_limit asked for by somebody on this computer")
            first.has("entries", "resume asked for by somebody on this computer")
            assert first.complaints() == []
            assert [name for name, _ in run.orders()] == ["pause", "snap", "resume", "set_limit"]
            assert run.orders()[0] == ("pause", "lunch")
        finally:
            second.front()
            browser.close()
            first.front()


def test_a_connection_that_drops_is_said_at_once_and_comes_back(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path, *LIGHT) as run:
        view = View(browser, run.link)
        until(lambda: view.frames() > 3)
        before = run.page_pid
        os.kill(before, signal.SIGKILL)
        view.has("state-name", "no contact")
        view.has("alerts", "lost its server")
        until(lambda: run.page_pid != before)
        view.has("state-name", "running")
        until(lambda: view.text("alerts") == "")
        at = view.frames()
        until(lambda: view.frames() > at + 3)
        until(lambda: "NOT LIVE" not in view.text("veil"))
        assert run.process.poll() is None, "the run did not notice"


def test_a_daemon_that_is_killed_does_not_look_alive(browser: Browser, tmp_path: Path) -> None:
    with running(tmp_path, *LIGHT) as run:
        view = View(browser, run.link)
        until(lambda: view.frames() > 3)
        run.process.kill()
        view.has("state-name", "no contact")
        view.has("veil", "NOT LIVE", "ago")
        assert view.js("return document.body.dataset.live") == "lost"
        assert not view.js("return document.getElementById('safe').disabled"), "it can still be tried"
        view.press("safe")
        view.has("alerts", "NOT CONFIRMED")


def test_safe_by_keyboard_takes_two_strokes(browser: Browser, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    with running(tmp_path, *LIGHT) as run:
        view = View(browser, run.link)
        until(lambda: view.frames() > 3)
        view.keys(Keys.ESCAPE)
        view.has("safe-note", "Esc once more")
        view.has("safe-note", "light off")
        assert run.orders() == []
        view.keys(Keys.ESCAPE, Keys.ESCAPE)
        assert run.process.wait(PATIENCE_S) == 5
        view.has("safe-name", "Safe")


def test_safe_works_while_nothing_is_heard(browser: Browser, tmp_path: Path) -> None:
    """The stream never opens: the page knows nothing, and still makes safe."""
    dead = "window.WebSocket = class { constructor() { this.readyState = 0; } send() {} close() {} };"
    with running(tmp_path, *LIGHT) as run:
        script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": dead})
        try:
            view = View(browser, run.link)
            until(lambda: "running" in run.states())
            view.press("safe")
            view.has("answer", "the microscope is safe")
            assert run.process.wait(PATIENCE_S) == 5
        finally:
            browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_everything_is_within_reach_of_the_keyboard_and_shows_its_focus(browser: Browser, calm: Run) -> None:
    from selenium.webdriver.common.keys import Keys

    view = View(browser, calm.link)
    until(lambda: view.frames() > 3)
    reached: dict[str, str] = {}
    for _ in range(20):
        view.keys(Keys.TAB)
        name, outline = view.js(
            "const e = document.activeElement, s = e.nextElementSibling;"
            "const of = (x) => { const c = getComputedStyle(x); return c.outlineStyle === 'none' ? 0 : parseFloat(c.outlineWidth); };"  # noqa: E501
            "return [e.id || e.name || e.className, Math.max(of(e), e.type === 'radio' && s ? of(s) : 0)];"
        )
        reached[name] = outline
    assert {"skip", "reason", "pause", "safe", "window", "feed", "entries"} <= set(reached)
    assert all(float(reached[name]) >= 2 for name in reached if name != ""), reached
    live = view.js("return [...document.querySelectorAll('[aria-live], [role=alert], [role=status]')].map((e) => e.id)")
    assert {"announce", "alerts", "answer"} <= set(live)
    unnamed = view.js(
        "return [...document.querySelectorAll('button, input, select, canvas')].filter((e) => !(e.ariaLabel || e.labels?.length"  # noqa: E501
        " || e.textContent.trim())).map((e) => e.id)"
    )
    assert unnamed == []


def test_without_the_link_nothing_is_shown(browser: Browser, calm: Run) -> None:
    for link in (f"http://127.0.0.1:{calm.port}/#token=wrong", f"http://localhost:{calm.port}/"):
        view = View(browser, link)
        view.has("state-name", "not let in")
        view.has("alerts", "parfocal web --link")
        assert view.text("z") == "\N{EN DASH}" and view.js("return document.getElementById('safe').disabled")


def test_the_colours_are_those_of_the_maps_on_disk(browser: Browser, calm: Run) -> None:
    import numpy as np

    view = View(browser, calm.link)
    rng = np.random.default_rng(1)
    parts = rng.random((200, 3))
    code = (
        "const [parts, done] = arguments; import('/assets/colours.js').then((c) => done(parts.map(([light, share, sure]) => "  # noqa: E501
        "{ const v = c.colours()[c.lightnessStep(light) + c.code(share, sure)]; return [v & 255, (v >> 8) & 255, (v >> 16) & 255]; })))"  # noqa: E501
    )
    found = np.array(browser.execute_async_script(code, parts.tolist()))
    wanted = coloured(parts[:, 0], colour_code(parts[:, 1], parts[:, 2])).astype(int)
    assert np.abs(found - wanted).max() <= 1
    assert view.complaints() == []


def test_the_browser_speaks_to_nobody_else(browser: Browser, calm: Run) -> None:
    view = View(browser, calm.link)
    until(lambda: view.frames() > 3)
    asked = view.js("return performance.getEntriesByType('resource').map((e) => new URL(e.name).origin)")
    assert set(asked) == {f"http://127.0.0.1:{calm.port}"}
    blocked = (
        "const done = arguments[0];fetch('http://127.0.0.1:1/').then(() => done('reached'), () => done('refused'))"
    )
    assert browser.execute_async_script(blocked) == "refused"
    view.complaints()  # the refusal just provoked is none of the next test
