"""The jobs page in a browser, on real processes: reading, acting, and hostile data."""

import json
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.services.children import Children, children
from pipeline.services.environment import Services
from tests.conftest import MakeEnvironment
from tests.processes import UNSWEPT_BRIDGE, wait_until
from tests.webdriver import Browser, browsing

PIPELINE = Path(sysconfig.get_path("scripts")) / "pipeline"
AXE = Path(__file__).parents[1] / "data" / "axe-core-4.14.1.min.js"
TOKEN = "only-for-tests"

#: An order is priced, unless it needs a file that is not there; then each of its lines is packed.
SHOP = """\
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline import stage


@stage(consumes="order-placed", emits="order-priced", retries=0)
def price(order: dict[str, str]) -> dict[str, str]:
    if "needs" in order and not Path(order["needs"]).exists():
        raise LookupError(f"{order['needs']} is not there, for {order['name']}")
    return order


@stage(consumes="order-priced", emits="order-packed")
def pack(line: str) -> int:
    if line == "slow":
        time.sleep(3)
    return len(line)


@pack.split
def lines(order: dict[str, str]) -> Iterator[str]:
    yield from order["name"].split()


@pack.gather
def total(order: dict[str, str], lengths: Iterable[int]) -> int:
    return sum(lengths)
"""

#: A page that lets this be anything but text has run it.
HOSTILE = '<img src=x onerror="window.owned=1"><script>window.owned=1</script>\'"&{{7*7}}'

#: Every page that needs no id.
PAGES = ("/", "/jobs", "/jobs?state=failed", "/jobs?text=nothing", "/dead-letters", "/submit")


@dataclass(frozen=True)
class Shop:
    """A service with its processes, and a browser on its page."""

    url: str
    browser: Browser
    environment: dict[str, str]
    folder: Path

    def open(self, path: str) -> None:
        self.browser.open(self.url + path)

    def order(self, name: str, entity: str | None = None, needs: Path | None = None) -> str:
        """Submit a job with the command; its id."""
        data = {"name": name} | ({"needs": str(needs)} if needs else {})
        entities = ["--entity", entity] if entity else []
        done = subprocess.run(
            [PIPELINE, "submit", "price", "--data", json.dumps(data), *entities],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.strip()


def start(started: Children, folder: Path, environment: dict[str, str], name: str, *command: str) -> Path:
    """Start a process; its log."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        started.start(command, environment=environment, output=output, folder=folder)
    return log


def start_page(started: Children, folder: Path, environment: dict[str, str], name: str = "web") -> str:
    """Start a jobs page on a free port; its address."""
    log = start(started, folder, environment, name, str(PIPELINE), "web", "--port", "0")
    wait_until(lambda: "Serving http" in log.read_text(), f"{name} listens")
    return log.read_text().split("Serving ")[1].split()[0]


@pytest.fixture(scope="module")
def shop(
    local_services: Services, make_environment: MakeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """Bridge, worker and page of one service; a browser that has the password."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop.py").write_text(SHOP)
    environment = make_environment(local_services, TASK_MODULES="shop", WEB_TOKEN=TOKEN)
    celery = (sys.executable, "-m", "celery", "-A", "pipeline")
    with children() as started, browsing(folder) as browser:
        subprocess.run([PIPELINE, "provision"], cwd=folder, env=environment, check=True, timeout=60)
        start(started, folder, environment, "bridge", *UNSWEPT_BRIDGE)
        start(started, folder, environment, "worker", *celery, "worker", "--concurrency", "2")
        url = start_page(started, folder, environment)
        browser.sign_in("ada", TOKEN)
        yield Shop(url, browser, environment, folder)


@pytest.fixture
def browser(shop: Shop) -> Iterator[Browser]:
    """The browser; nothing may be said on its console."""
    shop.browser.resize(1280, 900)
    shop.browser.prefer("light")
    shop.browser.complaints()
    yield shop.browser
    assert shop.browser.complaints() == []


def test_a_job_submitted_in_the_browser_completes_live(shop: Shop, browser: Browser) -> None:
    """The form leads to the job, which is seen to complete without a reload, with its stages and parts."""
    shop.open("/submit")
    assert '"type": "object"' in browser.text("details[open] pre")
    browser.type("textarea", '{"name": "tea milk sugar"}')
    browser.type("[name=entity_id]", "order-7")
    browser.click("main button[type=submit]")
    browser.wait_for("Submitted")
    browser.run("window.same = true")
    browser.wait_for("complete", "#job .head")
    assert browser.run("return window.same"), "the page was loaded anew"
    assert "3 of 3 done" in browser.text(".timeline")
    browser.click("#parts-pack")
    browser.wait_for("3 parts")
    assert browser.run("return document.querySelectorAll('tbody tr').length") == 3
    shop.open("/jobs?entity=order-7")
    browser.wait_for("complete", "#jobs tbody")
    shop.open("/")
    browser.wait_for("live", "#connection")
    browser.wait_for("online")
    assert "price" in browser.text(".flow")


def test_a_failed_job_is_found_read_redriven_and_completes(
    shop: Shop, browser: Browser, tmp_path: Path
) -> None:
    """From the list to the reason and the data that caused it, and with a button to the job's end."""
    needed = tmp_path / "paper"
    job_id = shop.order("a book", needs=needed)
    wait_until(lambda: _has_failed(shop, job_id), "the job fails")
    shop.open("/jobs?state=failed")
    browser.click(f"#job-{job_id}")
    browser.wait_for("Failures")
    address = browser.url
    # The list shows the beginning of an id: it is enough as an address.
    shop.open(f"/jobs/{job_id[:8]}")
    assert browser.url == address
    shown = browser.text("#job")
    assert "LookupError" in shown
    assert f"{needed} is not there, for a book" in shown
    assert "Traceback (most recent call last)" in shown
    assert '"name": "a book"' in shown
    needed.touch()
    browser.click("#act-redrive")
    browser.click("details[open] .sheet button")
    browser.wait_for("1 redriven")
    browser.wait_for("complete", "#job .head")


def test_a_job_is_replayed_and_another_cancelled(shop: Shop, browser: Browser) -> None:
    """A replay that runs what is done leads to the new job; a job that runs is cancelled, and says so."""
    shop.open(f"/jobs/{shop.order('two words')}")
    browser.wait_for("complete", "#job .head")
    address = browser.url
    browser.click("#act-replay")
    browser.click("details[open] [name=again]")
    browser.click("details[open] .sheet button")
    browser.wait_for("was sent again")
    assert browser.url.split("?")[0] != address
    browser.wait_for("complete", "#job .head")
    shop.open(f"/jobs/{shop.order('slow ' * 20)}")
    browser.click("#act-cancel")
    browser.click("details[open] .sheet button")
    browser.wait_for("cancelled", "#job .head .tag")
    assert browser.run("return document.getElementById('act-cancel')") is None


def test_dead_letters_are_chosen_and_redriven_and_the_rest_is_purged_by_name(
    shop: Shop, browser: Browser, tmp_path: Path
) -> None:
    """Those that are ticked go back; a purge does nothing until the queue's name was typed."""
    needed = tmp_path / "paper"
    jobs = [shop.order(f"number {at}", needs=needed) for at in range(2)]
    wait_until(lambda: all(_has_failed(shop, job_id) for job_id in jobs), "the jobs fail")
    needed.touch()
    wait_until(lambda: _letters(shop, jobs[0]) == 1, "the dead letter is seen")
    browser.click("input[name=ids]")
    assert browser.text("[data-needs-chosen]") == "Redrive 1 selected"
    browser.click("[data-needs-chosen]")
    browser.wait_for("1 redriven")
    shop.open(f"/jobs/{jobs[0]}")
    browser.wait_for("complete", "#job .head")
    queue = shop.environment["SQS_DLQ_URL"].rsplit("/", 1)[1]
    for typed, said in (("another", "Nothing was purged"), (queue, "1 purged")):
        wait_until(lambda: _letters(shop, jobs[1]) == 1, "it is seen again")
        browser.click("details.act summary")
        browser.type("[name=queue]", typed)
        browser.click("details[open] .sheet button")
        browser.wait_for(said)


def test_hostile_data_is_shown_as_text(shop: Shop, browser: Browser, tmp_path: Path) -> None:
    """HTML or a script in a job's data, entity or error is shown as text on every page."""
    job_id = shop.order(HOSTILE, entity=HOSTILE, needs=tmp_path / HOSTILE.replace("/", "-"))
    wait_until(lambda: _has_failed(shop, job_id), "the job fails")
    wait_until(lambda: _letters(shop, job_id) == 1, "the dead letter is seen")
    letter = browser.run("return document.querySelector('input[name=ids]').value")
    data = json.dumps(HOSTILE)
    shown = {f"/jobs/{job_id}": data, "/jobs": HOSTILE, f"/dead-letters/{letter}": data}
    for path, text in {**shown, f"/dead-letters?job={job_id}": "onerror"}.items():
        shop.open(path)
        browser.wait_for(text)
        assert browser.run("return [window.owned, document.querySelectorAll('img').length]") == [None, 0]


def test_every_page_can_be_used_by_everybody(shop: Shop, browser: Browser, tmp_path: Path) -> None:
    """axe-core finds nothing in light and dark, and at 360 pixels nothing is wider than the screen."""
    job_id = shop.order("one two", needs=tmp_path / "paper")
    wait_until(lambda: _has_failed(shop, job_id), "the job fails")
    wait_until(lambda: _letters(shop, job_id) == 1, "the dead letter is seen")
    letter = browser.run("return document.querySelector('input[name=ids]').value")
    found = []
    for path in (*PAGES, f"/jobs/{job_id}", f"/dead-letters/{letter}", "/jobs/unknown"):
        for scheme, width in (("light", 1280), ("dark", 360)):
            browser.prefer(scheme)
            browser.resize(width, 800)
            shop.open(path)
            found += [f"{path} {scheme} {width}: {fault}" for fault in _faults(browser)]
            if browser.run("return document.documentElement.scrollWidth") > width:
                found.append(f"{path} is wider than {width}")
    # A page that is not there is a failed request to the browser.
    assert all("404" in said for said in browser.complaints())
    assert found == []


def test_the_keyboard_reaches_everything(shop: Shop, browser: Browser) -> None:
    """Tab goes from the link to the content through all that can be used, in the order it is seen."""
    shop.open("/submit")
    reached = []
    for _ in range(10):
        browser.press("\ue004")
        reached.append(browser.run("return document.activeElement.name || document.activeElement.innerText"))
    service = shop.environment["SERVICE_NAME"]
    pages = ["Pipeline", "Jobs", "Dead letters", "Submit"]
    assert reached == ["To the content", service, *pages, "start", "data", "entity_id", "Submit"]


def test_a_service_that_is_away_is_told_and_a_page_may_be_read_only(
    shop: Shop, browser: Browser, tmp_path: Path
) -> None:
    """Without Kafka and DynamoDB the page says so, and shows the rest; WEB_READ_ONLY leaves no button."""
    away = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:1"}
    (tmp_path / "shop.py").write_text(SHOP)
    with children() as started:
        url = start_page(started, tmp_path, {**shop.environment, **away, "WEB_READ_ONLY": "true"}, "away")
        browser.open(url)
        browser.wait_for("Kafka does not answer")
        browser.wait_for("DynamoDB does not answer")
        browser.wait_for("available", ".node.queue")
        browser.open(f"{url}/jobs")
        browser.wait_for("DynamoDB does not answer")
        browser.open(f"{url}/dead-letters")
        browser.wait_for("Kafka does not answer")
        assert browser.run("return document.querySelectorAll('form[method=post] button').length") == 0
        browser.open(f"{url}/submit")
        browser.wait_for("WEB_READ_ONLY is true")


def test_nobody_looks_without_the_password(shop: Shop) -> None:
    """A browser is asked for WEB_TOKEN, on a page that is as well kept as the others."""
    asked = urllib.request.Request(f"{shop.url}/jobs", headers={"Accept": "text/html"})  # noqa: S310
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=10)  # noqa: S310
    with refused.value as error:
        assert error.code == 401
        assert error.headers["WWW-Authenticate"].startswith("Basic")
        assert "default-src 'self'" in error.headers["Content-Security-Policy"]
        assert "password" in error.read().decode()


def _has_failed(shop: Shop, job_id: str) -> bool:
    shop.open(f"/jobs/{job_id}")
    return "failed" in shop.browser.text("#job .head .tag")


def _letters(shop: Shop, job_id: str) -> int:
    """How many dead letters of a job its page of them shows."""
    shop.open(f"/dead-letters?job={job_id[:8]}")
    return int(shop.browser.run("return document.querySelectorAll('input[name=ids]').length"))


def _faults(browser: Browser) -> list[str]:
    browser.run(AXE.read_text())
    found = browser.run_async("const done = arguments[0]; axe.run().then(({violations}) => done(violations))")
    return [f"{each['id']}: {[node['html'] for node in each['nodes']]}" for each in found]
