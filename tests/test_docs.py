"""What the README and the pages beside it say is true: commands, options, links, versions."""

import re
import shlex

import pytest
import typer
import yaml
from served import ROOT

import anomaly
from anomaly import backbones, cli, detectors, synthetic, thresholds, ui

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.ipynb")])
VERBS = typer.main.get_command(cli.app).commands
SPACE_COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
FORBIDDEN = re.compile(r"/work\b|/root\b|/tmp\b|/home/|\.\./shared|file://|\bTODO\b|\bpypi\.org", re.IGNORECASE)
VALUES = {
    "--rule": thresholds.RULES,
    "--detector": detectors.names(),
    "--backbone": tuple(backbones.RECIPES),
}


def commands(text: str) -> list[str]:
    """Lines of shell blocks that call us, continued lines joined, comments and further commands cut off."""
    blocks = re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if re.match(r"python (-m anomaly|app\.py)(\s|$)", line.strip())]


def refused(command: str) -> Exception | None:
    """What the program would say against the options of a command; nothing is run."""
    words = shlex.split(command, comments=True)
    try:
        if words[1] == "app.py":
            ui.arguments(words[2:])
        else:
            VERBS[words[3]].make_context(words[3], words[4:])
    except (Exception, SystemExit) as error:  # the option parsers have no common one
        return error
    return None


COMMANDS = [command for page in PAGES if page.suffix == ".md" for command in commands(page.read_text("utf-8"))]


def test_the_check_of_commands_would_notice_a_wrong_one():
    assert refused("python -m anomaly train --data photos --category nut") is None
    assert refused("python -m anomaly train --data photos") is not None
    assert refused("python -m anomaly train --data photos --category nut --fast") is not None
    assert refused("python -m anomaly learn --data photos") is not None
    assert refused("python -m anomaly synth out --train many") is not None
    assert refused("python app.py --prot 7861") is not None
    assert commands("```bash\npython -m anomaly list \\\n  --json  # all\n```\n") == [
        "python -m anomaly list    --json  # all"
    ]


def test_the_readme_shows_commands():
    shown = {shlex.split(command)[3] for command in COMMANDS if "-m anomaly" in command}
    assert {"synth", "train", "calibrate", "evaluate", "inspect", "list", "pretrain"} <= shown
    assert any(command.startswith("python app.py") for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_docs_parses(command):
    error = refused(command)
    assert error is None, f"{command}: {error}"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_docs_names_what_exists(command):
    words = shlex.split(command, comments=True)
    for option, value in zip(words, words[1:]):
        assert value in VALUES.get(option, (value,)), f"{command}: {option} {value}"
    if "synth" in words and "--category" in words:
        assert words[words.index("--category") + 1] in synthetic.PRODUCTS


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_in_the_command_table_with_its_options(verb):
    row = re.search(rf"^\| `{verb}[ `].*$", README, re.MULTILINE)
    assert row, f"README has no row for {verb}"
    # --runs and --thresholds are told once, over the table.
    own = {opt for p in VERBS[verb].params for opt in p.opts if opt.startswith("--")} - {"--runs", "--thresholds"}
    told = set(re.findall(r"--[a-z-]+", row[0]))
    assert told == own - {"--help"}


def test_every_other_verb_takes_runs_and_thresholds():
    without = {v for v in VERBS if not {"--runs", "--thresholds"} <= {o for p in VERBS[v].params for o in p.opts}}
    assert without == {"synth", "pretrain", "check", "classify", "passwd", "record", "review"}  # as the README says


@pytest.mark.parametrize("option", ["--host", "--port", "--share", "--auth", "--runs", "--thresholds"])
def test_an_option_of_the_app_is_told(option):
    assert option in README.split("## Teach it a product")[0]


@pytest.mark.parametrize("rule", thresholds.RULES)
def test_a_rule_is_explained(rule):
    assert f"\n| `{rule}` |" in README


@pytest.mark.parametrize("name", detectors.names())
def test_a_detector_is_explained(name):
    assert f"**`{name}`**" in README


@pytest.mark.parametrize("name", backbones.RECIPES)
def test_a_backbone_is_named(name):
    assert name in README


def test_the_readme_begins_as_a_valid_space():
    opening, matter, _ = README.split("---\n", 2)
    assert opening == ""
    space = yaml.safe_load(matter)
    assert space["sdk"] == "gradio"
    assert f"gradio=={space['sdk_version']}\n" in (ROOT / "requirements.txt").read_text()
    assert (ROOT / space["app_file"]).is_file()
    assert isinstance(space["python_version"], str) and space["python_version"] in ("3.10", "3.11", "3.12", "3.13")
    assert {space["colorFrom"], space["colorTo"]} <= SPACE_COLOURS
    assert space["license"] == "mit" and space["pinned"] is False
    assert space["title"] and space["emoji"]


def test_the_readme_shows_the_page_and_the_two_commands_first():
    start = README.split("---\n", 2)[2].split("\n## ")[0]
    places = [start.index(text) for text in ("\n# ", "](docs/screenshot.png)", "make demo", "make test")]
    assert places == sorted(places)


@pytest.mark.parametrize("target", ["demo", "test", "setup", "lint"])
def test_a_make_target_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_ci_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().rstrip().endswith("\nmake test")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"https?:|#|mailto:", target):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_speaks_of_nothing_outside_of_the_project(page):
    assert FORBIDDEN.findall(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_table_is_left_empty(page):
    places = re.findall(r"<!-- TABLE:(\w+) -->\n*(.?)", page.read_text(encoding="utf-8"))
    assert [name for name, first in places if first != "|"] == []


def test_the_newest_change_is_this_version():
    newest = re.search(r"^## (\S+) - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == anomaly.__version__


def test_every_package_of_the_list_has_its_reason():
    listed = re.findall(r"^([A-Za-z0-9_-]+)[=<>]", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    reasons = (ROOT / "docs" / "architecture.md").read_text().split("## Dependencies")[1]
    assert [name for name in listed if name not in reasons] == []
