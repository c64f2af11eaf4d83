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
    first = shapes.evaluate(folder / "first")
    second = shapes.evaluate(folder / "second", results=shapes.results[:3])
    return f"file://{write_report(first, folder / 'report', other=second)}"


@pytest.fixture(params=[(1280, 900)])
def page(browser, address, request):
    width, height = request.param
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    # A page that differs in its fragment only is not loaded anew.
    browser.get("about:blank")
    browser.get(address)
    return Page(browser)


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

    def header(self, title):
        return self.run(
            "return [...document.querySelectorAll('#category-table thead th')].find((header) =>"
            " header.textContent === arguments[0] && getComputedStyle(header).display !== 'none')",
            title,
        )

    def sort(self, title):
        header = self.header(title)
        before = header.get_attribute("aria-sort")
        header.find_element("tag name", "button").send_keys(webdriver.Keys.ENTER)
        self.wait(lambda: header.get_attribute("aria-sort") != before)

    def open(self, category_id):
        self.run("location.hash = arguments[0]", f"#category-{category_id}")
        self.wait(lambda: self.dialog_is_open)

    @property
    def focused(self):
        return self.browser.switch_to.active_element

    @property
    def dialog_is_open(self):
        return self.run("return document.querySelector('dialog').open")


def test_names_stay_text_and_nothing_fails(page):
    # The worst first.
    assert page.names()[1] == "<script>alert(1)</script>"
    assert set(page.names()) == set(Shapes.names)
    for value in ("bbox", "segm"):
        page.find(f"input[value='{value}']").send_keys(webdriver.Keys.SPACE)
    for category_id, name in enumerate(Shapes.names, start=1):
        page.open(category_id)
        page.wait(lambda name=name: page.find("dialog h2").text == name)
    assert page.browser.get_log("browser") == []


def test_sort_by_keyboard(page):
    page.sort("Objects")
    assert page.header("Objects").get_attribute("aria-sort") == "ascending"
    assert page.names()[-1] == "cat"
    page.sort("Objects")
    assert page.header("Objects").get_attribute("aria-sort") == "descending"
    assert page.names()[0] == "cat"
    page.sort("Group")
    assert page.names()[-1] == "cat" and page.names()[-3:-1] == ["dog", 'a "quoted" & name']


def test_missing_values_are_sorted_last(page):
    for title in ("AP masks", "Training images", "Precision", "Difference"):
        page.sort("Name")
        for sign in (1, -1):
            page.sort(title)
            values = page.run(
                "return [...document.querySelector('#category-table').tBodies[0].rows]"
                ".map((row) => row.cells[arguments[0].cellIndex].textContent)",
                page.header(title),
            )
            missing = [value == "n/a" for value in values]
            assert any(missing) and missing == sorted(missing)
            numbers = [sign * float(v.replace("\u2212", "-")) for v in values if v != "n/a"]
            assert numbers == sorted(numbers)


def test_search_and_group(page):
    page.find("#search").send_keys("A QUOT")
    assert page.names() == ['a "quoted" & name']
    assert page.find("#count").text == "1 of 6 categories"
    page.find("#search").clear()
    page.find("#group-filter").send_keys("frequent")
    assert page.names() == ["cat"]


def test_open_and_close_a_category_by_keyboard(page):
    page.sort("Name")
    page.find("#category-table tbody a").send_keys(webdriver.Keys.ARROW_DOWN)
    page.press("ARROW_DOWN")
    assert page.focused.text == 'a "quoted" & name'
    page.press("END", "HOME")
    name = page.focused.text
    page.press("ENTER")
    page.wait(lambda: page.dialog_is_open)
    assert page.find("dialog h2").text == name
    page.press("ESCAPE")
    assert not page.dialog_is_open
    # Closing is an event of its own.
    page.wait(lambda: page.run("return location.hash") == "")
    assert page.focused.text == name


def test_category_shows_numbers_and_pictures(page):
    page.open(1)
    assert page.find("dialog h2").text == "cat"
    facts = page.find("#category-facts").text.split("\n")
    assert facts[:6] == ["Group", "frequent", "Training images", "500", "Objects", "4"]
    count = "return document.querySelectorAll(arguments[0]).length"
    assert page.run(count, "dialog figure") == 3
    assert page.run(count, "dialog image[href^='data:image/webp']") == 6
    assert page.run(count, "dialog .picture .missed") == 1
    assert page.run(count, "dialog .picture .wrong") == 2


def test_next_and_previous_follow_the_table(page):
    page.sort("Name")
    names = page.names()
    # Anywhere in the row.
    page.find("#category-table tbody td").click()
    page.wait(lambda: page.dialog_is_open)
    page.find("#next").click()
    page.wait(lambda: page.find("dialog h2").text == names[1])
    page.find("#previous").click()
    page.wait(lambda: page.find("dialog h2").text == names[0])
    assert page.find("#previous").get_attribute("href") is None


def test_address_of_a_category_and_back(page, address):
    page.browser.get("about:blank")
    page.browser.get(f"{address}#category-3")
    assert page.find("dialog h2").text == "猫"
    page.press("ESCAPE")
    page.wait(lambda: not page.dialog_is_open)
    page.open(1)
    page.browser.back()
    page.wait(lambda: not page.dialog_is_open)


def test_chart_by_keyboard(page):
    # The rare classes come first, and those with the fewest training images of them.
    page.run("document.querySelector('#training-images .segm .classes').focus()")
    page.press("ARROW_RIGHT", "ARROW_RIGHT")
    status = page.find("#training-images .segm .status").text
    assert status.startswith("猫: Group rare, Training images 3, Objects 1, AP masks 100.0")
    page.press("ENTER")
    page.wait(lambda: page.dialog_is_open)
    assert page.find("dialog h2").text == "猫"


def test_chart_by_mouse(page):
    chart = page.find("#training-images .segm")
    for name in ("猫", "<script>alert(1)</script>"):
        category_id = Shapes.names.index(name) + 1
        mark = page.run(
            "return [...arguments[0].querySelectorAll('a')]"
            ".find((a) => a.getAttribute('xlink:href') === arguments[1])",
            chart,
            f"#category-{category_id}",
        )
        webdriver.ActionChains(page.browser).move_to_element(mark).perform()
        assert chart.find_element("css selector", ".status").text.startswith(f"{name}: ")
    mark.click()
    page.wait(lambda: page.dialog_is_open)


def test_boxes_instead_of_masks(page):
    page.find("input[value='bbox']").send_keys(webdriver.Keys.SPACE)
    assert "boxes" in page.find("#training-images").text
    assert not page.find(".segm").is_displayed()
    # So is what the table shows.
    page.open(1)
    assert "AP boxes, second" in page.find("#category-facts").text
    assert "AP masks, second" not in page.find("#category-facts").text


@pytest.mark.parametrize("page", [(360, 740), (390, 844), (1280, 900)], indirect=True)
def test_page_does_not_scroll_sideways(page):
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    assert page.run(overflow) <= 0
    page.open(1)
    assert page.run(overflow) <= 0
    dialog = page.find("dialog")
    assert page.run("return arguments[0].scrollWidth - arguments[0].clientWidth", dialog) <= 0
