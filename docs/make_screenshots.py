"""Screenshots of the playground's tabs in both themes and on a narrow screen, from a running service.

    python docs/make_screenshots.py --url http://127.0.0.1:8000 --out screenshots
    python docs/make_screenshots.py --only curves-light --out docs/playground.png

With `--only` one screenshot goes to the file `--out`. Needs Chromium on the path and the `dev` extra.
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

READY = {
    "curves": ("#reading", "points"),
    "draw": ("#draw-reading", "%"),
    "pictures": ("#pictures-reading", "%"),
    "policies": ("#policies-reading", "No episode yet"),
    "own": ("#own-reading", "predicted"),
}
SCREENS = {
    "light": {
        "color_scheme": "light",
        "viewport": {"width": 1280, "height": 860},
        "device_scale_factor": 1.5,
    },
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 860}, "device_scale_factor": 1.5},
    "narrow": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
}


def screenshot(browser: Browser, url: str, tab: str, screen: str, whole: bool) -> Image.Image:
    """A tab: the whole page, or what a reader sees first, down to the end of its first card."""
    context = browser.new_context(**SCREENS[screen])
    page = context.new_page()
    page.goto(f"{url}/#{tab}")
    where, words = READY[tab]
    expect(page.locator(where)).to_contain_text(words, timeout=20_000)
    if tab == "draw":
        page.click("#suggest")
        expect(page.locator("#suggestions li")).to_have_count(6)
    if tab == "pictures":
        page.click("#pictures-rank")
        expect(page.locator("#pictures-suggestions li")).to_have_count(6)
    if tab == "policies":
        page.click("#policies-round")
        expect(page.locator("#policies-reading")).to_contain_text("is chosen", timeout=20_000)
    page.evaluate("scrollTo(0, 0)")  # boxes are told from the top of what is seen
    size = page.viewport_size
    card = page.locator(f"#{tab} .card").first.bounding_box()
    clip = {"x": 0, "y": 0, "width": size["width"], "height": card["y"] + card["height"] + 20}
    shot = page.screenshot(full_page=True, **({} if whole else {"clip": clip}))
    context.close()
    return Image.open(io.BytesIO(shot)).convert("RGB")


def main() -> None:
    """Take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service")
    parser.add_argument("--out", type=Path, required=True, help="a folder, or a file with --only")
    parser.add_argument("--only", choices=[f"{tab}-{screen}" for tab in READY for screen in SCREENS])
    options = parser.parse_args()
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        if options.only:
            shot = screenshot(browser, options.url, *options.only.split("-"), whole=False)
            few = shot.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            few.save(options.out, optimize=True)
        else:
            options.out.mkdir(parents=True, exist_ok=True)
            for tab in READY:
                for screen in SCREENS:
                    screenshot(browser, options.url, tab, screen, whole=True).save(
                        options.out / f"{tab}-{screen}.png"
                    )
        browser.close()


if __name__ == "__main__":
    main()
