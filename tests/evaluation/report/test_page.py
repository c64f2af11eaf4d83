"""The page in a browser, as its readers use it."""

import shutil

import pytest

from eql_seesaw.evaluation.report import write_report
from tests.evaluation.report.shapes import Shapes

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    profile = tmp_path_factory.mktemp("profile")
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(paths[1]))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    shapes = Shapes(folder)
    first = shapes.write(folder / "first")
    second = shapes.write(folder / "second", results=shapes.results[:3])
    return f"file://{write_report(first, folder / 'report', compare=second)}"


@pytest.fixture(params=[(1280, 900)])
def page(browser, address, request):
    width, height = request.param
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    # A page that differs in its fragment only is not loaded anew.
    browser.get("about:blank")
    browser.get(address)
    page = Page(browser)
    # The charts are drawn after the page is loaded.
    page.wait(lambda: page.run("return document.querySelector('#training-images-chart svg')"))
    return page


class Page:
    def __init__(self, browser):
        self.browser = browser
        self.run = browser.execute_script

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def press(self, *keys):
        """Type on the keyboard, wherever the focus is."""
        keys = [getattr(webdriver.Keys, key, key) for key in keys]
        webdriver.ActionChains(self.browser).send_keys(*keys).perform()

    def wait(self, condition):
        WebDriverWait(self.browser, 10).until(lambda _: condition())

    def names(self):
        """Names in the table, as far as they are shown."""
        return self.run(
            "return [...document.querySelectorAll('#category-table tbody tr:not([hidden]) th')]"
            ".map((th) => th.textContent)"
        )

    def sort(self, column):
        self.find(f"[data-column='{column}'] button").send_keys(webdriver.Keys.ENTER)

    @property
    def focused(self):
        return self.browser.switch_to.active_element

    @property
    def dialog_is_open(self):
        return self.run("return document.querySelector('dialog').open")


def test_no_errors(page):
    for task in ("bbox", "segm"):
        page.run("drawPage(arguments[0])", task)
    for k in range(6):
        page.run("openCategory(arguments[0])", k)
    assert page.browser.get_log("browser") == []


def test_names_stay_text(page):
    assert page.names()[1] == "<script>alert(1)</script>"
    assert set(page.names()) == set(Shapes.names)


def test_sort_by_keyboard(page):
    page.sort("objects")
    header = page.find("[data-column='objects']")
    assert header.get_attribute("aria-sort") == "ascending"
    assert page.names()[-1] == "cat"
    page.sort("objects")
    assert header.get_attribute("aria-sort") == "descending"
    assert page.names()[0] == "cat"


@pytest.mark.parametrize("column", ["AP segm", "trainImages", "AP50", "precision", "difference"])
def test_missing_values_are_sorted_last(page, column):
    page.sort("name")
    for _ in range(2):
        page.sort(column)
        index = page.run(
            "return [...arguments[0].parentNode.cells].indexOf(arguments[0])",
            page.find(f"[data-column='{column}']"),
        )
        values = page.run(
            "return [...document.querySelector('#category-table').tBodies[0].rows]"
            ".map((row) => row.cells[arguments[0]].textContent)",
            index,
        )
        missing = [value == "n/a" for value in values]
        assert any(missing) and missing == sorted(missing)


def test_search_and_group(page):
    page.find("#search").send_keys("A QUOT")
    assert page.names() == ['a "quoted" & name']
    assert page.find("#count").text == "1 of 6 categories"
    page.run("byId('search').value = ''")
    page.find("#group-filter").send_keys("frequent")
    assert page.names() == ["cat"]


def test_open_and_close_a_category_by_keyboard(page):
    page.sort("name")
    page.find("#category-table tbody button").send_keys(webdriver.Keys.ARROW_DOWN)
    page.press("ARROW_DOWN")
    assert page.focused.text == 'a "quoted" & name'
    page.press("END", "HOME")
    name = page.focused.text
    page.press("ENTER")
    assert page.find("dialog h2").text == name
    assert page.dialog_is_open
    page.press("ESCAPE")
    assert not page.dialog_is_open
    # Closing is an event of its own.
    page.wait(lambda: page.run("return location.hash") == "")
    assert page.focused.text == name


def test_category_shows_pictures_with_objects_and_detections(page):
    page.run("openCategory(0)")
    assert page.find("dialog h2").text == "cat"
    assert "picture" in page.find("dialog svg.picture").get_attribute("class")
    count = "return document.querySelectorAll(arguments[0]).length"
    assert page.run(count, "dialog .example") == 3
    assert page.run(count, "dialog .picture image") == 6
    assert page.run(count, "dialog .picture .missed") == 1
    assert page.run(count, "dialog .picture .wrong") == 2
    label = page.find("dialog .picture:has(.wrong) text")
    assert label.text in ("✕ 0.60", "✕ 0.80")


def test_next_and_previous_follow_the_table(page):
    page.sort("name")
    names = page.names()
    page.find("#category-table tbody button").click()
    page.find("#next").click()
    assert page.find("dialog h2").text == names[1]
    assert page.find("#previous").is_enabled()
    page.find("#previous").click()
    assert not page.find("#previous").is_enabled()


def test_address_of_a_category(page, address):
    page.browser.get("about:blank")
    page.browser.get(f"{address}#category-3")
    assert page.find("dialog h2").text == "猫"


def test_back_closes_a_category(page):
    page.run("openCategory(0)")
    page.browser.back()
    page.wait(lambda: not page.dialog_is_open)


def test_chart_by_keyboard(page):
    # The fewest training images come first, and none at all is on the axis, too. A chart that is
    # drawn anew, when the page finds its width, has lost the focus.
    def shows_the_first():
        page.run("document.querySelector('#training-images-chart svg').focus()")
        return "<script>" in page.find("#training-images-status").text

    page.wait(shows_the_first)
    page.press("ARROW_RIGHT")
    assert "猫: AP 100.0, 3 training images" in page.find("#training-images-status").text
    page.press("ENTER")
    assert page.find("dialog h2").text == "猫"


def test_gains_show_group_and_training_images(page):
    rows = page.run(
        "return [...document.querySelectorAll('#gains tbody tr')].map((row) =>"
        " [row.querySelector('svg').ariaLabel, ...[...row.cells].map((cell) => cell.innerText)])"
    )
    assert rows[0] == ["rare", "猫", "3", "0.0", "100.0", "+100.0"]
    assert [row[0] for row in rows] == ["rare", "frequent"]


def test_boxes_instead_of_masks(page):
    page.find("input[value='bbox']").send_keys(webdriver.Keys.SPACE)
    assert "boxes" in page.find("#training-images-chart").text
    assert page.find("[data-task='bbox']").is_displayed()
    assert not page.find("[data-task='segm']").is_displayed()


def test_tab_key_comes_through_the_whole_page(page):
    seen = set()
    for _ in range(80):
        page.press("TAB")
        seen.add(
            page.run("return document.activeElement.closest('footer, section, nav, dialog')?.id")
        )
        if page.run("return document.activeElement === document.body"):
            break
    assert {"comparison", "training-images", "categories", "confusions"} <= seen
    assert page.run("return document.activeElement === document.body")


@pytest.mark.parametrize("page", [(360, 740), (390, 844), (1280, 900)], indirect=True)
def test_page_does_not_scroll_sideways(page):
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    assert page.run(overflow) <= 0
    page.run("openCategory(0)")
    assert page.run(overflow) <= 0
    dialog = page.find("dialog")
    assert page.run("return arguments[0].scrollWidth - arguments[0].clientWidth", dialog) <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrast(page, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    colors = {
        name: page.run(f"return getComputedStyle(document.body).getPropertyValue('--{name}')")
        for name in ("background", "raised", "text", "muted", "link", "rare", "common", "frequent")
    }
    for background in ("background", "raised"):
        for name in ("text", "muted", "link"):
            assert contrast(colors[name], colors[background]) >= 4.5
    for name in ("rare", "common", "frequent"):
        assert contrast(colors[name], colors["background"]) >= 3


def contrast(one, other):
    """By WCAG 2."""
    dark, light = sorted(luminance(color.strip()) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
