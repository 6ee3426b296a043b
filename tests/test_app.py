"""The example app, in a real browser: a picture is uploaded, a question asked, and answer and maps are looked at."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
from browser import resize, start_browser
from conftest import EXAMPLES


if os.environ.get("CI") != "true":
    pytest.importorskip("gradio", reason='pip install "modeling-vilbert[app]"')


@pytest.fixture
def browser():
    driver = start_browser()
    yield driver
    driver.quit()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def address(browser, small_run, tmp_path):
    """Of the app with the main job's model. It asks for the browser first: without one, nothing is started."""
    port = free_port()
    model = small_run / "runs" / "visual_question_answering"
    command = [sys.executable, EXAMPLES / "app.py", "--model", model, "--port", str(port)]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        for _ in range(1200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_a_picture_and_a_question(browser, address):
    import easy_vqa
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    def find(selector):
        wait = WebDriverWait(browser, 60)
        return wait.until(lambda driver: next(iter(driver.find_elements("css selector", selector)), None))

    resize(browser, 1280)
    browser.get(address)
    text = find("textarea")
    find("input[type=file]").send_keys(str(easy_vqa.get_test_image_paths()[0]))
    find("img[src*='/file=']")
    text.send_keys("what color is the shape?")
    find("button.primary").click()
    frame = find("iframe[srcdoc]")

    browser.switch_to.frame(frame)
    assert len(browser.find_elements("css selector", "#answers li")) == 5 and "%" in find("#answers li").text
    assert [word.text for word in browser.find_elements("css selector", "#words span")][1:-1] == [
        *"what color is the shape ?".split()
    ]
    opacities = "return [...document.querySelectorAll('.hole')].map((hole) => getComputedStyle(hole).fillOpacity)"
    before = browser.execute_script(opacities)
    ActionChains(browser).move_to_element(find("[data-word='2']")).perform()
    WebDriverWait(browser, 10).until(lambda driver: driver.execute_script(opacities) != before)
    browser.switch_to.default_content()

    messages = [json.loads(row["message"])["message"] for row in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    outside = {url for url in urls if not url.startswith((address, "data:", "blob:", "about:"))}
    assert not outside, outside
    # Gradio itself has something to say there.
    said = [row["message"] for row in browser.get_log("browser")]
    assert [message for message in said if f"{address}/assets" not in message] == []
