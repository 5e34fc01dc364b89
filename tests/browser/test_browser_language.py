"""JupyterLab's own menus: in English, and in Chinese where `make lab LOCALE=zh_CN` asks for it."""

import lab
import pytest
from playwright.sync_api import expect
from running import running_server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(200)]
SETTINGS = "lab/api/settings/@jupyterlab/translation-extension:plugin"


def menus(browser, server):
    """The words in the menu bar of a page that has just been opened, and those of its Settings menu."""
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


def test_menus_are_english_where_nothing_is_asked_for(browser, server):
    words, settings, _ = menus(browser, server)
    assert words[:3] == ["File", "Edit", "View"]
    assert words[6] == "Settings"
    assert "Theme" in settings


def test_menus_are_chinese_where_that_is_asked_for(browser, tmp_path):
    pytest.importorskip("jupyterlab_language_pack_zh_CN", reason="the words are not here: make setup installs them")
    with running_server(tmp_path, lab.locale_variables("zh_CN")) as server:
        words, settings, own = menus(browser, server)
    assert words[:3] == ["文件", "编辑", "查看"]
    assert words[6] == "设置"
    assert "主题" in settings
    # It is a default, and the learner's own settings hold nothing of it: what is chosen there wins.
    assert own["schema"]["properties"]["locale"]["default"] == "zh_CN"
    assert own["settings"] == {}
