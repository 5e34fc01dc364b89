"""JupyterLab's own menus: in English, and in Chinese with `make lab LOCALE=zh_CN`."""

import lab
import pytest
from headless import running_server
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(200)]
SETTINGS = "lab/api/settings/@jupyterlab/translation-extension:plugin"


def menus(browser, server):
    """Return the words in the menu bar, those in the Settings menu, and the translation settings."""
    page = browser.new_page()
    try:
        page.goto(f"{server.url}lab?token={server.token}&reset")
        expect(page.locator(".jp-LauncherCard").first).to_be_visible(timeout=60_000)
        bar = page.locator(".lm-MenuBar-itemLabel")
        words = bar.all_inner_texts()
        bar.nth(6).click()
        below = page.locator(".lm-Menu-itemLabel")
        expect(below.first).to_be_visible()
        return words, below.all_inner_texts(), page.request.get(f"{server.url}{SETTINGS}").json()
    finally:
        page.close()


def test_menus_are_english_by_default(browser, server):
    words, settings, _ = menus(browser, server)
    assert words[:3] == ["File", "Edit", "View"]
    assert words[6] == "Settings"
    assert "Theme" in settings


def test_menus_are_chinese_on_request(browser, tmp_path):
    pytest.importorskip("jupyterlab_language_pack_zh_CN", reason="the language pack is not installed: run make setup")
    with running_server(tmp_path, lab.locale_variables("zh_CN")) as server:
        words, settings, own = menus(browser, server)
    assert words[:3] == ["文件", "编辑", "查看"]
    assert words[6] == "设置"
    assert "主题" in settings
    # It is a default; the learner's own settings stay empty, so whatever is chosen there wins.
    assert own["schema"]["properties"]["locale"]["default"] == "zh_CN"
    assert own["settings"] == {}
