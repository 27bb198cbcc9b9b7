"""The page at / in a real Chromium, against a real server: what it draws agrees with the numbers that came."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from server.api_schemas import shown
from tests.server.conftest import KEY, Serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Response

pytestmark = [pytest.mark.engine, pytest.mark.slow]

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WAIT_MS = 60_000
# The test's own eyes in the page: the page's policy forbids only what the page itself would evaluate.
ROWS = """rows => rows.map(row => {
    const cells = [...row.cells], bar = row.querySelector(".bar"), box = row.getBoundingClientRect();
    return {
        particle: Number(row.dataset.particle), chosen: row.classList.contains("chosen"),
        share: bar.firstChild.getBoundingClientRect().width / bar.getBoundingClientRect().width,
        weight: cells[2].textContent, log_weight: cells[3].textContent, finish_reason: cells[4].textContent,
        text: cells[5].textContent, middle: box.top + box.height / 2,
    };
})"""
PATHS = "paths => paths.map(path => ({...path.dataset, dead: path.classList.contains('dead')}))"
TIPS = """tips => tips.map(tip => { const box = tip.getBoundingClientRect(); return box.top + box.height / 2; })"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """The page, opened as a person with the key does, and all that it asked for and complained about."""

    def __init__(self, browser: Browser, serving: Serving) -> None:
        credentials = {"username": "anybody", "password": KEY, "origin": serving.url}
        self.page: Page = browser.new_context(
            http_credentials=credentials, viewport={"width": 1400, "height": 900}
        ).new_page()  # type: ignore[arg-type]
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None,
        )
        opened = self.page.goto(serving.url + "/")
        assert opened is not None and opened.status == 200
        self.policy = opened.headers["content-security-policy"]
        self.page.wait_for_selector("#model option", state="attached")

    def ask(self, **form: str) -> None:
        """Fill the form in: fields by their id, and `mode`."""
        if mode := form.pop("mode", None):
            self.page.check(f"[name=mode][value={mode}]")
        for name in ("kind", "reward", "partial_reward", "debias"):
            if name in form:
                self.page.select_option(f"#{name}", form.pop(name))
        for field, value in form.items():
            self.page.fill(f"#{field}", value)

    def run(self) -> Response:
        """Run the form; returns the server's answer once it is whole."""
        with self.page.expect_response(
            lambda response: "/v1/" in response.url and "completions" in response.url
        ) as got:
            self.page.click("#run")
        got.value.finished()
        self.page.wait_for_selector("#run:text-is('Run')", timeout=WAIT_MS)
        return got.value


@pytest.fixture
def visit(browser: Browser, serving: Serving) -> Iterator[Visit]:
    made = Visit(browser, serving)
    yield made
    made.page.context.close()
    outside = [url for url in made.asked if not url.startswith((serving.url + "/", "data:"))]
    assert not outside, f"the page asked elsewhere: {outside}"


def events(response: Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text().splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def survivors(ancestry: list[tuple[int, list[int]]], total: int) -> dict[int, set[int]]:
    """step of a resampling -> the slots after it from which a particle of the end descends."""
    alive, found = set(range(total)), {}
    for step, parents in reversed(ancestry):
        found[step] = alive
        alive = {parents[child] for child in alive}
    return found


def number(text: str) -> float:
    return float(text.replace("−", "-").removesuffix(" %"))


def test_page_draws_the_particles_weights_and_ancestry_that_came(visit: Visit) -> None:
    visit.ask(mode="chat", prompt="Give me a person.", kind="json_schema", spec=json.dumps(SCHEMA))
    visit.ask(particles="8", seed="3", max_tokens="48", temperature="1.2", ess_threshold="0.9")
    code = visit.page.inner_text("#code")
    response = visit.run()
    *_, last = (event for event in events(response) if event["choices"] and event["choices"][0]["finish_reason"])
    (choice,) = last["choices"]
    particles, total = choice["particles"], 8
    assert len(particles) == total and choice["ancestry"], "this seed resamples"

    rows = visit.page.eval_on_selector_all("#rows tr", ROWS)
    most = max(*(one["weight"] for one in particles), 1 / total)
    assert [row["particle"] for row in rows] == list(range(total))
    for row, one in zip(rows, particles, strict=True):
        assert row["share"] == pytest.approx(one["weight"] / most, abs=0.01)
        assert number(row["weight"]) == pytest.approx(100 * one["weight"], abs=0.051)
        if one["log_weight"] is None:
            assert row["log_weight"] == "−∞"
        else:
            assert number(row["log_weight"]) == pytest.approx(one["log_weight"], abs=0.00051)
        assert (row["finish_reason"], row["text"]) == (one["finish_reason"], one["text"])
    (chosen,) = (row["particle"] for row in rows if row["chosen"])
    assert visit.page.text_content("#answer") == particles[chosen]["text"]
    assert particles[chosen]["log_weight"] == choice["log_weight"]

    paths = visit.page.eval_on_selector_all("#ancestry path[data-child]", PATHS)
    told = {(step, parent, child) for step, parents in choice["ancestry"] for child, parent in enumerate(parents)}
    assert len(paths) == len(told)
    assert {(int(p["step"]), int(p["parent"]), int(p["child"])) for p in paths} == told
    alive = survivors(choice["ancestry"], total)
    assert all(path["dead"] == (int(path["child"]) not in alive[int(path["step"])]) for path in paths)
    slots = [chosen]
    for _, parents in reversed(choice["ancestry"]):
        slots.insert(0, parents[slots[0]])
    assert visit.page.get_attribute("#lineage path", "data-lineage") == " ".join(map(str, slots))
    ends = visit.page.eval_on_selector_all("#ancestry [data-tip]", TIPS)
    assert ends == pytest.approx([row["middle"] for row in rows], abs=1.5), "every line ends beside its row"

    points = (visit.page.get_attribute("#ess .curve", "points") or "").split()
    heights = [float(point.split(",")[1]) for point in points]
    history = [float(total), *choice["ess_history"]]
    unit = (heights[0] - heights[history.index(min(history))]) / (total - min(history))
    assert heights == pytest.approx([heights[0] - unit * (total - ess) for ess in history], abs=0.02)
    flags = visit.page.eval_on_selector_all(
        "#ess [data-resampled]", "all => all.map(one => Number(one.dataset.resampled))"
    )
    assert flags == [step for step, _ in choice["ancestry"]]

    values = visit.page.eval_on_selector_all("#numbers .value", "all => all.map(one => one.textContent)")
    assert [number(value) for value in values] == pytest.approx(
        [last["log_z"], last["ess"], choice["log_weight"], last["usage"]["sampled_tokens"]], abs=0.0051
    )
    mass: dict[str, float] = {}
    for one in particles:
        mass[one["text"]] = mass.get(one["text"], 0.0) + one["weight"]
    texts = visit.page.eval_on_selector_all(
        "#posterior li", "all => all.map(one => [one.children[2].textContent, one.children[0].textContent])"
    )
    drawn = {text: number(share) for text, share in texts}
    assert drawn == pytest.approx({text: 100 * weight for text, weight in mass.items() if weight > 0}, abs=0.051)

    assert response.request.post_data_json["reweigh"]["constraint"] == {"json_schema": SCHEMA}
    for part in ('"particles": 8', '"ess_threshold": 0.9', "seed=3", "max_tokens=48", "temperature=1.2", KEY):
        assert (part in code) == (part != KEY)
    assert visit.complaints == []


def test_page_selects_by_a_reward(visit: Visit) -> None:
    offered = visit.page.eval_on_selector_all("#reward option", "all => all.map(one => one.value)")
    assert offered[0] == "" and {"short", "itself", "mean_logprob", "self_certainty"} <= set(offered)
    assert visit.page.is_hidden("#select_temperature")
    visit.ask(mode="completion", prompt="Count: ", kind="regex", spec="[0-9]( [0-9]){2,12}", reward="short")
    visit.ask(partial_reward="few_zeros")
    visit.ask(particles="6", seed="2", max_tokens="40", select_temperature="0")
    code = visit.page.text_content("#code") or ""
    assert '"best_of": {"reward": "short", "temperature": 0}' in code and '"partial_reward": "few_zeros"' in code
    (choice,) = (c for event in events(visit.run()) for c in event["choices"] if c["finish_reason"])
    rewards = [one["reward"] for one in choice["particles"]]
    assert rewards == [-len(one["text"]) for one in choice["particles"]]
    shown = visit.page.eval_on_selector_all("#rows tr", "rows => rows.map(row => row.cells[4].textContent)")
    assert [number(reward) for reward in shown] == rewards
    assert len(visit.page.text_content("#answer") or "") == -max(rewards), "at temperature 0 the best one wins"
    visit.page.click("#tab-python")
    compile(visit.page.text_content("#code") or "", "reward", "exec")
    assert visit.complaints == []


def test_page_steers_and_says_what_it_cost(visit: Visit) -> None:
    assert visit.page.is_hidden("#steering-hint") and visit.page.is_hidden("#signal-field")
    visit.ask(
        mode="completion", prompt="The nurse was tired because", kind="none", particles="6", seed="3", max_tokens="12"
    )
    assert '"detox"' not in (visit.page.text_content("#code") or "")
    visit.ask(detox="0.5", debias="gender race religion")
    assert visit.page.is_visible("#steering-hint")
    code = visit.page.text_content("#code") or ""
    visit.page.select_option("#signal", "loud")
    assert '"signal": "loud"' in (visit.page.text_content("#code") or "")
    visit.page.select_option("#signal", "")
    assert '"detox": 0.5' in code and '"debias": ["gender", "race", "religion"]' in code
    (choice,) = (c for event in events(visit.run()) for c in event["choices"] if c["finish_reason"])
    told = choice["adaptation"]
    numbers = visit.page.text_content("#numbers") or ""
    assert told["kl"] > 0.01, "the next word after a nurse's is balanced"
    assert f"{told['kl']:.3f} nats" in numbers
    assert f"at {sum(nats > 0 for nats in told['kl_tokens'])} of {len(told['kl_tokens'])} tokens" in numbers
    assert sum(told["group_shares"]["gender"].values()) == pytest.approx(1.0) and "female" in numbers
    visit.page.click("#tab-python")
    code = visit.page.text_content("#code") or ""
    compile(code, "steering", "exec")
    assert "detox=0.5" in code and 'debias=["gender", "race", "religion"]' in code
    visit.ask(detox="11")
    response = visit.run()
    assert response.status == 400 and visit.page.get_attribute("#detox", "aria-invalid") == "true"
    assert [said for said in visit.complaints if "status of 400" not in said] == []


def test_page_streams_one_particle_as_it_is_made(visit: Visit) -> None:
    visit.ask(mode="completion", prompt="Digits: ", kind="regex", spec="[0-9]( [0-9]){15}")
    visit.ask(particles="1", seed="1", max_tokens="40")
    visit.page.evaluate(
        """() => { window.seen = []; new MutationObserver(() => seen.push(document.getElementById("answer").textContent))
            .observe(document.getElementById("answer"), {childList: true}); }"""
    )
    response = visit.run()
    text = "".join(event["choices"][0]["text"] for event in events(response) if event["choices"])
    seen = visit.page.evaluate("seen")
    assert visit.page.text_content("#answer") == text and len(text) == 31
    assert len(set(seen)) > 8 and all(text.startswith(one) for one in seen), "text grows and is never taken back"
    assert sorted(seen, key=len) == seen
    assert visit.page.is_hidden("#panel-block") and visit.complaints == []


def test_page_shows_what_the_server_says_of_a_bad_pattern(visit: Visit) -> None:
    visit.ask(mode="completion", prompt="A date: ", kind="regex", spec="(<img src=x onerror=alert(1)>")
    response = visit.run()
    error = response.json()["error"]
    assert response.status == 400 and error["param"] == "reweigh.constraint"
    assert visit.page.text_content("#error-message") == error["message"]
    assert error["param"] in (visit.page.text_content("#error-param") or "")
    assert visit.page.get_attribute("#spec", "aria-invalid") == "true"
    assert visit.page.query_selector("img") is None
    # Chromium itself notes every answer that is no success; nothing else may be said.
    assert [said for said in visit.complaints if "status of 400" not in said] == []


def test_page_may_run_only_its_own_script_and_names_what_the_operator_has_set_up(visit: Visit) -> None:
    assert "default-src 'none'" in visit.policy and "unsafe" not in visit.policy
    options = "all => all.map(one => one.value)"
    visit.ask(kind="named")
    named = visit.page.eval_on_selector_all("#name option", options)
    assert {"even", "hangs", "raises"} <= set(named) and "shop" not in named
    visit.ask(kind="sql")
    assert visit.page.eval_on_selector_all("#name option", options) == ["shop"]


def test_page_writes_code_that_is_python_and_sends_what_the_form_sends(visit: Visit) -> None:
    visit.ask(mode="chat", prompt='He said "a\\b"\nand left.', kind="lark", spec='start: "a" /[^"\\\\]+/\n')
    for kind in ("json_schema", "regex", "choice", "lark", "sql", "named", "none"):
        visit.ask(kind=kind)
        for name in ("client", "python"):
            visit.page.click(f"#tab-{name}")
            compile(visit.page.text_content("#code") or "", f"{kind}-{name}", "exec")
    visit.page.click("#tab-python")
    visit.ask(kind="json_schema")
    instruction = shown({}).splitlines()[0]
    assert instruction in (visit.page.text_content("#code") or ""), (
        "the model is told the same with and without a server"
    )
    visit.page.click("#tab-curl")
    visit.ask(kind="lark")
    command = visit.page.text_content("#code") or ""
    body = re.search(r"<<'EOF'\n(.*)\nEOF", command, re.DOTALL)
    assert body is not None and KEY not in command
    sent = json.loads(body.group(1))
    assert sent["reweigh"]["constraint"] == {"lark": 'start: "a" /[^"\\\\]+/\n'}
    assert sent["messages"] == [{"role": "user", "content": 'He said "a\\b"\nand left.'}]
    assert visit.complaints == []
