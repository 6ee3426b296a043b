"""The page of an explanation, in a real browser: what hovering, keys and selectors change; nothing is fetched."""

import base64
import io
import json

import numpy as np
import pytest
from browser import resize, start_browser
from PIL import Image

from modeling_vilbert import Explanation
from modeling_vilbert.explanation_page import check_page_path, embedded_picture, explanation_page, write_page


WORDS = ["[CLS]", "the", "red", "circ", "##le", "[SEP]"]
BOXES = [[0, 0, 1, 1], [0.1, 0.1, 0.9, 0.9], [0.2, 0.2, 0.4, 0.4], [0.6, 0.5, 0.9, 0.95]]
HOSTILE = [
    '</script><img src=x onerror="window.bad = 1">',
    "\"'><svg onload='window.bad = 1'>{{ 7 * 7 }}<!--",
    "שלום \u202e עולם",
    "👩‍👩‍👧 &amp; \x00 \u2028 \ud800",
    "x" * 10_000,
]


def contents_of(words=WORDS, boxes=BOXES, labels=None, layers=2, heads=3, **fields) -> dict:
    """What an explanation's `to_dict` returns, of random attention."""
    random = np.random.default_rng(0)
    count, regions = len(words), len(boxes)

    def attention(queries, keys):
        values = np.exp(3 * random.normal(size=(layers, heads, queries, keys)))
        return values / values.sum(-1, keepdims=True)

    maps = {"text_to_vision": attention(count, regions), "vision_to_text": attention(regions, count)}
    special = [word in ("[CLS]", "[SEP]") for word in words]
    entropy = {name: -(values * np.log(values)).sum(-1).mean(-1) for name, values in maps.items()}
    zeros, whole = np.zeros((layers, heads)), maps["text_to_vision"][..., 0].mean(-1)
    names = [None, *(labels or ["square", "circle", None])]
    return {
        "words": list(words),
        "word_is_special": special,
        "regions": [
            {"box": list(box), "label": names[row] if row < len(names) else None, "is_global": row == 0}
            for row, box in enumerate(boxes)
        ],
        "image": embedded_picture(Image.new("RGB", (60, 40), "teal")),
        "image_size": [60, 40],
        "image_number": 1,
        "num_images": 1,
        "target": "red",
        "answers": [{"label": "red", "score": 0.75}, {"label": "blue", "score": 0.125}],
        "predicted_region": 2,
        "attention": {name: values.tolist() for name, values in maps.items()},
        "relevance": {
            "words": random.random(count).tolist(),
            "regions": random.random(regions).tolist(),
            "text_to_vision": random.random((count, regions)).tolist(),
            "vision_to_text": random.random((regions, count)).tolist(),
        },
        "heads": {
            "text_to_vision": {"entropy": entropy["text_to_vision"], "special": zeros, "global_region": whole},
            "vision_to_text": {
                "entropy": entropy["vision_to_text"],
                "special": maps["vision_to_text"][..., special].sum(-1).mean(-1),
                "global_region": zeros,
            },
        },
        **fields,
    }


@pytest.fixture(scope="module")
def browser():
    driver = start_browser()
    yield driver
    driver.quit()


class Page:
    """A page in the browser, with what the tests ask of it. A reduced motion leaves no transition to wait for."""

    def __init__(self, browser, path, contents, width=1280, theme="light", motion="reduce", raw=True):
        self.browser, self.contents = browser, contents
        write_page(contents, path)
        resize(browser, width, theme=theme, motion=motion)
        browser.get_log("browser"), browser.get_log("performance")
        browser.get(path.as_uri())
        if raw:
            for selector in ("[value=attention]", "[name=withoutSpecial]", "[name=withoutGlobal]"):
                self.click(selector)

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def hover(self, selector):
        from selenium.webdriver import ActionChains

        element = self.browser.find_element("css selector", selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.browser).move_to_element(element).perform()

    def keys(self, *keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def click(self, selector):
        self.run("document.querySelector(arguments[0]).click()", selector)

    def choose(self, selector, value):
        script = """const element = document.querySelector(arguments[0]);
            element.value = arguments[1]; element.dispatchEvent(new Event('change'))"""
        self.run(script, selector, str(value))

    def text(self, selector):
        return self.browser.find_element("css selector", selector).text

    def region_opacity(self):
        script = "return [...document.querySelectorAll('.hole')].map((hole) => +getComputedStyle(hole).fillOpacity)"
        return np.array(self.run(script))

    def word_opacity(self):
        script = """return [...document.querySelectorAll('[data-word]')]
            .map((word) => +getComputedStyle(word, '::before').opacity)"""
        return np.array(self.run(script)) / 0.6

    def table(self):
        """All weights, [words, regions]."""
        self.run("document.querySelector('#all').open = true")
        cells = "return [...document.querySelectorAll('#all td')].slice(1).map((cell) => +cell.textContent)"
        return np.array(self.run(cells)).reshape(len(self.contents["regions"]), -1).T

    def maps(self, kind="attention", direction="text_to_vision"):
        return np.array(self.contents[kind][direction])


def shine(weights, keys):
    """How strongly weights shine: the most, or three times the even share, is full."""
    return np.asarray(weights) / max(np.max(weights), 3 / keys)


@pytest.fixture
def page(browser, tmp_path):
    return Page(browser, tmp_path / "page.html", contents_of())


def test_a_word_lights_its_regions(page):
    mean = page.maps().mean((0, 1))
    for word in (2, 4):
        page.hover(f"[data-word='{word}']")
        np.testing.assert_allclose(page.region_opacity(), shine(mean[word], 4)[1:], atol=2e-3)
        best = int(mean[word].argmax())
        name = ["the whole image", "region 1 (square)", "region 2 (circle)", "region 3"][best]
        assert name in page.text("#links tbody tr") and name in page.text("#summary").translate(
            {0x2068: "", 0x2069: ""}
        )
    # Nothing under the pointer: the mean over words.
    page.hover("h1")
    np.testing.assert_allclose(page.region_opacity(), shine(mean.mean(0), 4)[1:], atol=2e-3)
    assert not page.word_opacity().any()


def test_a_region_lights_its_words(page):
    page.hover(".box[data-region='2']")
    expected = shine(page.maps().mean((0, 1))[:, 2], 4)
    np.testing.assert_allclose(page.word_opacity(), expected, atol=4e-3)
    # Of regions the one that is asked about is lit.
    assert page.region_opacity().tolist() == [0, 1, 0]
    page.hover("figcaption [data-region='0']")
    np.testing.assert_allclose(page.word_opacity(), shine(page.maps().mean((0, 1))[:, 0], 4), atol=4e-3)


def test_selectors(page):
    page.choose("#layer", 1)
    page.hover("[data-word='1']")
    np.testing.assert_allclose(page.region_opacity(), shine(page.maps()[1].mean(0)[1], 4)[1:], atol=2e-3)
    page.choose("#head", 2)
    np.testing.assert_allclose(page.region_opacity(), shine(page.maps()[1, 2, 1], 4)[1:], atol=2e-3)
    page.click("[value=vision_to_text]")
    page.hover(".box[data-region='3']")
    expected = shine(page.maps(direction="vision_to_text")[1, 2, 3], 6)
    np.testing.assert_allclose(page.word_opacity(), expected, atol=4e-3)
    assert "where the model looks, not why" in page.text("#measure")

    page.click("[value=relevance]")
    assert "red" in page.text("#measure") and not page.browser.find_element("id", "layer").is_enabled()
    relevant = page.maps("relevance", "vision_to_text")[3]
    np.testing.assert_allclose(page.word_opacity(), shine(relevant / relevant.sum(), 6), atol=4e-3)
    page.hover("h1")
    for found, name in ((page.word_opacity(), "words"), (page.region_opacity(), "regions")):
        all_of_them = np.array(page.contents["relevance"][name])
        expected = shine(all_of_them / all_of_them.sum(), len(all_of_them))
        np.testing.assert_allclose(found, expected[-len(found) :], atol=4e-3)


def test_it_begins_with_relevance_and_without_what_is_special(browser, tmp_path):
    page = Page(browser, tmp_path / "page.html", contents_of(), raw=False)
    relevance = page.contents["relevance"]
    words, regions = np.array(relevance["words"])[1:5], np.array(relevance["regions"])[1:]
    np.testing.assert_allclose(page.word_opacity(), [0, *shine(words / words.sum(), 4), 0], atol=4e-3)
    np.testing.assert_allclose(page.region_opacity(), shine(regions / regions.sum(), 3), atol=2e-3)
    assert page.run("return [...document.querySelectorAll(':checked')].map((e) => e.name || e.value)") == [
        *["direction", "measure", "", "", "withoutSpecial", "withoutGlobal", "entropy"]
    ]
    # A head is of raw attention.
    page.click("#grid button")
    assert "raw attention" in page.text("#measure") and page.run("return layer.value") == "0"


def test_leaving_out(page):
    page.click("[name=withoutGlobal]")
    page.hover("[data-word='2']")
    kept = page.maps().mean((0, 1))[2, 1:]
    np.testing.assert_allclose(page.region_opacity(), shine(kept / kept.sum(), 3), atol=2e-3)

    page.click("[name=withoutSpecial]")
    page.click("[value=vision_to_text]")
    page.hover(".box[data-region='2']")
    mean = page.maps(direction="vision_to_text").mean((0, 1))
    kept = mean[2, 1:5]
    np.testing.assert_allclose(page.word_opacity(), [0, *shine(kept / kept.sum(), 4), 0], atol=4e-3)
    # Nothing under the pointer: the mean over the regions that are kept.
    page.hover("h1")
    kept = mean[1:, 1:5]
    expected = (kept / kept.sum(-1, keepdims=True)).mean(0)
    np.testing.assert_allclose(page.word_opacity(), [0, *shine(expected, 4), 0], atol=4e-3)
    for measure in ("attention", "relevance"):
        page.click(f"[value={measure}]")
        page.hover("[data-word='0']")
        assert "left out" in page.text("#summary")
        page.hover("h1")


@pytest.mark.parametrize("direction", ["text_to_vision", "vision_to_text"])
def test_the_table_is_what_weights_returns(browser, tmp_path, direction):
    contents = contents_of()
    # A head that looks nearly always at what is left out, and otherwise unevenly.
    for name, special in (("text_to_vision", [0]), ("vision_to_text", [0, 5])):
        looks = np.array(contents["attention"][name])
        looks[1, 2] *= 1e-4
        looks[1, 2][:, special] += (1 - looks[1, 2].sum(-1, keepdims=True)) / len(special)
        contents["attention"][name] = looks.tolist()
    # Of relevance, one word and one region have nearly none.
    for name in ("text_to_vision", "vision_to_text"):
        contents["relevance"][name][2] = (np.array(contents["relevance"][name][2]) * 1e-4).tolist()
    arrays = {
        kind: {name: np.array(maps) for name, maps in contents[kind].items()} for kind in ("attention", "relevance")
    }
    explanation = Explanation(
        words=WORDS,
        word_is_special=np.array(contents["word_is_special"]),
        boxes=np.array(BOXES),
        region_labels=[None] * 4,
        region_is_global=np.array([True, False, False, False]),
        image_size=(60, 40),
        target="red",
        answers=[],
        **arrays,
    )
    page = Page(browser, tmp_path / "page.html", contents, raw=False)
    page.click(f"[value={direction}]")

    def same(**settings):
        expected = explanation.weights(direction, **settings)
        expected = expected if direction == "text_to_vision" else expected.T
        np.testing.assert_allclose(page.table(), expected, atol=3e-3)

    same(kind="relevance")
    page.click("[value=attention]")
    same(kind="attention")
    page.choose("#layer", 1)
    same(kind="attention", layer=1)
    page.choose("#head", 2)
    same(kind="attention", layer=1, head=2)
    page.click("[name=withoutSpecial]")
    page.click("[name=withoutGlobal]")
    same(kind="attention", layer=1, head=2, exclude=False)
    page.click("[value=relevance]")
    same(kind="relevance", exclude=False)


def test_one_of_several_images_says_so(browser, tmp_path):
    page = Page(browser, tmp_path / "page.html", contents_of(image_number=2, num_images=2))
    assert page.text("h1") == "Who looks at what, image 2 of 2" and page.browser.title.endswith(", image 2 of 2")


def test_a_title_of_special_words_alone():
    assert "<title>[CLS] [SEP]</title>" in explanation_page(contents_of(words=["[CLS]", "[SEP]"]))


def test_heads(page):
    cell = page.browser.find_elements("css selector", "#grid button")[4]
    entropy = page.contents["heads"]["text_to_vision"]["entropy"][1, 1]
    assert cell.get_attribute("aria-label") == f"Layer 1, head 1, entropy {entropy:.2f}"
    cell.click()
    page.hover("[data-word='3']")
    np.testing.assert_allclose(page.region_opacity(), shine(page.maps()[1, 1, 3], 4)[1:], atol=2e-3)
    assert page.browser.find_element("id", "head").get_attribute("value") == "1"
    # The map of the head, drawn: the strongest of all is opaque.
    place = int(page.maps()[1, 1].argmax())
    script = "return [...arguments[0].querySelector('canvas').getContext('2d').getImageData(0, 0, 4, 6).data]"
    assert np.array(page.run(script, cell)).reshape(-1, 4)[:, 3].argmax() == place
    shares = page.run(
        "return [...document.querySelectorAll('#grid button')].map((e) => +e.style.getPropertyValue('--share'))"
    )
    assert (
        np.argsort(shares).tolist() == np.argsort(page.contents["heads"]["text_to_vision"]["entropy"].ravel()).tolist()
    )
    # Words that are special can only be looked at by regions.
    offered = "return [...document.querySelector('#statistic').options].filter((o) => !o.disabled).map((o) => o.value)"
    assert page.run(offered) == ["entropy", "global_region"]
    page.click("[value=vision_to_text]")
    assert page.run(offered) == ["entropy", "special"]
    cell.click()
    assert page.browser.find_element("id", "head").get_attribute("value") == ""


def test_keys(page):
    from selenium.webdriver import Keys

    active = (
        "return [document.activeElement.dataset.word, document.activeElement.dataset.region, document.activeElement.id]"
    )
    mean = page.maps().mean((0, 1))
    page.keys(Keys.TAB, Keys.TAB)
    assert page.run(active)[0] == "0"
    page.keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.run(active)[0] == "2"
    np.testing.assert_allclose(page.region_opacity(), shine(mean[2], 4)[1:], atol=2e-3)
    outline = "return getComputedStyle(document.activeElement).outlineWidth"
    assert page.run(outline) == "3px"
    page.keys(Keys.END)
    assert page.run(active)[0] == "5"
    page.keys(Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ENTER)
    assert page.run("return document.querySelector('[data-word=\"4\"]').getAttribute('aria-pressed')") == "true"
    # One stop for all words, one for all regions.
    page.keys(Keys.TAB)
    assert page.run(active)[1] == "0"
    page.keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.run(active)[1] == "2"
    np.testing.assert_allclose(page.word_opacity(), shine(mean[:, 2], 4), atol=4e-3)
    assert page.run("return getComputedStyle(document.activeElement).stroke") == "rgb(255, 255, 255)"
    # What was chosen stays when the focus goes on, until Escape or another choice.
    page.keys(Keys.TAB)
    np.testing.assert_allclose(page.region_opacity(), shine(mean[4], 4)[1:], atol=2e-3)
    page.keys(Keys.ESCAPE)
    np.testing.assert_allclose(page.region_opacity(), shine(mean.mean(0), 4)[1:], atol=2e-3)
    page.run("document.querySelector('#grid button').focus()")
    page.keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.SPACE)
    assert page.run("return [layer.value, head.value]") == ["1", "1"]


def test_a_resting_pointer_leaves_the_keyboard_alone(page):
    from selenium.webdriver import Keys

    mean = page.maps().mean((0, 1))
    page.hover("[data-word='4']")
    page.keys(Keys.TAB, Keys.TAB, Keys.ARROW_RIGHT)
    np.testing.assert_allclose(page.region_opacity(), shine(mean[1], 4)[1:], atol=2e-3)
    page.hover("[data-word='3']")
    np.testing.assert_allclose(page.region_opacity(), shine(mean[3], 4)[1:], atol=2e-3)


def test_what_a_screen_reader_is_told(page):
    unnamed = """return [...document.querySelectorAll('button, select, input, rect[role]')].filter((element) =>
        !(element.textContent.trim() || element.getAttribute('aria-label') || element.labels?.[0]?.textContent.trim()))
        .map((element) => element.outerHTML)"""
    assert page.run(unnamed) == []
    assert page.run("return summary.getAttribute('aria-live')") == "polite"
    assert page.run("return document.querySelector('#image img').alt.length > 0")
    page.run("document.querySelector('.box[data-region=\"3\"]').focus()")
    assert page.text("#summary").startswith("\u2068region 3\u2069 is looked at most by “")


def test_answers_and_the_predicted_box(page, browser, tmp_path):
    assert page.text("#answers").split("\n") == ["red", "75.0 %", "blue", "12.5 %"]
    assert "region 2 (circle) is what the model chose" in page.text("figcaption").replace("\n", " ")
    box = page.browser.find_element("css selector", "#predicted .line")
    assert [float(box.get_attribute(side)) for side in ("x", "y", "width", "height")] == [12, 8, 12, 8]
    # Without any of what may be missing.
    contents = contents_of(answers=[], predicted_region=None, relevance=None, image=None, target="")
    page = Page(browser, tmp_path / "page.html", contents)
    assert not page.browser.find_elements("css selector", "#answers, #predicted, #image img")
    assert not page.browser.find_element("css selector", "[value=relevance]").is_enabled()
    page.hover(".box[data-region='3']")
    assert page.word_opacity().max() > 0 and page.browser.get_log("browser") == []


@pytest.mark.parametrize("theme, other", [("light", "dark"), ("dark", "light")])
def test_themes(browser, tmp_path, theme, other):
    page = Page(browser, tmp_path / "page.html", contents_of(), theme=theme, raw=False)
    assert page.run("return document.querySelectorAll('.left-out').length") == 3
    brightness = (
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b)"
    )
    contrast = """const numbers = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
        const light = (colour) => colour.map((x) => x / 255)
        .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
        .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
        const paper = light(numbers(getComputedStyle(document.body).backgroundColor));
        return [...document.querySelectorAll('body, h2, .note, th, #words .special, .left-out')].map((element) => {
          let opacity = 1;
          for (let one = element; one; one = one.parentElement) opacity *= getComputedStyle(one).opacity;
          const ink = light(numbers(getComputedStyle(element).color)
            .map((x, i) => opacity * x + (1 - opacity) * numbers(getComputedStyle(document.body).backgroundColor)[i]));
          return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05); })"""
    assert (page.run(brightness) > 384) == (theme == "light") and min(page.run(contrast)) > 4.5
    page.click("#theme")
    assert (page.run(brightness) > 384) == (other == "light") and min(page.run(contrast)) > 4.5
    assert page.text("#theme").lower() == theme


@pytest.mark.parametrize("motion, seconds", [("reduce", "0s"), ("no-preference", "0.12s")])
def test_motion(browser, tmp_path, motion, seconds):
    page = Page(browser, tmp_path / "page.html", contents_of(), motion=motion)
    assert page.run("return getComputedStyle(document.querySelector('.hole')).transitionDuration") == seconds


@pytest.mark.parametrize("width", [1280, 400])
def test_hostile_text_is_text(browser, tmp_path, width):
    labels = [HOSTILE[0], HOSTILE[4], HOSTILE[2]]
    answers = [{"label": text, "score": 0.2} for text in HOSTILE]
    contents = contents_of(words=HOSTILE, labels=labels, answers=answers, target=HOSTILE[0])
    page = Page(browser, tmp_path / "page.html", contents, width=width)
    shown = page.run("return [...document.querySelectorAll('[data-word] span')].map((word) => word.textContent)")
    # HTML has no NUL, UTF-8 no half of a character.
    assert shown == [text.translate({0: "", 0xD800: "?"}) for text in HOSTILE]
    assert page.run("return [...document.querySelectorAll('#answers bdi')].map((e) => e.textContent)") == shown
    for selector in ("[data-word='0']", "[data-word='4']", ".box[data-region='2']"):
        page.hover(selector)
    page.click("[value=relevance]")
    page.click("#all summary")
    assert not page.run("return window.bad") and len(page.browser.find_elements("tag name", "img")) == 1
    assert page.run("return document.querySelectorAll('[onerror], [onload]').length") == 0
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.browser.get_log("browser") == []


def test_nothing_is_fetched(page):
    page.hover("[data-word='2']")
    page.click("[value=relevance]")
    requests = [
        message["params"]["request"]["url"]
        for message in (json.loads(row["message"])["message"] for row in page.browser.get_log("performance"))
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert requests and {url.split(":")[0] for url in requests} <= {"file", "data"}
    assert sum(url.startswith("file") for url in requests) == 1
    assert page.browser.get_log("browser") == []
    # Nor could anything: neither a request nor a script of another hand.
    tried = """const done = arguments[0];
        const script = document.createElement('script');
        script.textContent = 'window.bad = 1';
        document.body.append(script);
        fetch('http://127.0.0.1:9/').then(() => done('fetched'), (error) => done(window.bad ? 'ran' : 'refused'))"""
    assert page.browser.execute_async_script(tried) == "refused"
    assert all("Content Security Policy" in row["message"] for row in page.browser.get_log("browser"))


def test_large_and_quick(browser, tmp_path):
    random = np.random.default_rng(0)
    corners = np.sort(random.random((36, 2, 2)), 1)
    noise = Image.fromarray(random.integers(0, 256, (1500, 2000, 3), dtype=np.uint8)).resize((2000, 1500))
    contents = contents_of(
        words=["[CLS]", *(f"word{i}" for i in range(22)), "[SEP]"],
        boxes=[[0, 0, 1, 1], *corners.reshape(36, 4).tolist()],
        layers=6,
        heads=8,
        image=embedded_picture(noise.reduce(4)),
        image_size=[2000, 1500],
        predicted_region=7,
    )
    Page(browser, tmp_path / "page.html", contents, motion="no-preference")
    assert (tmp_path / "page.html").stat().st_size < 1_500_000
    # All work of the page's thread from the event to the frame that shows it, in its own time: other processes that run
    # beside the test do not count.
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

    def seconds():
        metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    script = """const done = arguments[0];
        const targets = [...document.querySelectorAll('[data-word], .box')].filter((_, i) => i % 3 === 0);
        const next = (i) => {
          if (i === targets.length) return done(i);
          targets[i].dispatchEvent(new PointerEvent('pointerover', { bubbles: true }));
          requestAnimationFrame(() => requestAnimationFrame(() => next(i + 1)));
        };
        next(0);"""
    before, count = seconds(), browser.execute_async_script(script)
    assert count == 20 and (seconds() - before) / count < 0.05


def test_a_picture_is_made_smaller_and_stays_what_it_is():
    def opened(uri):
        return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))

    random = np.random.default_rng(0)
    photo = Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).resize((1500, 1200))
    drawing = Image.new("RGBA", (64, 48), (255, 0, 0, 255))
    for picture, kind, size in ((photo, "JPEG", (1000, 800)), (drawing, "PNG", (64, 48))):
        found = opened(embedded_picture(picture))
        assert (found.format, found.size) == (kind, size)
    assert photo.size == (1500, 1200)


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"regions": []}, "must not be empty"),
        ({"word_is_special": [True]}, "word_is_special"),
        ({"image": "http://example.org/a.png"}, "data URI"),
        ({"image_size": [0, float("nan")]}, "image_size"),
        ({"regions": [{"box": [0, 0, 1, 1], "label": None, "is_global": not i} for i in range(4)]}, "Regions.boxes"),
        ({"predicted_region": 4}, "one of the 4 regions"),
        ({"attention": {"text_to_vision": [], "vision_to_text": []}}, "co-attention layer"),
        ({"answers": [{"label": "a", "score": float("nan")}]}, "scores of answers"),
    ],
)
def test_contents_that_are_not_an_explanation(fields, named):
    with pytest.raises(ValueError, match=named):
        explanation_page(contents_of(**fields))


def test_maps_that_do_not_fit():
    contents = contents_of()
    contents["relevance"]["words"][2] = float("inf")
    with pytest.raises(ValueError, match="relevance words must be finite"):
        explanation_page(contents)
    contents = contents_of()
    contents["attention"]["vision_to_text"] = contents["attention"]["text_to_vision"]
    with pytest.raises(ValueError, match=r"attention vision_to_text .* \[2, 3, 4, 6\], got shape \[2, 3, 6, 4\]"):
        explanation_page(contents)
    del contents["heads"]
    with pytest.raises(ValueError, match=r"no \['heads'\]"):
        explanation_page(contents)


def test_paths_that_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        check_page_path(tmp_path)
    with pytest.raises(ValueError, match="there is no folder"):
        check_page_path(tmp_path / "none" / "page.html")
    check_page_path(tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
